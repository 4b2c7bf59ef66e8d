package modules

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestGuestLoad: everything loads on the node's kernel, and the programs have their libraries.
func TestGuestLoad(t *testing.T) {
	if os.Getenv("SKEIN_BOX") != "/test/box" {
		t.Skip("needs a kernel of its own: runs in the guest of tests/guest")
	}
	if _, err := os.Stat("/sys/module/iscsi_tcp"); err == nil {
		t.Error("iscsi_tcp is loaded before anybody needs it")
	}
	all := slices.Concat(ISCSI, NVMe, Multipath, Ext4, XFS, NFS, GFS2)
	for range 2 { // again: nothing to do
		if err := Load(all...); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range all {
		if _, err := os.Stat("/sys/module/" + m); err != nil {
			t.Errorf("module %s: %v", m, err)
		}
	}
	for _, tool := range [][]string{{"/sbin/iscsid", "-v"}, {"/usr/bin/iscsiadm", "-V"}, {"/sbin/mkfs.xfs", "-V"}, {"/sbin/xfs_repair", "-V"}, {"/sbin/mke2fs", "-V"}, {"/sbin/e2fsck", "-V"}, {"/sbin/resize2fs"},
		{"/sbin/mkfs.gfs2", "-V"}, {"/sbin/fsck.gfs2", "-V"}, {"/sbin/gfs2_grow", "-V"}, {"/sbin/gfs2_jadd", "-V"}} {
		out, err := exec.Command(tool[0], tool[1:]...).CombinedOutput()
		t.Logf("%v: %v: %s", tool, err, out)
		if _, ran := err.(*exec.ExitError); err != nil && !ran || strings.Contains(string(out), "shared libraries") {
			t.Errorf("%v does not run: %v: %s", tool, err, out)
		}
	}
}
