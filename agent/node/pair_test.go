package node

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

func (s *stage) warnings() int {
	n := 0
	for _, e := range s.events {
		if e.Kind == cluster.EventCluster && strings.Contains(e.Text, "two nodes and no witness") {
			n++
		}
	}
	return n
}

// TestPairIsWarnedOnce: after a while, once, and again only if there were more nodes in between.
func TestPairIsWarnedOnce(t *testing.T) {
	s, st := newStage(t, 3)
	two := *st
	two.Nodes = []cluster.Node{st.Nodes[0], st.Nodes[1]}
	two.Nodes[0].MemberID, two.Nodes[1].Voter = 1, false
	three, again := *st, two
	three.Revision, two.Revision, again.Revision = 100, 101, 103
	s.brain.Ledger(&three, true)
	s.pass(2 * pairPatience)
	if got := s.warnings(); got != 0 {
		t.Errorf("three nodes: got %d warnings", got)
	}
	s.brain.Ledger(&two, true)
	s.pass(pairPatience / 2)
	if got := s.warnings(); got != 0 {
		t.Errorf("the third may be on its way: got %d warnings", got)
	}
	s.pass(3 * pairPatience)
	if got := s.warnings(); got != 1 {
		t.Errorf("two nodes: got %d warnings, want 1", got)
	}
	three.Revision = 102
	s.brain.Ledger(&three, true)
	s.pass(time.Second)
	s.brain.Ledger(&again, true)
	s.pass(2 * pairPatience)
	if got := s.warnings(); got != 2 {
		t.Errorf("two nodes again: got %d warnings, want 2", got)
	}
}
