package guest

import (
	"strings"
	"testing"
)

// TestReservations runs the tests of storage/reserve that need a target: the kernel's own, whose disk is
// seen through several iSCSI sessions of the same machine.
func TestReservations(t *testing.T) {
	modules := []string{"loop", "dm_mod", "dm_delay", "sd_mod", "target_core_mod", "target_core_iblock", "iscsi_target_mod", "iscsi_tcp"}
	console := boot(t, modules, "github.com/skein-os/skein/storage/reserve", "-test.v", "-test.run=LIO")
	for _, want := range []string{"TestLIOTakeover", "TestLIOWriteInFlight", "TestLIOPreemptAlone", "TestLIOTimeout", "TestLIORestart", "TestLIOSelfTest"} {
		if !strings.Contains(console, "--- PASS: "+want) {
			t.Errorf("%s did not pass in the guest", want)
		}
	}
}
