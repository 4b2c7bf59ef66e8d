package guest

import (
	"strings"
	"testing"
)

// TestISCSI runs the tests of storage/iscsi that need a target: the kernel's own, to which Debian's iscsid logs in from
// the same machine. The initiator's modules are those of the image.
func TestISCSI(t *testing.T) {
	modules := []string{"loop", "target_core_mod", "target_core_iblock", "iscsi_target_mod"}
	console := boot(t, modules, "github.com/skein-os/skein/storage/iscsi", "-test.v", "-test.run=LIO")
	for _, want := range []string{"TestLIOSessions", "TestLIOCHAP"} {
		if !strings.Contains(console, "--- PASS: "+want) {
			t.Errorf("%s did not pass in the guest", want)
		}
	}
}
