package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func TestBecomingVoters(t *testing.T) {
	voter := func(name string) cluster.Node {
		return cluster.Node{Name: name, State: cluster.NodeOnline, Voter: true, MemberID: 1}
	}
	marked := func(name string) cluster.Node {
		return cluster.Node{Name: name, State: cluster.NodeOnline, Voter: true}
	}
	worker := func(name string) cluster.Node { return cluster.Node{Name: name, State: cluster.NodeOnline} }
	lost := func(name string) cluster.Node { return cluster.Node{Name: name, State: cluster.NodeLost} }
	for _, tc := range []struct {
		name  string
		nodes []cluster.Node
		want  []string
	}{
		{"three voters", []cluster.Node{voter("n1"), voter("n2"), voter("n3")}, nil},
		{"one is marked", []cluster.Node{voter("n1"), marked("n2"), voter("n3")}, []string{"n2"}},
		{"one is not marked yet, and nobody else is left", []cluster.Node{voter("n1"), worker("n2"), voter("n3")}, []string{"n2"}},
		{"one of two workers will be chosen", []cluster.Node{voter("n1"), worker("n2"), voter("n3"), worker("n4")}, nil},
		{"a worker beside three voters", []cluster.Node{voter("n1"), voter("n2"), voter("n3"), worker("n4")}, nil},
		{"two nodes have one voter", []cluster.Node{voter("n1"), worker("n2")}, nil},
		{"a lost voter", []cluster.Node{voter("n1"), lost("n2"), voter("n3")}, nil},
		{"a new cluster", []cluster.Node{voter("n1"), worker("n2"), worker("n3")}, []string{"n2", "n3"}},
	} {
		got := slices.Sorted(maps.Keys(becomingVoters(&cluster.State{Nodes: tc.nodes})))
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A node that is not a voter yet is not shown online, whatever the planner may do with it.
func TestStatusShowsJoiningUntilVoter(t *testing.T) {
	m := newMemory("n1")
	m.state.Nodes[1].Voter = true
	c, _ := serve(t, m, RoleOperator)
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := st.Nodes[1]; n.State != cluster.NodeJoining || n.Reason == "" {
		t.Errorf("n2 is shown %s (%s), want joining with a reason", n.State, n.Reason)
	}
	if st.Healthy || st.Services[0].Running != 1 {
		t.Errorf("got healthy %v, running %d; want not healthy, 1 running", st.Healthy, st.Services[0].Running)
	}
	m.state.Nodes[1].MemberID = 8
	if st, err = c.Status(t.Context()); err != nil || st.Nodes[1].State != cluster.NodeOnline || !st.Healthy {
		t.Errorf("as a voter n2 is shown %s, healthy %v, %v", st.Nodes[1].State, st.Healthy, err)
	}
}

// frozen is a node whose ledger has lost its majority.
type frozen struct{ *memory }

func (f frozen) Observe() Observation {
	return Observation{Frozen: []string{"n2 has not been seen to restart"}}
}

func TestStatusOfAFrozenLedger(t *testing.T) {
	s := NewServer(frozen{newMemory("n1")}, http.NotFoundHandler(), nil, nil)
	st := s.Status()
	if st.Healthy || !st.Frozen || len(st.Nodes) != 2 || !slices.ContainsFunc(st.Problems, func(p string) bool {
		return strings.Contains(p, "lost its majority") && strings.Contains(p, "copy of n1") && strings.Contains(p, "n2 has not been seen")
	}) {
		t.Errorf("got %+v", st)
	}
}
