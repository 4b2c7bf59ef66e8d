package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func TestSetClusterDisk(t *testing.T) {
	for _, tt := range []struct {
		name, role, wwn, has, want string
	}{
		{"first", RoleAdmin, "naa.1", "", ""},
		{"the same again", RoleAdmin, "naa.1", "naa.1", ""},
		{"another", RoleAdmin, "naa.2", "naa.1", "has a cluster disk, naa.1"},
		{"none", RoleAdmin, "", "", "by its WWN"},
		{"a node", RoleNode, "naa.1", "", "certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory("n1")
			m.state.Nodes[0].MemberID = 7
			if tt.has != "" {
				m.state.LedgerDisk = &cluster.ClusterDisk{WWN: tt.has}
			}
			c, _ := serve(t, m, tt.role)
			d, err := c.SetClusterDisk(t.Context(), tt.wwn)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || len(m.committed) > 0 {
					t.Errorf("got %v, %d commits, want %q and none", err, len(m.committed), tt.want)
				}
				return
			}
			if err != nil || d.WWN != tt.wwn || (len(m.committed) == 1) != (tt.has == "") {
				t.Fatalf("got %+v, %v, %d commits", d, err, len(m.committed))
			}
			if tt.has == "" && (!slices.Contains(d.Slots, "n1") || !strings.Contains(m.committed[0].Events[0].Why, "operator")) {
				t.Errorf("got %+v, audit %+v: want a slot for each voter", d, m.committed[0].Events)
			}
		})
	}
}
