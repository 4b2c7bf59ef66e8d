package node

import (
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// TestStopIsProofIfNothingAnswers: what peers are told depends on whether the addresses are really closed.
func TestStopIsProofIfNothingAnswers(t *testing.T) {
	for _, clings := range []bool{false, true} {
		s, _ := newStage(t, 3)
		s.clings, s.calls = clings, nil
		s.brain.Stop("reboot")
		p := s.peers["n2"].View(s.now).Peers[0]
		if p.Dark == clings || p.LeaseExpired == clings || p.Gasped != "reboot" || !p.Ordered {
			t.Errorf("addresses could not be closed %v: got %+v", clings, p)
		}
		if len(s.calls) != 1 || s.calls[0] != "renounce" {
			t.Errorf("got %v, want the addresses closed once, before anything is said", s.calls)
		}
	}
}

// TestFarewellNeedsNoWaiting: the heir of a node that said farewell answers as soon as the ledger has it.
func TestFarewellNeedsNoWaiting(t *testing.T) {
	s, st := newStage(t, 3)
	for _, d := range s.peers["n3"].Farewell(s.now, "reboot") {
		if d.To.Addr().As4()[3] == 1 {
			_ = s.brain.Datagram(d.Link, d.Payload)
		}
	}
	s.deaf["n3"] = true
	in := webOn("n1")
	in.After = &cluster.Owner{Node: "n3", BootID: "n3-1", Epoch: 50}
	st = next(st, func(st *cluster.State) {
		st.Nodes[2].State = cluster.NodeLost
		st.Instances = []cluster.Instance{in}
	})
	s.brain.Ledger(st, false)
	s.brain.Report(cluster.Status{ID: in.ID, State: cluster.InstanceRunning})
	began := s.now
	for s.now < began+2*time.Second && len(s.held) == 0 {
		s.pass(25 * time.Millisecond)
		s.answer(true, nil)
	}
	if took := s.now - began; took > 100*time.Millisecond {
		t.Errorf("held after %v, want at once", took)
	}
}

// TestWordsOfPID1: they lose a node at once; a failure counts as its own, an orderly stop does not.
func TestWordsOfPID1(t *testing.T) {
	for _, failed := range []bool{false, true} {
		s, st := newStage(t, 3)
		s.brain.Ledger(next(st, func(*cluster.State) {}), true)
		s.endAgent("n3") // its peers are patient
		words, ifFailed := s.peers["n3"].LastWords(s.now)
		if failed {
			words = ifFailed
		}
		for _, d := range words {
			if d.To.Addr().As4()[3] == 1 {
				_ = s.brain.Datagram(d.Link, d.Payload)
			}
		}
		st = s.live(st, 300*time.Millisecond)
		n3 := st.Node("n3")
		if n3.State != cluster.NodeLost || (n3.Trouble != nil) != failed {
			t.Errorf("PID 1 failed %v: got it %s (%s), trouble %+v", failed, n3.State, n3.Reason, n3.Trouble)
		}
	}
}
