package explain

import (
	"testing"
	"time"
)

func TestLater(t *testing.T) {
	for d, want := range map[time.Duration]string{0: " (0s later)", 1234567: " (1ms later)", -time.Millisecond: " (by that node's own clock, which is behind)"} {
		if got := later(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
