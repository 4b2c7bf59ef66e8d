package guest

import (
	"strings"
	"testing"
)

// TestGFS2Alone runs the test of storage/gfs2 on one machine: the kernel's lock manager is driven by Skein.
func TestGFS2Alone(t *testing.T) {
	console := boot(t, []string{"loop"}, "github.com/skein-os/skein/storage/gfs2", "-test.v", "-test.run=GuestAlone")
	if !strings.Contains(console, "--- PASS: TestGuestAlone") {
		t.Error("TestGuestAlone did not pass in the guest")
	}
}
