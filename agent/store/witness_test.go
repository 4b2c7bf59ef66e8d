package store

import (
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/skein-os/skein/agent/cluster"
)

// TestWhoIsChosenToVote: a witness before all others, whatever its name; of two nodes only one votes.
func TestWhoIsChosenToVote(t *testing.T) {
	founder := cluster.Node{Name: "n1", Number: 1, BootID: "11111111-a", State: cluster.NodeOnline, Voter: true, MemberID: 1}
	member := &pb.Member{ID: 1, Name: "n1.11111111"}
	node := func(name string, change ...func(*cluster.Node)) cluster.Node {
		n := cluster.Node{Name: name, BootID: name + "-boot", State: cluster.NodeOnline}
		for _, f := range change {
			f(&n)
		}
		return n
	}
	witness := func(n *cluster.Node) { n.Witness = true }
	joining := func(n *cluster.Node) { n.State = cluster.NodeJoining }
	draining := func(n *cluster.Node) { n.State = cluster.NodeDraining }
	for _, tc := range []struct {
		name  string
		nodes []cluster.Node
		want  []string
	}{
		{"two nodes", []cluster.Node{node("n2")}, nil},
		{"a node and a witness", []cluster.Node{node("n2", witness)}, nil},
		{"two nodes and a witness", []cluster.Node{node("n2"), node("w", witness)}, []string{"n2", "w"}},
		{"a witness of many", []cluster.Node{node("n2"), node("n3"), node("n4"), node("w", witness)}, []string{"n2", "w"}},
		{"a witness that joins", []cluster.Node{node("n2"), node("n3"), node("w", witness, joining)}, []string{"n2", "w"}},
		{"a witness that leaves", []cluster.Node{node("n2"), node("n3"), node("w", witness, draining)}, []string{"n2", "n3"}},
		{"no witness", []cluster.Node{node("n2", joining), node("n3"), node("n4")}, []string{"n3", "n4"}},
	} {
		st := &cluster.State{Meta: cluster.Meta{Network: cluster.DefaultNetwork}, Nodes: append([]cluster.Node{founder}, tc.nodes...)}
		var got []string
		for _, c := range keepVoters(st, []*pb.Member{member}, DefaultVoters).nodes {
			if c.node.Voter {
				got = append(got, c.node.Name)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
