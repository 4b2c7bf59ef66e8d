package node

import (
	"errors"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/watchdog"
)

// bindings are the node records that were committed, by what they say of the binding, and the ids.
func (s *stage) bindings() (ids []uint64, bound []time.Duration) {
	for id := uint64(1); id <= s.brain.nextID; id++ {
		for _, p := range s.commits[id].Puts {
			if n, ok := p.Value.(cluster.Node); ok && n.Name == "n1" && n.Watchdog != nil {
				ids, bound = append(ids, id), append(bound, n.Watchdog.Bound)
			}
		}
	}
	return ids, bound
}

func TestBindingOrder(t *testing.T) {
	dog := &cluster.Watchdog{Identity: "test", Timeout: 10 * time.Second}
	s, st := newStage(t, 3)
	s.brain.cfg.Watchdog = dog
	next := func(change func(*cluster.State)) {
		n := *st
		n.Nodes = append([]cluster.Node(nil), st.Nodes...)
		n.Revision++
		change(&n)
		st = &n
		s.brain.Ledger(st, false)
	}
	said := func(what string, want ...time.Duration) uint64 {
		t.Helper()
		ids, got := s.bindings()
		if len(got) != len(want) {
			t.Fatalf("%s: records say %v, want %v", what, got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%s: records say %v, want %v", what, got, want)
			}
		}
		if len(ids) == 0 {
			return 0
		}
		return ids[len(ids)-1]
	}
	next(func(n *cluster.State) {
		n.Nodes[0].Watchdog = dog
		n.Watchdogs = []cluster.WatchdogPolicy{{Node: "n1", On: true}}
	})
	s.pass(3 * time.Second)
	if said("nothing needs it"); len(s.bound) > 0 {
		t.Fatalf("PID 1 was told %v, want nothing: nothing here needs it", s.bound)
	}

	next(func(n *cluster.State) {
		n.Instances = []cluster.Instance{{ID: "a.db.1.x", Stack: "a", Service: "db", Slot: 1, Node: "n1", BootID: "n1-1", Epoch: 101,
			Spec: cluster.Service{Stack: "a", Name: "db", Safety: cluster.SafetyPower}}}
	})
	s.pass(3 * time.Second)
	said("before PID 1 has answered")
	lease := watchdog.Lease(dog.Timeout)
	if len(s.bound) < 3 || s.bound[0] > s.now+lease || s.bound[len(s.bound)-1] <= s.bound[0] {
		t.Fatalf("PID 1 was told %v at %v, want later and later times, at most %v ahead", s.bound, s.now, lease)
	}
	s.brain.Bound(s.bound[0])
	id := said("PID 1 has answered", lease)
	s.brain.Committed(id, true, nil)
	next(func(n *cluster.State) {
		d := *dog
		d.Bound = lease
		n.Nodes[0].Watchdog, n.Nodes[0].Revision = &d, 103
	})
	s.pass(time.Second)

	// Off, while it runs: the ledger goes first, and only when it is known to have it PID 1 is told.
	next(func(n *cluster.State) { n.Watchdogs = []cluster.WatchdogPolicy{{Node: "n1"}} })
	id = said("switched off", lease, 0)
	s.brain.Committed(id, false, errors.New("no answer"))
	if got := s.bound[len(s.bound)-1]; got == 0 {
		t.Fatal("PID 1 was unbound by a write of unknown outcome")
	}
	s.pass(2 * stuck) // once: the next try is due later
	id = said("written again", lease, 0, 0)
	last := s.bound[len(s.bound)-1]
	s.brain.Committed(id, true, nil)
	if got := s.bound[len(s.bound)-1]; got != 0 {
		t.Fatalf("PID 1 was told %v, want to be unbound", got)
	}
	next(func(n *cluster.State) {
		n.Nodes[0].Watchdog, n.Nodes[0].Revision = dog, 104
		n.Watchdogs = []cluster.WatchdogPolicy{{Node: "n1", On: true}}
	})
	s.brain.Bound(last) // an answer from before it was unbound
	said("a late answer", lease, 0, 0)
}
