package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes a sysfs: names with "->" in the value are links.
func tree(t *testing.T, files map[string]string) Sys {
	t.Helper()
	s := Sys{Root: t.TempDir(), Dev: t.TempDir()}
	for name, v := range files {
		p := filepath.Join(s.Root, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		if err == nil {
			if to, ok := strings.CutPrefix(v, "->"); ok {
				err = os.Symlink(filepath.Join(s.Root, to), p)
			} else {
				err = os.WriteFile(p, []byte(v), 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func scsi(files map[string]string, name, dev, place, hctl, wwid, sectors string) {
	d := place + "/" + hctl
	for k, v := range map[string]string{
		d + "/wwid": wwid + "\n", d + "/vendor": "LIO-ORG \n", d + "/model": "disk            \n", d + "/state": "running\n",
		d + "/vpd_pg80": "\x00\x80\x00\x04ab12", d + "/rescan": "", d + "/delete": "",
		d + "/block/" + name + "/dev": dev + "\n", d + "/block/" + name + "/size": sectors + "\n",
		d + "/block/" + name + "/queue/logical_block_size": "512\n", d + "/block/" + name + "/device": "->" + d,
		"class/block/" + name: "->" + d + "/block/" + name, "bus/scsi/devices/" + hctl: "->" + d,
	} {
		files[k] = v
	}
}

func sample() map[string]string {
	f := map[string]string{
		"class/iscsi_session/session1/targetname": "iqn.2026-01.dev.skein:lab\n", "class/iscsi_session/session2/targetname": "iqn.2026-01.dev.skein:lab\n",
		"class/iscsi_connection/connection1:0/persistent_address": "10.0.1.9\n", "class/iscsi_connection/connection1:0/persistent_port": "3260\n",
		"class/iscsi_connection/connection2:0/persistent_address": "fd00::9\n", "class/iscsi_connection/connection2:0/persistent_port": "3260\n",
		"class/fc_transport/target5:0:0/port_name": "0x500a\n", "class/scsi_host/host2/scan": "",
		"class/block/sda1": "->nowhere", "class/block/loop0": "->nowhere",
		"devices/v/virtio1/block/vda/dev": "254:0\n", "devices/v/virtio1/block/vda/size": "8\n", "devices/v/virtio1/block/vda/serial": "root\n",
		"devices/v/virtio1/block/vda/queue/logical_block_size": "4096\n", "class/block/vda": "->devices/v/virtio1/block/vda",
	}
	scsi(f, "sda", "8:0", "devices/platform/host2/session1/target2:0:0", "2:0:0:0", "naa.6001", "2048")
	scsi(f, "sdb", "8:16", "devices/platform/host3/session2/target3:0:0", "3:0:0:0", "naa.6001", "1024")
	scsi(f, "sdc", "8:32", "devices/pci0/host5/rport-5:0-1/target5:0:0", "5:0:0:1", "t10.X  Y", "16")
	scsi(f, "sdd", "8:48", "devices/pci0/host6/port-6:0/end_device-6:0/target6:0:0", "6:0:0:0", "", "16")
	scsi(f, "sde", "8:64", "devices/pci0/host6/port-6:1/end_device-6:1/target6:0:1", "6:0:1:0", "", "16")
	return f
}

func TestScan(t *testing.T) {
	got, err := tree(t, sample()).Scan()
	if err != nil {
		t.Fatal(err)
	}
	const iqn = "iqn.2026-01.dev.skein:lab"
	d := Disk{Serial: "ab12", Vendor: "LIO-ORG", Model: "disk", BlockSize: 512}
	disk := func(wwn string, size int64, paths ...Path) Disk {
		d := d
		d.WWN, d.Size, d.Paths = wwn, size, paths
		return d
	}
	want := []Disk{
		disk("", 8192, Path{"sdd", "8:48", "6:0:0:0", "sas", "", "", "running", "", 8192}),
		disk("", 8192, Path{"sde", "8:64", "6:0:1:0", "sas", "", "", "running", "", 8192}),
		disk("naa.6001", 1024*512,
			Path{"sda", "8:0", "2:0:0:0", "iscsi", "10.0.1.9:3260", iqn, "running", "naa.6001", 2048 * 512},
			Path{"sdb", "8:16", "3:0:0:0", "iscsi", "[fd00::9]:3260", iqn, "running", "naa.6001", 1024 * 512}),
		disk("t10.X_Y", 8192, Path{"sdc", "8:32", "5:0:0:1", "fc", "", "0x500a", "running", "t10.X_Y", 8192}),
		{WWN: "virtio.root", Serial: "root", Vendor: "virtio", Size: 4096, BlockSize: 4096, Paths: []Path{{"vda", "254:0", "", "virtio", "", "", "running", "virtio.root", 4096}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("want -, got +:\n" + diff)
	}
}

func TestChange(t *testing.T) {
	const at = "devices/platform/host2/session1/target2:0:0/2:0:0:0"
	p := Path{Name: "sda", Dev: "8:0", HCTL: "2:0:0:0", WWN: "naa.6001"}
	file := func(s Sys, name string) string { return optional(s.Root, name) }
	t.Run("another LUN under the name", func(t *testing.T) {
		f := sample()
		f[at+"/wwid"] = "naa.6002\n"
		s := tree(t, f)
		if err := s.Remove(p); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "naa.6002") || file(s, at+"/delete") != "" {
			t.Errorf("remove: got %v", err)
		}
		if _, err := s.Rescan(p); !errors.Is(err, ErrChanged) || file(s, at+"/rescan") != "" {
			t.Errorf("rescan: got %v", err)
		}
	})
	t.Run("held", func(t *testing.T) {
		f := sample()
		f[at+"/block/sda/holders/dm-3"] = ""
		s := tree(t, f)
		if err := s.Remove(p); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "dm-3") || file(s, at+"/delete") != "" {
			t.Errorf("got %v, want %v naming dm-3", err, ErrBusy)
		}
	})
	t.Run("no identity", func(t *testing.T) {
		if err := tree(t, sample()).Remove(Path{Name: "sdd", Dev: "8:48", HCTL: "6:0:0:0"}); !errors.Is(err, ErrChanged) {
			t.Errorf("got %v, want %v", err, ErrChanged)
		}
	})
	t.Run("as meant", func(t *testing.T) {
		s := tree(t, sample())
		got, err := s.Rescan(p)
		if err != nil || got.Size != 2048*512 || file(s, at+"/rescan") != "1" {
			t.Errorf("rescan: got %+v, %v", got, err)
		}
		if err := s.Remove(p); err != nil || file(s, at+"/delete") != "1" {
			t.Errorf("remove: got %v", err)
		}
		if err := s.Remove(Path{Name: "sdz", HCTL: "9:0:0:0", WWN: "naa.1"}); err != nil {
			t.Errorf("remove what is gone: got %v", err)
		}
		if err := s.ScanHost(2, 7); err != nil || file(s, "class/scsi_host/host2/scan") != "- - 7" {
			t.Errorf("scan: got %v", err)
		}
		if err := s.ScanHost(4, -1); err == nil {
			t.Error("scan of a host that is not there: got no error")
		}
	})
}

func FuzzEvent(f *testing.F) {
	f.Add([]byte("change@/devices/x\x00SUBSYSTEM=scsi\x00SDEV_UA=CAPACITY_DATA_HAS_CHANGED\x00"))
	f.Add([]byte("libudev\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := parseEvent(b); ok && (e.Action == "" || e.Path == "") {
			t.Errorf("got %+v", e)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Watch(ctx, func(Event) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
