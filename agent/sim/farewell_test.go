package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestOrderlyStop measures what a client notices of a node that is rebooted, beside what a power cut costs.
func TestOrderlyStop(t *testing.T) {
	measure := func(end func(s *Sim, node string)) []time.Duration {
		var gaps []time.Duration
		for seed := range uint64(30) {
			s := New(Config{Seed: seed, Nodes: 4, Skew: 0.002})
			svc := Service("web", 1, "10.77.9.10")
			s.Deploy(svc)
			p := s.ProbeAddr(svc.Floating[0])
			mustSettle(t, s)
			if owner := s.machine(s.Owner(svc.Floating[0])); s.leader == owner {
				s.leader = s.nodes[int(owner.number)%3]
				s.spread()
			}
			s.Run(time.Second)
			p.Reset()
			end(s, s.Owner(svc.Floating[0]))
			s.Run(20 * time.Second)
			mustSettle(t, s)
			if len(s.Violations) > 0 {
				t.Fatalf("seed %d: %v\n%s", seed, s.Violations, strings.Join(s.Log, "\n"))
			}
			gaps = append(gaps, p.Longest)
		}
		slices.Sort(gaps)
		return gaps
	}
	cut := measure((*Sim).PowerOff)
	for name, end := range map[string]func(*Sim, string){
		"orderly stop": func(s *Sim, n string) { s.Shutdown(n, true) },
		"PID 1 panics": (*Sim).FailPID1,
	} {
		gaps := measure(end)
		t.Logf("%s: outage p50 %v, max %v; a power cut costs p50 %v, max %v", name, gaps[15], gaps[29], cut[15], cut[29])
		if name == "orderly stop" && gaps[29] >= cut[0] {
			t.Errorf("an orderly stop costs up to %v, a power cut no more than %v", gaps[29], cut[0])
		}
		if gaps[15] > cut[15]+100*time.Millisecond {
			t.Errorf("%s costs more than a power cut: %v, %v", name, gaps[15], cut[15])
		}
	}
}

// farewellHistory stops nodes in order while the network loses, copies and delays what they say, and while
// nodes are cut off, restart their agents and lose power.
func farewellHistory(seed uint64, change func(*Config)) (*Sim, error) {
	rng := rand.New(rand.NewPCG(seed, 9))
	cfg := Config{Seed: seed, Nodes: 3 + rng.IntN(3), Skew: 0.004, Boot: 800 * time.Millisecond, Tick: 30 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s := New(cfg)
	s.net.loss, s.net.copies = 0.5*rng.Float64(), 0.2
	if rng.IntN(2) == 0 {
		s.net.late = time.Second
	}
	svcs := []string{"10.77.9.10", "10.77.9.11"}
	for i, a := range svcs {
		s.Deploy(Service(fmt.Sprintf("web%d", i), 1, a))
	}
	s.Run(2 * time.Second)
	for range 4 + rng.IntN(4) {
		m := s.nodes[rng.IntN(len(s.nodes))]
		switch rng.IntN(8) {
		case 0, 1, 2:
			s.Shutdown(m.name, true)
		case 3:
			s.FailPID1(m.name)
		case 4:
			s.Partition(m.name)
			s.after(s.between(0, 2*time.Second), s.Heal)
		case 5: // somebody starts an agent in a boot that has said farewell
			s.Shutdown(m.name, true)
			s.after(s.between(0, 500*time.Millisecond), func() { s.StartAgent(m.name) })
		case 6:
			s.StopAgent(m.name)
			s.after(s.between(0, time.Second), func() { s.StartAgent(m.name) })
		case 7:
			s.Reboot(m.name, rng.IntN(2) == 0)
		}
		s.Run(s.between(0, 1500*time.Millisecond))
		if len(s.Violations) > 0 {
			return s, fmt.Errorf("%s", strings.Join(s.Violations, "; "))
		}
	}
	s.Heal()
	for _, m := range s.nodes {
		s.StartAgent(m.name)
	}
	s.Run(3 * time.Second)
	if all, up := s.seats(); 2*len(up) <= all {
		return s, nil // too many voters forgot their log
	}
	s.Until(60*time.Second, func() bool { return len(s.Missing()) == 0 || len(s.Violations) > 0 })
	switch all, up := s.seats(); {
	case len(s.Violations) > 0:
		return s, fmt.Errorf("%s", strings.Join(s.Violations, "; "))
	case len(s.Missing()) > 0 && 2*len(up) > all:
		return s, fmt.Errorf("not all runs again: %v", s.Missing())
	}
	return s, nil
}

func TestFarewellHistories(t *testing.T) {
	dark := 0
	for seed := range uint64(runs(t, 200)) {
		s, err := farewellHistory(seed, nil)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(s.Log, "\n"))
		}
		dark += s.happened("said farewell: it has closed its addresses for good")
	}
	t.Logf("%d takeovers by the proof of a farewell", dark)
	if dark == 0 {
		t.Error("no takeover had its proof from a farewell: the histories show nothing")
	}
}

// TestFarewellBeforeTheGuardIsClosed breaks what a farewell says: the checker at the wire finds two that answer.
func TestFarewellBeforeTheGuardIsClosed(t *testing.T) {
	for seed := uint64(0); seed < 300; seed++ {
		s, err := farewellHistory(seed, func(c *Config) { c.falseFarewell = true })
		if err != nil && len(s.Violations) > 0 {
			t.Logf("found by history %d: %v", seed, err)
			return
		}
	}
	t.Error("300 histories, none shows it")
}

// TestFarewellIsForTheBoot: the coordinator does not hear a node's farewell, an heir does, and somebody starts an
// agent in that boot again. Were it a member, it would answer again, and the heir would have proof against it.
func TestFarewellIsForTheBoot(t *testing.T) {
	for _, forget := range []bool{false, true} {
		found := 0
		for seed := range uint64(20) {
			s := New(Config{Seed: seed, Nodes: 4, forgetFarewell: forget})
			svc := Service("web", 1, "10.77.9.10")
			s.Deploy(svc)
			mustSettle(t, s)
			owner := s.Owner(svc.Floating[0])
			if s.leader.name == owner {
				s.leader = s.nodes[int(s.leader.number)%3]
				s.spread()
				s.Run(200 * time.Millisecond)
			}
			s.Cut(owner, s.leader.name, true)
			s.Shutdown(owner, true)
			s.StartAgent(owner)
			s.Run(600 * time.Millisecond)
			s.Partition(owner)
			s.Run(2 * time.Second)
			found += min(len(s.Violations), 1)
		}
		t.Logf("a later agent forgets it %v: two answered in %d of 20 histories", forget, found)
		if (found > 0) != forget {
			t.Errorf("a later agent forgets it %v: two answered in %d of 20 histories", forget, found)
		}
	}
}
