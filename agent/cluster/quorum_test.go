package cluster

import (
	"slices"
	"strings"
	"testing"
)

func TestWhoseLossStopsTheLedger(t *testing.T) {
	voter := func(name string) Node { return Node{Name: name, State: NodeOnline, Voter: true, MemberID: 1} }
	worker := func(name string) Node { return Node{Name: name, State: NodeOnline} }
	lost := Node{Name: "n3", State: NodeLost, MemberID: 1}
	for _, tc := range []struct {
		name  string
		nodes []Node
		stops []string
		warns string // a part of the warning, empty: none
	}{
		{"one node", []Node{voter("n1")}, []string{"n1"}, ""},
		{"two nodes", []Node{voter("n1"), worker("n2")}, []string{"n1"}, "If n2 is lost, n1 takes over. If n1 is lost, n2 keeps what it runs"},
		{"the second votes", []Node{worker("n1"), voter("n2")}, []string{"n2"}, "only n2 votes. If n1 is lost, n2 takes over"},
		{"two voters are left", []Node{voter("n1"), voter("n2")}, []string{"n1", "n2"}, "both n1 and n2 must be there"},
		{"not formed yet", []Node{worker("n1"), worker("n2")}, nil, ""},
		{"two nodes and a witness", []Node{voter("n1"), voter("n2"), voter("w")}, nil, ""},
		{"and one is lost", []Node{voter("n1"), voter("n2"), lost}, []string{"n1", "n2"}, ""},
	} {
		st := &State{Nodes: tc.nodes}
		if got := st.Indispensable(); !slices.Equal(got, tc.stops) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.stops)
		}
		if got := st.PairWarning(); !strings.Contains(got, tc.warns) || (got == "") != (tc.warns == "") {
			t.Errorf("%s: got warning %q, want %q in it", tc.name, got, tc.warns)
		}
	}
}

func TestMayRun(t *testing.T) {
	for _, tc := range []struct {
		node Node
		want bool
	}{
		{Node{State: NodeOnline}, true},
		{Node{State: NodeOnline, Witness: true}, false},
		{Node{State: NodeDraining}, false},
	} {
		if got := tc.node.MayRun(); got != tc.want {
			t.Errorf("%+v: got %v, want %v", tc.node, got, tc.want)
		}
	}
}
