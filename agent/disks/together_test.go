package disks

import (
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/reserve"
)

// TestTogether: a disk of a shared file system is used through all of its paths without a key, and is nobody's volume
// meanwhile; a volume's disk is not opened like that.
func TestTogether(t *testing.T) {
	b := newBench(t)
	if device, err := b.Together(t.Context(), wwn); err != nil || device != "/dev/dm-0" {
		t.Fatalf("got %q, %v, want the map", device, err)
	}
	if len(b.dm.up) != 2 || b.dm.up["8:16"] != nil || b.dm.up["8:32"] != nil || len(b.t.keys) != 0 {
		t.Errorf("got paths %v and keys %v, want both paths in and no key", b.dm.up, b.t.keys)
	}
	k := takeover.Key{Node: 1, Epoch: 10}
	if _, _, err := b.Do(t.Context(), vol, takeover.RegisterKey, k, takeover.Key{}); err == nil || !strings.Contains(err.Error(), "shared file system") || len(b.t.keys) != 0 {
		t.Errorf("a claim: got %v and keys %v, want a refusal", err, b.t.keys)
	}
	if _, err := b.Test(t.Context(), wwn, reserve.TestOptions{}); err == nil || !strings.Contains(err.Error(), "shared file system") {
		t.Errorf("a self-test: got %v, want a refusal", err)
	}

	b = newBench(t)
	if got := b.take(t, k); got != takeover.MayWrite {
		t.Fatalf("got %s", got)
	}
	if _, err := b.Together(t.Context(), wwn); err == nil || !strings.Contains(err.Error(), "claimed for a volume") {
		t.Errorf("a volume's disk: got %v, want a refusal", err)
	}
}
