package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// happened counts the events whose text or reason holds a text.
func (s *Sim) happened(text string) (n int) {
	for _, e := range s.Ledger.Events {
		if strings.Contains(e.Text+"; "+e.Why, text) {
			n++
		}
	}
	return n
}

func mustSettle(t *testing.T, s *Sim) {
	t.Helper()
	s.Run(500 * time.Millisecond)
	if !s.Until(30*time.Second, func() bool { return len(s.Missing()) == 0 }) {
		t.Fatalf("does not settle: %v\n%s", s.Missing(), strings.Join(s.Log, "\n"))
	}
}

// on tells on which nodes instances of a service run.
func (s *Sim) on(service string) (out []string) {
	for slot, n := range s.Where() {
		if strings.HasPrefix(slot, "demo/"+service+".") {
			out = append(out, n)
		}
	}
	return out
}

// TestFenceLoop is fault 52: a node boots, joins and dies, five times. From the third time on it gets no work,
// and its next deaths move nothing; when it has been calm for long enough it gets work again.
func TestFenceLoop(t *testing.T) {
	s := New(Config{Seed: 52, Nodes: 4})
	s.Deploy(Service("web", 1, "10.77.9.10"))
	mustSettle(t, s)
	const bad = "n4" // no voter: the ledger can do without it
	for death := 1; death <= 5; death++ {
		// Something that every node has room for, and that a node which has just come back gets first.
		svc := Service(fmt.Sprintf("job%d", death), 4, "")
		s.Deploy(svc)
		mustSettle(t, s)
		got := strings.Contains(strings.Join(s.on(svc.Name), " "), bad)
		if want := death <= 3; got != want {
			t.Errorf("before death %d: %s got work %v, want %v", death, bad, got, want)
		}
		moved := s.Takeovers
		s.Reboot(bad, death%2 == 0) // every other time faster than anybody notices
		s.Run(3 * time.Second)
		if s.Run(2 * time.Second); death > 3 && s.Takeovers != moved {
			t.Errorf("death %d of a node without work moved %d instances", death, s.Takeovers-moved)
		}
		mustSettle(t, s)
	}
	tr := s.Ledger.State().Node(bad).Trouble
	if !tr.Quarantined() || tr.Term != 4*cluster.QuarantineFirst {
		t.Fatalf("after five deaths: got %+v, want a quarantine of %v", tr, 4*cluster.QuarantineFirst)
	}
	// The coordinator changes meanwhile: its successor goes on counting from what is in the ledger.
	s.Run(tr.Term / 2)
	s.StopAgent(s.leader.name)
	s.Run(tr.Term/2 + 40*time.Second)
	if tr := s.Ledger.State().Node(bad).Trouble; tr.Quarantined() {
		t.Errorf("after %v of calm: still %+v", 4*cluster.QuarantineFirst, tr)
	}
	if n := s.happened(bad + " is out of quarantine"); n != 1 {
		t.Errorf("got %d events that it is out of quarantine, want 1", n)
	}
	s.Deploy(Service("after", 4, ""))
	s.Run(3 * time.Second)
	if got := s.on("after"); !strings.Contains(strings.Join(got, " "), bad) {
		t.Errorf("after its quarantine: work runs on %v, want some on %s", got, bad)
	}
	if len(s.Violations) > 0 {
		t.Error(s.Violations)
	}
}

// TestQuarantineNeverCostsAService: the node in quarantine is the only one that is left.
func TestQuarantineNeverCostsAService(t *testing.T) {
	s := New(Config{Seed: 5, Nodes: 3, Witness: true}) // n3 only votes
	svc := Service("web", 1, "10.77.9.10")
	s.Deploy(svc)
	mustSettle(t, s)
	owner := s.Owner(svc.Floating[0])
	other := map[string]string{"n1": "n2", "n2": "n1"}[owner]
	for range 3 {
		s.Reboot(other, false)
		s.Run(4 * time.Second)
		mustSettle(t, s)
	}
	if !s.Ledger.State().Node(other).Trouble.Quarantined() {
		t.Fatalf("%s is not in quarantine after three losses", other)
	}
	s.PowerOff(owner)
	s.Run(5 * time.Second)
	if got := s.Owner(svc.Floating[0]); got != other {
		t.Errorf("the address is answered by %q, want %q, quarantine or not", got, other)
	}
	if s.happened("gets it because no other node fits") == 0 {
		t.Error("nobody said that it went to a node in quarantine")
	}
}
