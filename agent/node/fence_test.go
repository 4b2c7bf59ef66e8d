package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
	"github.com/skein-os/skein/agent/takeover"
)

// lose makes nodes fall silent and be lost in the ledger; every node has a power controller.
func lose(s *stage, st *cluster.State, names ...string) *cluster.State {
	for _, n := range names {
		s.deaf[n] = true
	}
	s.pass(time.Second)
	s.answer(true, nil)
	return next(st, func(st *cluster.State) {
		st.BMCs = nil
		for i := range st.Nodes {
			n := &st.Nodes[i]
			if slices.Contains(names, n.Name) {
				n.State, n.Revision = cluster.NodeLost, st.Revision
			}
			st.BMCs = append(st.BMCs, cluster.BMC{Node: n.Name, Driver: cluster.DriverRedfish, Addresses: []string{"192.0.2.1:443"}})
		}
	})
}

// begun are the records of fencing in what was committed.
func begun(txns []cluster.Txn) (recs []cluster.Fence, conds [][]cluster.Condition) {
	for _, t := range txns {
		for _, p := range t.Puts {
			if f, ok := p.Value.(cluster.Fence); ok {
				recs, conds = append(recs, f), append(conds, t.Conditions)
			}
		}
	}
	return recs, conds
}

func TestFenceRestraint(t *testing.T) {
	s, st := newStage(t, 4)
	// n3 is a voter and n4 is none: n1 and n2 are a majority of the voters, but two are half of the members.
	st = lose(s, st, "n3", "n4")
	s.brain.Ledger(st, true)
	if recs, _ := begun(s.answer(true, nil)); len(recs) != 0 {
		t.Errorf("at once, with nothing that needs it: got %+v", recs)
	}
	s.pass(takeoverFirst + 100*time.Millisecond)
	recs, conds := begun(s.answer(true, nil))
	if len(recs) != 1 || recs[0].Node != "n3" || recs[0].By != "n1" || recs[0].State != cluster.FenceRunning {
		t.Fatalf("got %+v, want n3 alone", recs)
	}
	var keys []string
	for _, c := range conds[0] {
		keys = append(keys, c.Key)
	}
	// Nobody has begun with n3, it is still lost, n1 is as we know it, and nobody has begun with n1.
	if want := []string{"/skein/fences/n3", "/skein/nodes/n3", "/skein/nodes/n1", "/skein/fences/n1"}; !slices.Equal(keys, want) {
		t.Errorf("got conditions on %v, want %v", keys, want)
	}
	s.pass(time.Second)
	if recs, _ := begun(s.answer(true, nil)); slices.ContainsFunc(recs, func(f cluster.Fence) bool { return f.Node != "n3" }) {
		t.Errorf("before the ledger shows the record: got %+v more", recs)
	}
	st = next(st, func(st *cluster.State) {
		f := recs[0]
		f.State, f.Revision = cluster.FenceOff, st.Revision
		st.Fences = []cluster.Fence{f}
	})
	s.brain.Ledger(st, true)
	if recs, _ := begun(s.answer(true, nil)); len(recs) != 1 || recs[0].Node != "n4" {
		t.Errorf("when n3 is off: got %+v, want n4", recs)
	}
}

func TestWhoIsFencedFencesNobody(t *testing.T) {
	s, st := newStage(t, 3)
	st = lose(s, st, "n3")
	st.Fences = []cluster.Fence{{Node: "n1", BootID: "n1-1", By: "n3", ByBoot: "n3-1", State: cluster.FenceRunning}}
	s.brain.Ledger(st, true)
	s.pass(2 * takeoverFirst)
	if recs, _ := begun(s.answer(true, nil)); len(recs) != 0 {
		t.Errorf("got %+v", recs)
	}
}

func TestGoodbyeIsLeftAlone(t *testing.T) {
	s, st := newStage(t, 3)
	for _, d := range s.peers["n3"].Gasp(s.now, "reboot") {
		if d.To.Addr().As4()[3] == 1 {
			_ = s.brain.Datagram(d.Link, d.Payload)
		}
	}
	st = lose(s, st, "n3")
	s.brain.Ledger(st, true)
	s.pass(5 * time.Second)
	if recs, _ := begun(s.answer(true, nil)); len(recs) != 0 {
		t.Errorf("at once: got %+v", recs)
	}
	s.pass(goodbyePatience)
	if recs, _ := begun(s.answer(true, nil)); len(recs) == 0 {
		t.Error("it never came back, and was not fenced")
	}
}

// TestOffButHeard: a record that says off is not believed where the boot is heard.
func TestOffButHeard(t *testing.T) {
	s, st := newStage(t, 3)
	in := webOn("n1")
	in.Spec.Safety = cluster.SafetyPower
	in.After = &cluster.Owner{Node: "n3", BootID: "n3-1"}
	st = next(st, func(st *cluster.State) {
		st.Instances = []cluster.Instance{in}
		st.Nodes[2].State = cluster.NodeLost
		st.Fences = []cluster.Fence{{Node: "n3", BootID: "n3-1", State: cluster.FenceOff, Text: "somebody said so"}}
	})
	s.brain.Ledger(st, false)
	s.pass(2 * time.Second)
	if got := s.brain.mine[in.ID].takeover.Step(); got != takeover.Proving {
		t.Fatalf("while n3 is heard: got %s, want %s", got, takeover.Proving)
	}
	s.deaf["n3"] = true
	s.pass(2 * time.Second)
	if got := s.brain.mine[in.ID].takeover; got.Step() != takeover.Verifying || !strings.Contains(got.Proof().Text, "somebody said so") {
		t.Errorf("when n3 is silent: got %s (%s), want %s", got.Step(), got.Proof().Text, takeover.Verifying)
	}
}

// TestNextCoordinatorGoesOn: what one began, the next one takes over by compare-and-swap; what a controller
// answers to the old one counts for nothing.
func TestNextCoordinatorGoesOn(t *testing.T) {
	s, st := newStage(t, 4)
	st = lose(s, st, "n4")
	st.Fences = []cluster.Fence{{Node: "n4", BootID: "n4-1", By: "n2", ByBoot: "n2-1", State: cluster.FenceRunning, Cut: true, Revision: 77}}
	s.brain.Ledger(st, true)
	recs, conds := begun(s.answer(true, nil))
	if len(recs) != 1 || recs[0].By != "n1" || !recs[0].Cut || conds[0][0].Revision != 77 {
		t.Fatalf("got %+v, %+v", recs, conds)
	}
	s.brain.Powered(fence.Answer{ID: 12345, Power: fence.Off})
	s.pass(time.Second)
	if recs, _ := begun(s.answer(true, nil)); slices.ContainsFunc(recs, func(f cluster.Fence) bool { return f.State == cluster.FenceOff }) {
		t.Errorf("a stranger's answer is proof: %+v", recs)
	}
}
