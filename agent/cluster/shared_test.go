package cluster

import (
	"strings"
	"testing"
)

func TestResolveShares(t *testing.T) {
	ready := SharedRecord{Name: "files", Disk: "naa.1", Journals: 2, Ready: true}
	making, removing := ready, ready
	making.Name, making.Ready = "new", false
	removing.Name, removing.Removing = "old", true
	for _, tt := range []struct {
		name string
		have []SharedRecord
		use  SharedUse
		want string // empty: it is files
	}{
		{"the only one", []SharedRecord{ready}, SharedUse{Folder: "a", Target: "/a"}, ""},
		{"by name", []SharedRecord{ready, making}, SharedUse{Name: "files", Folder: "a", Target: "/a"}, ""},
		{"none", nil, SharedUse{Folder: "a", Target: "/a"}, "skein shared create"},
		{"which", []SharedRecord{ready, making}, SharedUse{Folder: "a", Target: "/a"}, "several shared file systems (files, new)"},
		{"no such", []SharedRecord{ready}, SharedUse{Name: "x", Folder: "a", Target: "/a"}, "no shared file system x"},
		{"not made", []SharedRecord{making}, SharedUse{Folder: "a", Target: "/a"}, "not made yet"},
		{"going", []SharedRecord{removing}, SharedUse{Folder: "a", Target: "/a"}, "being removed"},
		{"out of it", []SharedRecord{ready}, SharedUse{Folder: "../etc", Target: "/a"}, "no folder"},
		{"hidden", []SharedRecord{ready}, SharedUse{Folder: "..", Target: "/a"}, "no folder"},
		{"nowhere", []SharedRecord{ready}, SharedUse{Folder: "a"}, "needs a path"},
	} {
		st := State{Shared: tt.have}
		svc := Service{Stack: "s", Name: "a", Shares: []SharedUse{tt.use}}
		svc.Shares[0].At = "compose.yaml:3:4"
		err := st.ResolveShares(&svc)
		switch {
		case tt.want == "" && (err != nil || svc.Shares[0].Name != "files" || svc.Shares[0].At != ""):
			t.Errorf("%s: got %v, %+v", tt.name, err, svc.Shares[0])
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "compose.yaml:3:4: ")):
			t.Errorf("%s: got %v, want %q at its place", tt.name, err, tt.want)
		}
	}
}

func TestCheckNewShared(t *testing.T) {
	disk := Disk{WWN: "naa.1", Size: 1 << 30, BlockSize: 512, Cluster: "c"}
	base := func() State {
		return State{Meta: Meta{ID: "c"}, Disks: []Disk{disk, {WWN: "naa.2", Size: 1 << 30, Cluster: "other"}, {WWN: "naa.3", Size: 40 << 20, Cluster: "c"}}}
	}
	for _, tt := range []struct {
		name   string
		rec    SharedRecord
		change func(*State)
		want   string
	}{
		{"good", SharedRecord{Name: "files", Disk: "naa.1", Journals: 4}, nil, ""},
		{"not enrolled", SharedRecord{Name: "files", Disk: "naa.9", Journals: 4}, nil, "not enrolled"},
		{"another cluster's", SharedRecord{Name: "files", Disk: "naa.2", Journals: 4}, nil, "another cluster"},
		{"too small", SharedRecord{Name: "files", Disk: "naa.3", Journals: 4}, nil, "journals need"},
		{"no journal", SharedRecord{Name: "files", Disk: "naa.1"}, nil, "0 journals"},
		{"name", SharedRecord{Name: "a/b", Disk: "naa.1", Journals: 1}, nil, "a name has"},
		{"volume", SharedRecord{Name: "files", Disk: "naa.1", Journals: 4}, func(s *State) { s.Volumes = []VolumeRecord{{Name: "v", Disk: "naa.1"}} }, "has volume v"},
		{"cluster disk", SharedRecord{Name: "files", Disk: "naa.1", Journals: 4}, func(s *State) { s.LedgerDisk = &ClusterDisk{WWN: "naa.1"} }, "is the cluster disk"},
		{"another", SharedRecord{Name: "files", Disk: "naa.1", Journals: 4}, func(s *State) { s.Shared = []SharedRecord{{Name: "x", Disk: "naa.1"}} }, "shared file system x already"},
		{"again", SharedRecord{Name: "files", Disk: "naa.1", Journals: 4}, func(s *State) { s.Shared = []SharedRecord{{Name: "files", Disk: "naa.3"}} }, "there already"},
	} {
		st := base()
		if tt.change != nil {
			tt.change(&st)
		}
		if err := st.CheckNewShared(&tt.rec); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}
