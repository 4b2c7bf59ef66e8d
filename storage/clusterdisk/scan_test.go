package clusterdisk

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestScan(t *testing.T) {
	sys := t.TempDir()
	for path, text := range map[string]string{
		"sda/size": "131072", "sda/device/wwid": "naa.6001405aaaa",
		"sdb/size": "131072", "sdb/device/wwid": "naa.6001405aaaa",
		"dm-0/size": "131072", "dm-0/dm/uuid": "mpath-naa.6001405aaaa",
		"dm-1/size": "131072", "dm-1/dm/uuid": "LVM-xyz",
		"sdc/size": "131071", "sdc/device/wwid": "naa.small",
		"vda/size":     "999999", // no name
		"nvme0n1/size": "131072", "nvme0n1/wwid": "eui.1",
		"sdd/size": "what", "sdd/device/wwid": "naa.odd",
	} {
		p := filepath.Join(sys, "block", path)
		noError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		noError(t, os.WriteFile(p, []byte(text+"\n"), 0o644))
	}
	want := []Candidate{
		{WWN: "eui.1", Paths: []string{"/dev/nvme0n1"}},
		{WWN: "naa.6001405aaaa", Paths: []string{"/dev/sda", "/dev/sdb"}, Map: "/dev/dm-0"},
	}
	got, err := Scan(sys, "/dev")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if got[0].Device() != "/dev/nvme0n1" || got[1].Device() != "/dev/dm-0" {
		t.Errorf("devices %s, %s", got[0].Device(), got[1].Device())
	}
	if got, err := Scan(t.TempDir(), "/dev"); got != nil || err != nil {
		t.Errorf("no disks: got %v, %v", got, err)
	}
}
