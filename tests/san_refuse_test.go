package tests

import (
	"crypto/sha256"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/san"
)

// beginning is the hash of the first bytes of a LUN, as the host sees them: where a file system's superblock and tables are.
func (l *labTest) beginning(lun int) (sum [sha256.Size]byte) {
	l.t.Helper()
	f, err := os.Open(filepath.Join(l.dir, "lab", "san", san.DiskSerial(lun)+".img"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, f, 16<<20); err != nil {
		l.t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// refused runs skein with what must be refused, with words that the refusal must have.
func (l *labTest) refused(words []string, args ...string) {
	l.t.Helper()
	out, err := l.try(3*time.Minute, args...)
	if err == nil {
		l.t.Errorf("skein %s: was done, and must be refused; it says %q", strings.Join(args, " "), out)
		return
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			l.t.Errorf("skein %s: refused with %q, want %q in it", strings.Join(args, " "), out, w)
		}
	}
}

// TestStorageRefuses has an array ask for a password, forget how to reserve, take a LUN away, make one smaller; a volume
// is filled; a disk holds data, or is another cluster's. Each is said, and nothing on a disk is touched for it.
func TestStorageRefuses(t *testing.T) {
	l := newLab(t)
	up := []string{"lab", "up", "--image", os.Getenv("SKEIN_IMAGE_DIR"), "--san=64M,400M,400M,400M"}
	l.run(up...)
	l.run("image", "load", filepath.Join(os.Getenv("SKEIN_DEMO_DIR"), "reports.tar"))

	// A wrong CHAP secret, then the right one.
	secret := func(name, text string) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	right, wrong := secret("right", "right-secret-1"), secret("wrong", "wrong-secret-2")
	l.run("lab", "san", "chap", "--user", "skein", "--secret-file", right)
	l.run("lab", "san", "restart")
	add := func(file string) []string {
		args := []string{"san", "add", "main", "--iqn", san.Target, "--user", "skein", "--secret-file", file}
		for lan := range qemu.LANs {
			args = append(args, "--portal", netip.AddrPortFrom(qemu.Addr(lan, san.Number), san.Port).String())
		}
		return args
	}
	l.run(add(wrong)...)
	var said string
	l.until("the wrong secret is said", func() bool {
		said = l.run("san", "ls")
		return strings.Count(said, "0 of 3") == qemu.LANs && strings.Contains(said, "refused the CHAP user or secret")
	})
	t.Log(said)
	if everything := said + l.run("events") + l.run("san", "ls", "-o", "json"); strings.Contains(everything, "wrong-secret-2") {
		t.Error("the secret is shown")
	}
	l.run(add(right)...)
	l.until("the right secret lets all in", func() bool { return strings.Count(l.run("san", "ls"), "3 of 3") == qemu.LANs })

	// A LUN that cannot reserve.
	l.run("lab", "san", "reservations", "deny", "2")
	l.until("sessions are back", func() bool { return strings.Count(l.run("san", "ls"), "3 of 3") == qemu.LANs })
	before := l.beginning(2)
	if out, _ := l.try(2*time.Minute, "disk", "enrol", san.WWN(2), "--alias", "cheap", "--yes"); !strings.Contains(out, "not fast-fenced, because") {
		t.Errorf("enrol a LUN without reservations: got %q", out)
	} else {
		t.Log(out)
	}
	l.refused([]string{"cannot keep a lost node from writing", "no persistent reservations"}, "volume", "create", "never", "--disk", san.WWN(2))
	if l.beginning(2) != before {
		t.Error("a LUN that failed its self-test was written to")
	}

	// A LUN that holds something.
	l.run("disk", "enrol", san.WWN(3), "--alias", "old", "--yes")
	l.run("volume", "create", "old", "--disk", "old")
	l.run("volume", "rm", "old")
	before = l.beginning(3)
	l.refused([]string{"holds ext4", "nothing was touched"}, "volume", "create", "new", "--disk", "old")
	if l.beginning(3) != before {
		t.Error("a LUN that holds something was written to")
	}

	// A volume that is full: its service is told, and goes on when there is room.
	l.run("disk", "enrol", san.WWN(1), "--alias", "a", "--yes")
	l.run("volume", "create", "numbers", "--disk", "a")
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte(counterCompose), 0o600); err != nil {
		t.Fatal(err)
	}
	l.run("deploy", "-f", file, "san")
	l.counts(10)
	if out, err := l.try(5*time.Minute, "exec", "counter", "--", "/usr/bin/busybox", "dd", "if=/dev/zero", "of=/data/big", "bs=1M"); err == nil || !strings.Contains(out, "No space left") {
		t.Errorf("fill the volume: got %q, %v", out, err)
	}
	l.run("exec", "counter", "--", "/usr/bin/busybox", "rm", "/data/big")
	_, had := l.counted()
	l.counts(had)

	// A LUN that was made smaller than its file system.
	l.run("lab", "san", "resize", "1", "390M")
	l.refused([]string{"was made smaller", "nothing was done"}, "volume", "grow", "numbers")
	l.run("lab", "san", "resize", "1", "400M")
	_, had = l.counted()
	l.counts(had)

	// A LUN that is gone, and comes back.
	_, had = l.counted()
	l.run("lab", "san", "lun", "withdraw", "1")
	gone := time.Now()
	l.until("it is said that the disk is gone", func() bool {
		said = l.run("ps")
		st, err := l.status()
		return err == nil && l.owner(st, "counter") == "" && strings.Contains(said, "disk a")
	})
	t.Logf("%v without its LUN: %s", time.Since(gone).Round(time.Second), said)
	l.run("lab", "san", "lun", "present", "1")
	l.await("the counter is back", func(st api.Status) bool { return st.Healthy && l.owner(st, "counter") != "" })
	t.Logf("%v after the LUN went the service is back", time.Since(gone).Round(time.Second))
	l.counts(had)
	if first, _ := l.counted(); first < had {
		t.Errorf("the LUN was gone: it had kept %d, and the next began at %d", had, first)
	}

	t.Log(l.run("events"))

	// The same LUN in the eyes of another cluster.
	l.run("lab", "down")
	before = l.beginning(1)
	l.run(up...)
	l.until("the disk is seen", func() bool { return strings.Contains(l.run("disk", "ls"), san.WWN(1)) })
	l.refused([]string{"another cluster"}, "disk", "enrol", san.WWN(1), "--alias", "mine", "--yes")
	l.refused(nil, "volume", "create", "mine", "--disk", san.WWN(1))
	if l.beginning(1) != before {
		t.Error("another cluster's LUN was written to")
	}
}
