package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
)

// endAgent silences a peer whose agent has died, and delivers its will to the others.
func (s *stage) endAgent(name string) {
	will := s.peers[name].Will(s.now)
	s.deaf[name] = true
	for _, d := range will {
		for other, c := range s.peers {
			if other != name && strings.HasSuffix(d.To.Addr().String(), other[1:]) {
				_ = c.Step(s.now, d.Link, d.Payload)
			}
		}
		if d.To.Addr().As4()[3] == 1 {
			_ = s.brain.Datagram(d.Link, d.Payload)
		}
	}
}

func (s *stage) told(text string) (n int) {
	for _, e := range s.events {
		if strings.Contains(e.Text+" "+e.Why, text) {
			n++
		}
	}
	return n
}

func TestRestartingAgentIsWaitedFor(t *testing.T) {
	s, st := newStage(t, 3)
	web := webOn("n3")
	st = next(st, func(st *cluster.State) {
		st.Instances = []cluster.Instance{web}
		st.Services = []cluster.Service{web.Spec}
	})
	s.brain.Ledger(st, true)
	s.endAgent("n3")
	s.pass(5 * time.Second)
	for _, txn := range s.answer(true, nil) {
		t.Errorf("while the agent restarts: got %+v, want nothing decided", txn)
	}
	if got := s.told("its agent is restarting"); got != 1 {
		t.Errorf("got %d events that its agent is restarting, want 1: %v", got, s.events)
	}

	// New work does not go there meanwhile.
	more := cluster.Service{Stack: "demo", Name: "jobs", Mode: cluster.ModeReplicated, Replicas: 6, Safety: cluster.SafetyLease, Hash: "1"}
	st = next(st, func(st *cluster.State) { st.Services = append(slices.Clone(st.Services), more) })
	s.brain.Ledger(st, true)
	s.pass(200 * time.Millisecond)
	placed := 0
	for _, txn := range s.answer(true, nil) {
		for _, p := range txn.Puts {
			if in, ok := p.Value.(cluster.Instance); ok {
				placed++
				if in.Node == "n3" {
					t.Errorf("%s was placed on n3 while its agent restarts", in.ID)
				}
			}
		}
	}
	if placed == 0 {
		t.Error("nothing was placed elsewhere either: the test shows nothing")
	}

	// Its patience over, it is lost like any other.
	var lost *cluster.Node
	for range 200 {
		s.pass(25 * time.Millisecond)
		for _, txn := range s.answer(true, nil) {
			if n, ok := txn.Puts[0].Value.(cluster.Node); ok && n.State == cluster.NodeLost {
				lost = &n
			}
		}
	}
	if lost == nil || lost.Name != "n3" || !strings.Contains(lost.Reason, "did not come back in time") {
		t.Errorf("after the patience: got %+v, want n3 lost because its agent did not come back", lost)
	}
}

func TestGoodbyeIsStrongerThanAWill(t *testing.T) {
	s, st := newStage(t, 3)
	s.brain.Ledger(next(st, func(*cluster.State) {}), true)
	s.endAgent("n3")
	for _, d := range s.peers["n3"].Gasp(s.now, "power button") {
		if d.To.Addr().As4()[3] == 1 {
			_ = s.brain.Datagram(d.Link, d.Payload)
		}
	}
	s.pass(100 * time.Millisecond)
	got := s.answer(true, nil)
	if len(got) == 0 || !strings.Contains(got[0].Events[0].Why, "power button") {
		t.Errorf("got %+v, want the loss at once", got)
	}
}

func TestBrainLeavesWills(t *testing.T) {
	s, st := newStage(t, 3)
	s.wills = 0
	s.pass(5 * time.Second)
	if s.wills < 5 || s.wills > 6 {
		t.Errorf("got %d wills in 5 s, want one each %v", s.wills, member.WillEvery)
	}
	s.wills = 0
	s.brain.Ledger(next(st, func(st *cluster.State) { st.Nodes = append(st.Nodes, testNode(4)) }), false)
	s.pass(50 * time.Millisecond)
	if s.wills == 0 {
		t.Error("got no new will after a new peer, want one that reaches it")
	}
	s.brain.Ledger(next(st, func(st *cluster.State) { st.Revision += 2; st.Nodes[0].State = cluster.NodeLost }), false)
	s.wills = 0
	s.pass(2 * time.Second)
	if s.doomed == "" || s.wills != 0 {
		t.Errorf("condemned %q: got %d wills, want none", s.doomed, s.wills)
	}
}

func TestResumedAgentTellsAndGoesOn(t *testing.T) {
	s, st := newStage(t, 3)
	web, job := webOn("n1"), webOn("n1")
	web.After = &cluster.Owner{Node: "n3", BootID: "n3-0", Epoch: 50}
	job.ID, job.Service, job.Spec.Name, job.Spec.Floating = "demo.job.1.b", "job", "job", nil
	job.Spec.Safety = cluster.SafetyPower
	job.After = &cluster.Owner{Node: "n3", BootID: "n3-1", Epoch: 50} // no proof of its end any more
	st = next(st, func(st *cluster.State) {
		st.Instances = []cluster.Instance{web, job}
		st.Statuses = []cluster.Status{{ID: job.ID, Node: "n1", State: cluster.InstanceRunning}}
	})
	self := testNode(1)
	self.Epoch = 50
	s.now += 3 * time.Second
	s.brain = New(self, Config{Member: testMember, Resumed: true}, s)
	s.run, s.held = nil, nil
	s.brain.Ledger(st, false)
	if len(s.run) != 2 {
		t.Fatalf("got %v to run at once, want both: what is left out is stopped", s.run)
	}
	if len(s.held) != 0 {
		t.Error("an address is held without a lease and a report")
	}
	s.brain.Report(cluster.Status{ID: web.ID, State: cluster.InstanceRunning})
	for range 20 {
		s.pass(25 * time.Millisecond)
		s.answer(true, nil)
	}
	if len(s.held) != 1 || s.until <= s.now {
		t.Errorf("got %v held until %v at %v, want the address again", s.held, s.until, s.now)
	}
	if got := s.told("is back, with 2 instances"); got != 1 {
		t.Errorf("got %d events of the return, want 1: %v", got, s.events)
	}
}

// The kernel may still answer on an address that the agent before this one held: it must be withdrawn before
// the ledger hears that the instance ended, or the next owner would answer beside it.
func TestResumedAgentWithdrawsAnAddressBeforeItReportsTheEnd(t *testing.T) {
	for _, state := range []cluster.InstanceState{cluster.InstanceFailed, cluster.InstanceStopped, cluster.InstanceRestarting} {
		s, st := newStage(t, 3)
		web := webOn("n1")
		st = next(st, func(st *cluster.State) {
			st.Instances = []cluster.Instance{web}
			st.Statuses = []cluster.Status{{ID: web.ID, Node: "n1", State: cluster.InstanceRunning}}
		})
		self := testNode(1)
		self.Epoch = 50
		s.brain = New(self, Config{Member: testMember, Resumed: true}, s)
		s.brain.Ledger(st, false)
		s.calls = nil
		s.brain.Report(cluster.Status{ID: web.ID, State: state})
		if want := []string{"hold 0", "commit"}; !slices.Equal(s.calls, want) {
			t.Errorf("%s: got %v, want %v", state, s.calls, want)
		}
	}
}

// What runs goes on: its address is not dropped while the new agent finds its way.
func TestResumedAgentKeepsAnAddressThatItDoesNotKnowToBeOver(t *testing.T) {
	s, st := newStage(t, 3)
	web := webOn("n1")
	other := webOn("n1")
	other.ID, other.Slot = "demo.web.2.b", 2
	st = next(st, func(st *cluster.State) { st.Instances = []cluster.Instance{web, other} })
	self := testNode(1)
	self.Epoch = 50
	s.brain = New(self, Config{Member: testMember, Resumed: true}, s)
	s.calls = nil
	s.brain.Ledger(st, false)
	s.brain.Report(cluster.Status{ID: other.ID, State: cluster.InstanceFailed})
	if slices.Contains(s.calls, "hold 0") {
		t.Errorf("got %v: the address of an instance that may run was dropped", s.calls)
	}
	s.brain.Report(cluster.Status{ID: web.ID, State: cluster.InstanceRunning})
	s.pass(time.Second)
	if len(s.held) != 1 || s.until <= s.now {
		t.Errorf("got %v held until %v at %v, want the address", s.held, s.until, s.now)
	}
}
