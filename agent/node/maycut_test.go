package node

import (
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

// An order to cut that waited is withdrawn when this node is the coordinator no more, or the machine is back.
func TestMayCut(t *testing.T) {
	s, st := newStage(t, 4)
	st = lose(s, st, "n4")
	st.Fences = []cluster.Fence{{Node: "n4", BootID: "n4-1", By: "n1", ByBoot: "n1-1", State: cluster.FenceRunning}}
	s.brain.Ledger(st, true)
	if err := s.brain.MayCut("n4", "n4-1"); err != nil {
		t.Fatalf("while all is as it was: %v", err)
	}
	s.brain.Ledger(st, false)
	if s.brain.MayCut("n4", "n4-1") == nil {
		t.Error("a deposed coordinator may cut")
	}
	back := next(st, func(st *cluster.State) { st.Nodes[3].BootID, st.Nodes[3].State = "n4-2", cluster.NodeJoining })
	s.brain.Ledger(back, true)
	if s.brain.MayCut("n4", "n4-1") == nil {
		t.Error("the new boot may be cut in place of the old one")
	}
}
