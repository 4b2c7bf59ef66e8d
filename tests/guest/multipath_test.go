package guest

import (
	"strings"
	"testing"
)

// TestMultipath runs the tests of storage/multipath that need a kernel and a target: maps of loopback disks of
// the kernel's own target, whose paths are cut and mended.
func TestMultipath(t *testing.T) {
	modules := []string{"loop", "dm_mod", "dm_multipath", "dm_service_time", "dm_delay", "sd_mod", "target_core_mod", "target_core_iblock", "tcm_loop"}
	console := boot(t, modules, "github.com/skein-os/skein/storage/multipath", "-test.v", "-test.run=LIO")
	for _, want := range []string{"TestLIOPaths", "TestLIOQueueEnds", "TestLIOALUA", "TestLIOFence", "TestLIODrain"} {
		if !strings.Contains(console, "--- PASS: "+want) {
			t.Errorf("%s did not pass in the guest", want)
		}
	}
}
