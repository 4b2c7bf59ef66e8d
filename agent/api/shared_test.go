package api

import (
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/shared"
)

// TestMemberOfSharedFileSystemStays: the removal of a node is no proof that it writes no more, and must not cross its
// being let in.
func TestMemberOfSharedFileSystemStays(t *testing.T) {
	m := newMemory("n1")
	c, _ := serve(t, m, RoleAdmin)
	m.state.Nodes[1].State, m.state.Instances = cluster.NodeLost, nil
	name := m.state.Nodes[1].Name
	rec := cluster.SharedRecord{Name: "files", Disk: "naa.7", Journals: 2, Ready: true, Revision: 9}
	rec.Membership.Members = []shared.Member{{Node: name, ID: 2, Incarnation: 5}}
	m.state.Shared = []cluster.SharedRecord{rec}
	err := c.RemoveNode(t.Context(), name)
	if err == nil || !strings.Contains(err.Error(), "shared file system files") || !strings.Contains(err.Error(), "skein fence confirm "+name) || len(m.committed) != 0 {
		t.Errorf("a member: got %v and %d commits, want a refusal that tells what to do", err, len(m.committed))
	}
	m.state.Shared[0].Membership.Members = nil
	if err := c.RemoveNode(t.Context(), name); err != nil {
		t.Fatalf("no member: got %v", err)
	}
	held := false
	for _, cond := range m.committed[0].Conditions {
		held = held || cond == cluster.Condition{Key: "/skein/shared/files", Revision: 9}
	}
	if !held {
		t.Errorf("got conditions %+v, want the membership as it was", m.committed[0].Conditions)
	}
}
