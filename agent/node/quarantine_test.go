package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// apply commits what the brain has asked for, and shows it the ledger that follows.
func (s *stage) apply(st *cluster.State) *cluster.State {
	for _, txn := range s.answer(true, nil) {
		s.events = append(s.events, txn.Events...)
		for _, p := range txn.Puts {
			n, ok := p.Value.(cluster.Node)
			if !ok {
				continue
			}
			st = next(st, func(st *cluster.State) {
				i := slices.IndexFunc(st.Nodes, func(o cluster.Node) bool { return o.Name == n.Name })
				n.Revision = st.Revision
				st.Nodes[i] = n
			})
		}
	}
	s.brain.Ledger(st, true)
	return st
}

// live lets time pass with a ledger that takes everything.
func (s *stage) live(st *cluster.State, d time.Duration) *cluster.State {
	for end := s.now + d; s.now < end; {
		s.pass(100 * time.Millisecond)
		st = s.apply(st)
	}
	return st
}

func TestQuarantineEndsWithCalm(t *testing.T) {
	s, st := newStage(t, 3)
	st = next(st, func(st *cluster.State) {
		st.Nodes[2].Trouble = (*cluster.Trouble)(nil).Lost().Lost().Lost()
	})
	s.brain.Ledger(st, true)
	st = s.live(st, 50*time.Second)
	n3 := st.Node("n3")
	if !n3.Trouble.Quarantined() || n3.Trouble.Left() > 20*time.Second {
		t.Fatalf("after 50 s of calm: got %+v, want most of the minute credited", n3.Trouble)
	}

	// Another coordinator goes on from what is in the ledger, whatever its clock says.
	s.brain.Ledger(st, false)
	s.brain.Ledger(st, true)
	st = s.live(st, n3.Trouble.Left()-2*time.Second)
	if !st.Node("n3").Trouble.Quarantined() {
		t.Error("it is out of quarantine before it has been calm for a minute")
	}
	st = s.live(st, 4*time.Second)
	if st.Node("n3").Trouble.Quarantined() || s.told("n3 is out of quarantine") != 1 {
		t.Errorf("got %+v and %d events, want it out of quarantine, told once", st.Node("n3").Trouble, s.told("out of quarantine"))
	}
	// Its record is not written for ever.
	st = s.live(st, 11*time.Minute)
	if tr := st.Node("n3").Trouble; tr == nil || len(tr.Ago) > 0 {
		t.Errorf("after the window: got %+v, want only that there was a quarantine", tr)
	}
	st = s.live(st, time.Hour)
	if tr := st.Node("n3").Trouble; tr != nil {
		t.Errorf("after an hour: got %+v, want it forgotten", tr)
	}
	if got := st.Revision; got > 300 {
		t.Errorf("the ledger was written %d times for it", got)
	}
}

// TestSilenceIsNoCalm: a node that is not heard serves no time, were it only for a while.
func TestSilenceIsNoCalm(t *testing.T) {
	s, st := newStage(t, 3)
	st = next(st, func(st *cluster.State) {
		st.Nodes[2].State = cluster.NodeJoining
		st.Nodes[2].Trouble = (*cluster.Trouble)(nil).Lost().Lost().Lost()
	})
	s.brain.cfg.JoinPatience = time.Hour
	s.deaf["n3"] = true
	s.pass(time.Second)
	s.brain.Ledger(st, true)
	st = s.live(st, 2*time.Minute)
	if tr := st.Node("n3").Trouble; tr.Calm != 0 || tr.Ago[0] < time.Minute {
		t.Errorf("got %+v, want no calm, and its losses two minutes old", tr)
	}
}

func TestWhichLossesCount(t *testing.T) {
	for name, c := range map[string]struct {
		lose func(s *stage, st *cluster.State)
		want int
	}{
		"silence": {func(s *stage, _ *cluster.State) { s.deaf["n3"] = true }, 1},
		"goodbye": {func(s *stage, _ *cluster.State) {
			for _, d := range s.peers["n3"].Gasp(s.now, "the node is being stopped") {
				if d.To.Addr().As4()[3] == 1 {
					_ = s.brain.Datagram(d.Link, d.Payload)
				}
			}
			s.deaf["n3"] = true
		}, 0},
		"asked for, and the goodbye got lost": {func(s *stage, st *cluster.State) {
			st.Nodes[2].Leaving = &cluster.Leave{BootID: "n3-1", Why: "asked by ann"}
			s.deaf["n3"] = true
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, st := newStage(t, 3)
			st = next(st, func(st *cluster.State) { c.lose(s, st) })
			s.brain.Ledger(st, true)
			st = s.live(st, 2*time.Second)
			n3, got := st.Node("n3"), 0
			if n3.Trouble != nil {
				got = len(n3.Trouble.Ago)
			}
			if n3.State != cluster.NodeLost || got != c.want {
				t.Errorf("got it %s with %d losses, want it lost with %d", n3.State, got, c.want)
			}
		})
	}
}

func TestThirdLossIsTold(t *testing.T) {
	s, st := newStage(t, 3)
	st = next(st, func(st *cluster.State) { st.Nodes[2].Trouble = (*cluster.Trouble)(nil).Lost().Lost() })
	s.brain.Ledger(st, true)
	s.deaf["n3"] = true
	st = s.live(st, 2*time.Second)
	if !st.Node("n3").Trouble.Quarantined() || s.told("n3 is in quarantine for 1m0s more of calm, as it was lost 3 times within 10m0s") != 1 {
		t.Errorf("got %+v, events %v", st.Node("n3").Trouble, s.events)
	}
	var texts []string
	for _, e := range s.events {
		if e.Kind == cluster.EventNode && e.Subject == "n3" {
			texts = append(texts, e.Text)
		}
	}
	if len(texts) < 2 || texts[0] != "n3 is lost" || !strings.Contains(texts[1], "quarantine") {
		t.Errorf("got %q, want the loss and then what follows", texts)
	}
}
