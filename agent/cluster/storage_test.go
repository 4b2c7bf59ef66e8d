package cluster

import (
	"net/netip"
	"strings"
	"testing"
)

func storageState() *State {
	return &State{
		Meta: Meta{ID: "me"},
		Disks: []Disk{
			{WWN: "naa.1", Alias: "db", Size: 1 << 30, FastFenced: true, Cluster: "me"},
			{WWN: "naa.2", Size: 1 << 30, FastFenced: true, Cluster: "me"},
			{WWN: "naa.3", Size: 1 << 30, Because: "it forgets", Cluster: "me"},
			{WWN: "naa.4", Size: 1 << 30, FastFenced: true, Cluster: "other"},
			{WWN: "naa.5", Size: 1 << 20, FastFenced: true, Cluster: "me"},
		},
		Volumes: []VolumeRecord{{Name: "data", Disk: "naa.1", FS: Ext4, UUID: "u", Size: 1 << 30, Ready: true}},
	}
}

func TestCheckNewVolume(t *testing.T) {
	for _, c := range []struct {
		name string
		v    VolumeRecord
		size int64
		want string
	}{
		{"whole disk", VolumeRecord{Name: "new", Disk: "naa.2", FS: XFS}, 0, ""},
		{"its size", VolumeRecord{Name: "new", Disk: "naa.2", FS: XFS}, 1 << 30, ""},
		{"smaller", VolumeRecord{Name: "new", Disk: "naa.2", FS: XFS}, 1 << 29, "one reservation"},
		{"larger", VolumeRecord{Name: "new", Disk: "naa.2", FS: XFS}, 1 << 31, "does not fit"},
		{"second on a disk", VolumeRecord{Name: "new", Disk: "naa.1", FS: XFS}, 0, "has volume data already"},
		{"there already", VolumeRecord{Name: "data", Disk: "naa.2", FS: XFS}, 0, "is there already"},
		{"not fenced", VolumeRecord{Name: "new", Disk: "naa.3", FS: Ext4}, 0, "it forgets"},
		{"another cluster's", VolumeRecord{Name: "new", Disk: "naa.4", FS: Ext4}, 0, "another cluster"},
		{"tiny", VolumeRecord{Name: "new", Disk: "naa.5", FS: Ext4}, 0, "needs"},
		{"not enrolled", VolumeRecord{Name: "new", Disk: "naa.9", FS: Ext4}, 0, "skein disk enrol naa.9"},
		{"file system", VolumeRecord{Name: "new", Disk: "naa.2", FS: "zfs"}, 0, "not one of ext4, xfs"},
		{"name", VolumeRecord{Name: "../x", Disk: "naa.2", FS: Ext4}, 0, "a name has"},
		{"no disk", VolumeRecord{Name: "new", FS: Ext4}, 0, "no worldwide name"},
	} {
		check(t, c.name, storageState().CheckNewVolume(&c.v, c.size), c.want)
	}
}

func TestResolveVolumes(t *testing.T) {
	other := Service{Stack: "old", Name: "db", Volumes: []Volume{{Name: "data", Disk: "naa.1"}}}
	for _, c := range []struct {
		name   string
		change func(*State)
		ask    VolumeAsked
		volume string
		want   string
	}{
		{"there", nil, VolumeAsked{FS: Ext4, Size: 1 << 30, Disk: "db"}, "data", ""},
		{"none", nil, VolumeAsked{At: "c.yaml:3:5", FS: XFS, Disk: "x"}, "nope", "c.yaml:3:5: service shop/db: there is no volume nope: make it with 'skein volume create nope --disk x --fs xfs'"},
		{"other file system", nil, VolumeAsked{FS: XFS}, "data", "is ext4, not xfs"},
		{"too small", nil, VolumeAsked{Size: 1 << 31}, "data", "skein volume grow data"},
		{"other disk", nil, VolumeAsked{Disk: "naa.2"}, "data", "is on disk db, not on naa.2"},
		{"half made", func(s *State) { s.Volumes[0].Ready = false }, VolumeAsked{}, "data", "was cut off"},
		{"not enrolled", func(s *State) { s.Disks = nil }, VolumeAsked{}, "data", "skein disk enrol naa.1"},
		{"another service's", func(s *State) { s.Services = []Service{other} }, VolumeAsked{}, "data", "belongs to old/db"},
		{"still being stopped", func(s *State) { s.Instances = []Instance{{ID: "old.db.1.x", Node: "n2", Spec: other}} }, VolumeAsked{}, "data", "old.db.1.x on n2"},
	} {
		s := storageState()
		if c.change != nil {
			c.change(s)
		}
		svc := Service{Stack: "shop", Name: "db", Volumes: []Volume{{Name: c.volume, Target: "/d", Asked: &c.ask}}}
		err := s.ResolveVolumes(&svc)
		check(t, c.name, err, c.want)
		if v := svc.Volumes[0]; err == nil && (v.Disk != "naa.1" || v.FS != Ext4 || v.UUID != "u" || v.Asked != nil) {
			t.Errorf("%s: got %+v", c.name, v)
		}
	}
}

func TestCheckSAN(t *testing.T) {
	p := netip.MustParseAddrPort("192.0.2.1:3260")
	for _, c := range []struct {
		s    SAN
		want string
	}{
		{SAN{Name: "a", IQN: "iqn.2026-01.dev.skein:lab", Portals: []netip.AddrPort{p}}, ""},
		{SAN{Name: "a", IQN: "naa.6001405000000000", Portals: []netip.AddrPort{p}}, ""},
		{SAN{Name: "A b", IQN: "iqn.2026-01.dev.skein:lab", Portals: []netip.AddrPort{p}}, "a name has"},
		{SAN{Name: "a", IQN: "lab", Portals: []netip.AddrPort{p}}, "no target's name"},
		{SAN{Name: "a", IQN: "iqn.2026-01.dev.skein:lab\nnode.x = y", Portals: []netip.AddrPort{p}}, "no target's name"},
		{SAN{Name: "a", IQN: "iqn.2026-01.dev.skein:lab"}, "needs a portal"},
		{SAN{Name: "a", IQN: "iqn.2026-01.dev.skein:lab", Portals: []netip.AddrPort{p, p}}, "twice"},
		{SAN{Name: "a", IQN: "iqn.2026-01.dev.skein:lab", Portals: []netip.AddrPort{p}, User: "x\ny"}, "CHAP cannot"},
	} {
		check(t, c.s.IQN, c.s.Check(), c.want)
	}
	check(t, "short", CheckCHAPSecret("u", "sekret"), "RFC 3720")
	if err := CheckCHAPSecret("u", "sekret"); strings.Contains(err.Error(), "sekret") {
		t.Errorf("got %v, which quotes the secret", err)
	}
	check(t, "good", CheckCHAPSecret("u", "sekretsekret"), "")
}

func check(t *testing.T, what string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: got error %v, want %q", what, err, want)
	}
}
