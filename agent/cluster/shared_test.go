package cluster

import (
	"strings"
	"testing"
)

func TestSharedRecord(t *testing.T) {
	good := SharedRecord{Name: "files", Disk: "naa.1", Journals: 3}
	for _, c := range []struct {
		name   string
		change func(*SharedRecord)
		want   string
	}{
		{"good", func(*SharedRecord) {}, ""},
		{"name", func(r *SharedRecord) { r.Name = "a/b" }, "a name has"},
		{"long name", func(r *SharedRecord) { r.Name = strings.Repeat("a", 31) }, "30 letters"},
		{"no journal", func(r *SharedRecord) { r.Journals = 0 }, "1 to 16"},
		{"too many", func(r *SharedRecord) { r.Journals = 17 }, "1 to 16"},
		{"no disk", func(r *SharedRecord) { r.Disk = "" }, "no worldwide name"},
	} {
		r := good
		c.change(&r)
		check(t, c.name, r.Check(), c.want)
	}
	s := storageState()
	s.Shared = []SharedRecord{{Name: "files", Disk: "naa.2"}}
	check(t, "disk of a shared file system", s.CheckNewVolume(&VolumeRecord{Name: "new", Disk: "naa.2", FS: Ext4}, 0), "shared file system files")
}
