package api

import (
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func TestStatusOfTwoNodesAndAWitness(t *testing.T) {
	m := newMemory("n1")
	c, _ := serve(t, m, RoleOperator)
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Healthy || len(st.Warnings) != 1 || !strings.Contains(st.Warnings[0], "only n1 votes") {
		t.Errorf("two nodes: got healthy %v, warnings %q, want a healthy cluster and one warning", st.Healthy, st.Warnings)
	}
	m.state.Nodes[1].MemberID = 8
	m.state.Nodes = append(m.state.Nodes, cluster.Node{Name: "w", Number: 3, BootID: "b3", State: cluster.NodeOnline, MemberID: 9, Witness: true})
	m.state.Services = append(m.state.Services, cluster.Service{Stack: "demo", Name: "log", Mode: cluster.ModeGlobal})
	if st, err = c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(st.Warnings) > 0 || !st.Nodes[2].Witness || st.Nodes[1].Witness {
		t.Errorf("with a witness: got warnings %q, %+v", st.Warnings, st.Nodes)
	}
	if got := st.Services[1].Wanted; got != 2 {
		t.Errorf("a global service is wanted on %d nodes, want 2: a witness runs nothing", got)
	}
}
