package workload

import (
	"reflect"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func TestVolumes(t *testing.T) {
	const head = "services:\n  db:\n    image: a\n    volumes:\n"
	for _, c := range []struct {
		name, text string
		want       cluster.Volume
	}{
		{"short", head + "      - data:/var/lib/db\nvolumes:\n  data: {driver: skein}\n",
			cluster.Volume{Name: "shop_data", Target: "/var/lib/db", Asked: &cluster.VolumeAsked{At: "compose.yaml:5:9"}}},
		{"read-only, of a name", head + "      - data:/d:ro\nvolumes:\n  data: {driver: skein, name: other}\n",
			cluster.Volume{Name: "other", Target: "/d", ReadOnly: true, Asked: &cluster.VolumeAsked{At: "compose.yaml:5:9"}}},
		{"long, with options", head + "      - {type: volume, source: data, target: /d}\nvolumes:\n  data: {driver: skein, driver_opts: {size: 10G, fs: xfs, disk: naa.1}}\n",
			cluster.Volume{Name: "shop_data", Target: "/d", Asked: &cluster.VolumeAsked{At: "compose.yaml:5:9", Size: 10 << 30, FS: "xfs", Disk: "naa.1"}}},
	} {
		services, warnings, err := Parse(t.Context(), "compose.yaml", []byte(c.text), "shop", nil)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: got %v, %v", c.name, err, warnings)
			continue
		}
		s := services[0]
		if len(s.Volumes) != 1 || !reflect.DeepEqual(s.Volumes[0], c.want) || s.Safety != cluster.SafetyStorage {
			t.Errorf("%s: got %+v, safety %s, want %+v", c.name, s.Volumes, s.Safety, c.want)
		}
		resolved := s
		resolved.Volumes = []cluster.Volume{{Name: c.want.Name, Target: c.want.Target, ReadOnly: c.want.ReadOnly, Disk: "naa.1", FS: "xfs", UUID: "u"}}
		if got := Hash(&resolved); got != s.Hash {
			t.Errorf("%s: got hash %s after the ledger's answer, want %s: the instance would be replaced", c.name, got, s.Hash)
		}
	}
}
