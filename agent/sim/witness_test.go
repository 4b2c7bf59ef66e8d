package sim

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

var witnessed = netip.MustParseAddr("10.77.9.10")

// twoAndWitness is a cluster of n1, n2 and the witness n3 that runs a service with an address and a global
// one, at rest.
func twoAndWitness(t *testing.T, seed uint64) (s *Sim, p *Probe, owner, other string) {
	t.Helper()
	s = New(Config{Nodes: 3, Witness: true, Seed: seed, Skew: 0.002})
	p = s.ProbeAddr(witnessed)
	s.Deploy(Service("web", 1, witnessed.String()))
	global := Service("log", 0, "")
	global.Mode = cluster.ModeGlobal
	s.Deploy(global)
	s.settled(t)
	owner, other = s.Owner(witnessed), "n1"
	if owner == "n1" {
		other = "n2"
	}
	p.Reset()
	return s, p, owner, other
}

func (s *Sim) settled(t *testing.T) {
	t.Helper()
	if !s.Until(30*time.Second, func() bool { return len(s.Missing()) == 0 }) {
		t.Fatalf("not at rest: %s\n%s", strings.Join(s.Missing(), "; "), strings.Join(s.Log, "\n"))
	}
	s.Run(500 * time.Millisecond)
}

// claims are the places of all instances, as the ledger has them.
func (s *Sim) claims() string {
	var out []string
	for _, in := range s.Ledger.State().Instances {
		out = append(out, fmt.Sprintf("%s on %s", in.ID, in.Node))
		if n := s.Ledger.State().Node(in.Node); n.Witness {
			out = append(out, "WHICH IS A WITNESS")
		}
	}
	return strings.Join(out, ", ")
}

func forSeeds(t *testing.T, f func(t *testing.T, seed uint64)) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { f(t, seed) })
	}
}

func TestWitnessOwnerCut(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64) {
		s, p, owner, other := twoAndWitness(t, seed)
		s.PowerOff(owner)
		if !s.Until(10*time.Second, func() bool { return s.Owner(witnessed) == other }) {
			t.Fatalf("%s does not take over from %s\n%s", other, owner, strings.Join(s.Log, "\n"))
		}
		s.settled(t)
		if got := s.claims(); strings.Contains(got, "WITNESS") || !strings.Contains(got, "web") {
			t.Errorf("got %s", got)
		}
		if p.Longest == 0 || len(s.Violations) > 0 {
			t.Errorf("got an outage of %v, %v", p.Longest, s.Violations)
		}
		// It comes back, and then the other one may go.
		s.PowerOn(owner)
		s.settled(t)
		if !s.Until(10*time.Second, func() bool { all, up := s.seats(); return all == 3 && len(up) == 3 }) {
			t.Fatalf("%s is no voter again\n%s", owner, strings.Join(s.Log, "\n"))
		}
		s.PowerOff(other)
		if !s.Until(10*time.Second, func() bool { return s.Owner(witnessed) == owner }) {
			t.Errorf("%s does not take over from %s in turn\n%s", owner, other, strings.Join(s.Log, "\n"))
		}
	})
}

func TestWitnessCut(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64) {
		s, p, _, _ := twoAndWitness(t, seed)
		before := s.claims()
		s.PowerOff("n3")
		if !s.Until(10*time.Second, func() bool { return s.Ledger.State().Node("n3").State == cluster.NodeLost }) {
			t.Fatalf("the witness is not given up\n%s", strings.Join(s.Log, "\n"))
		}
		s.Run(3 * time.Second)
		if got := s.claims(); got != before || len(p.Outages) > 0 {
			t.Errorf("got %s, outages %v, want %s and none", got, p.Outages, before)
		}
		s.Deploy(Service("more", 1, "")) // the two are enough to decide
		s.settled(t)
		s.PowerOn("n3")
		s.settled(t)
		if got := s.Ledger.State().Node("n3"); !got.Witness || got.State != cluster.NodeOnline {
			t.Errorf("after its return: got %+v, want a witness", got)
		}
	})
}

func TestWitnessAndOtherCut(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64) {
		s, _, owner, other := twoAndWitness(t, seed)
		before := s.claims()
		s.PowerOff(other)
		s.PowerOff("n3")
		s.Run(5 * time.Second)
		rev := s.Ledger.State().Revision
		s.Run(5 * time.Second)
		if got := s.claims(); got != before || s.Ledger.State().Revision != rev || s.leader != nil {
			t.Errorf("not frozen: got %s, coordinator %q", got, s.Coordinator())
		}
		m := s.machine(owner)
		running := 0
		for _, c := range m.containers {
			if c.live && c.status.State == cluster.InstanceRunning {
				running++
			}
		}
		if running != 2 {
			t.Errorf("%s runs %d instances, want the 2 that it had", owner, running)
		}
		if m.answers(witnessed) {
			t.Errorf("%s still answers on the address without a majority", owner)
		}
	})
}

// TestWitnessInHistories: the random histories have witnesses, and they never get a service.
func TestWitnessInHistories(t *testing.T) {
	found := 0
	for seed := uint64(0); found < 5; seed++ {
		if sizes[seed%uint64(len(sizes))] != 3 || seed/uint64(len(sizes))%4 != 1 {
			continue
		}
		found++
		r := Random(seed, true)
		if r.Err != nil {
			t.Errorf("seed %d: %v", seed, r.Err)
		}
		n := r.sim.Ledger.State().Node("n3")
		if n == nil || !n.Witness {
			t.Errorf("seed %d: got %+v, want a witness", seed, n)
		}
		if got := r.sim.claims(); strings.Contains(got, "WITNESS") {
			t.Errorf("seed %d: got %s", seed, got)
		}
	}
}
