package node

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// ended has an instance with an address end on a node whose kernel does not withdraw the address.
func endedOnRefusingKernel(t *testing.T) *stage {
	t.Helper()
	s, st := newStage(t, 3)
	st = next(st, func(st *cluster.State) { st.Instances = []cluster.Instance{webOn("n1")} })
	s.brain.Ledger(st, false)
	s.brain.Report(cluster.Status{ID: "demo.web.1.a", State: cluster.InstanceRunning})
	s.pass(200 * time.Millisecond)
	s.answer(true, nil)
	if len(s.held) != 1 {
		t.Fatalf("got %d held, want 1", len(s.held))
	}
	s.refuses = true
	s.brain.Report(cluster.Status{ID: "demo.web.1.a", State: cluster.InstanceFailed})
	return s
}

// told is the newest state of the instance that the ledger was given.
func (s *stage) toldState() (state cluster.InstanceState) {
	for _, t := range s.answer(true, nil) {
		for _, p := range t.Puts {
			if st, ok := p.Value.(cluster.Status); ok {
				state = st.State
			}
		}
	}
	return state
}

// An address that the kernel does not let go is not reported as given up: others would answer on it at once.
func TestRefusedWithdrawalIsNotReported(t *testing.T) {
	s := endedOnRefusingKernel(t)
	s.pass(withdrawPatience / 2)
	if got := s.toldState(); got != "" {
		t.Errorf("reported %s while the kernel may still answer", got)
	}
	if len(s.held) != 1 {
		t.Fatal("the test proves nothing: the kernel has let go")
	}
	s.refuses = false
	s.pass(200 * time.Millisecond)
	if got := s.toldState(); got != cluster.InstanceFailed || len(s.held) != 0 || s.doomed != "" {
		t.Errorf("got %q, %d held, condemned %q after the kernel let go; want failed, none, no", got, len(s.held), s.doomed)
	}
}

// A kernel that never does is no kernel for a member.
func TestRefusedWithdrawalEndsTheBoot(t *testing.T) {
	s := endedOnRefusingKernel(t)
	until := s.until
	s.pass(withdrawPatience + 100*time.Millisecond)
	if !strings.Contains(s.doomed, "does not withdraw") {
		t.Errorf("condemned because %q, want because of the refused withdrawal", s.doomed)
	}
	if got := s.toldState(); got != "" {
		t.Errorf("reported %s by a boot that may still answer", got)
	}
	if s.until > until {
		t.Error("the lease of an address that is to be withdrawn was renewed")
	}
}
