package workload

import (
	"reflect"
	"strings"
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

// TestSharedVolumes: a folder of a shared file system may be in services of any number of instances, several of them.
func TestSharedVolumes(t *testing.T) {
	const text = `services:
  a:
    image: a
    deploy: {mode: global}
    volumes: ["files:/srv"]
  b:
    image: b
    deploy: {replicas: 3}
    volumes: [{type: volume, source: files, target: /in, read_only: true}, "other:/o"]
volumes:
  files: {driver: skein-shared}
  other: {driver: skein-shared, name: media, driver_opts: {filesystem: big}}
`
	services, warnings, err := Parse(t.Context(), "compose.yaml", []byte(text), "shop", nil)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := [][]cluster.SharedUse{
		{{Folder: "shop_files", Target: "/srv", At: "compose.yaml:5:15"}},
		{{Folder: "shop_files", Target: "/in", ReadOnly: true, At: "compose.yaml:9:15"}, {Name: "big", Folder: "media", Target: "/o", At: "compose.yaml:9:76"}},
	}
	for i, s := range services {
		if !reflect.DeepEqual(s.Shares, want[i]) || len(s.Volumes) != 0 || s.Safety == cluster.SafetyStorage {
			t.Errorf("%s: got %+v, volumes %v, safety %s; want %+v", s.Name, s.Shares, s.Volumes, s.Safety, want[i])
		}
		resolved := s
		resolved.Shares = []cluster.SharedUse{}
		for _, u := range s.Shares {
			u.Name, u.At = "big", ""
			resolved.Shares = append(resolved.Shares, u)
		}
		if got := Hash(&resolved); got != s.Hash {
			t.Errorf("%s: got hash %s after the ledger's answer, want %s", s.Name, got, s.Hash)
		}
	}
	for _, bad := range []struct{ text, want string }{
		{"  files: {driver: skein-shared, driver_opts: {size: 1G}}", "there is filesystem: NAME only"},
		{"  files: {driver: skein-shared, name: ../etc}", "no volume's name"},
	} {
		if _, _, err := Parse(t.Context(), "compose.yaml", []byte("services:\n  a: {image: a, volumes: [\"files:/d\"]}\nvolumes:\n"+bad.text+"\n"), "shop", nil); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: got %v, want %q", bad.text, err, bad.want)
		}
	}
}
