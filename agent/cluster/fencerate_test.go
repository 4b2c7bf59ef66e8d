package cluster

import (
	"strings"
	"testing"
	"time"
)

func TestFenceRate(t *testing.T) {
	var r FenceRate
	for i := range FenceLeast {
		if why := r.Hold(3); why != "" {
			t.Fatalf("order %d: got %q, want it given", i+1, why)
		}
		r = r.Pass(time.Minute).Note()
	}
	if why := r.Hold(3); !strings.Contains(why, "4 machines were within 10m0s") || !strings.Contains(why, "the next one in 7m0s") {
		t.Errorf("got %q, want the limit and when it ends", why)
	}
	if why := r.Hold(5); why != "" {
		t.Errorf("five members: got %q, want one more", why)
	}
	if why := r.Pass(7 * time.Minute).Hold(3); why == "" {
		t.Error("given a moment too early")
	}
	if why := r.Pass(7*time.Minute + 1).Hold(3); why != "" {
		t.Errorf("when the first is out of the window: got %q", why)
	}
	if got := r.Pass(FenceWindow + 1); len(got.Ago) != 0 {
		t.Errorf("got %v, want it forgotten", got.Ago)
	}
}
