package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/watchdog"
)

// playBound plays a random history of machines without power controllers, whose watchdogs are bound: freezes,
// partitions, agents that end, operators who change their mind. Nothing is mended that is not mended by a reset.
func playBound(seed uint64, cfg Config) *Sim {
	rng := rand.New(rand.NewPCG(seed, 11))
	cfg.Seed, cfg.Nodes, cfg.Skew, cfg.Tick = seed, 3+rng.IntN(3), 0.004, 50*time.Millisecond
	if cfg.Watchdog = 10 * time.Second; rng.IntN(3) == 0 {
		cfg.Watchdog = 3 * time.Second
	}
	s := New(cfg)
	svc := Service("db", 1+rng.IntN(2), "")
	svc.Safety = cluster.SafetyPower
	s.Deploy(svc)
	for _, m := range s.nodes {
		if rng.IntN(8) > 0 {
			s.Watchdog(m.name, true)
		}
	}
	s.Run(3 * time.Second)
	for range 5 {
		// Mostly who runs something: the others have nothing to lose.
		m := s.nodes[rng.IntN(len(s.nodes))]
		if ins := s.Ledger.State().Instances; len(ins) > 0 && rng.IntN(4) > 0 {
			m = s.machine(ins[rng.IntN(len(ins))].Node)
		}
		switch rng.IntN(10) {
		case 0, 1, 2, 3:
			s.Partition(m.name)
			if rng.IntN(2) == 0 { // and then it stands still, some time before its end or the proof of it
				at := s.between(0, watchdog.Expired(watchdog.Lease(cfg.Watchdog))+5*time.Second)
				s.after(at, func() { s.Freeze(m.name, "running") })
			}
		case 4, 5:
			s.Freeze(m.name, "running")
		case 6:
			s.StopAgent(m.name)
			s.after(s.between(0, 30*time.Second), func() { s.StartAgent(m.name) })
		case 7:
			s.Watchdog(m.name, rng.IntN(3) > 0)
		case 8:
			s.Heal()
		case 9:
			s.PowerOff(m.name)
			s.after(s.between(time.Second, 60*time.Second), func() { s.PowerOn(m.name) })
		}
		s.Run(s.between(0, 60*time.Second))
		if rng.IntN(3) == 0 {
			s.Heal()
			s.Thaw(m.name)
			s.StartAgent(m.name)
			s.Run(s.between(0, 10*time.Second))
		}
		if len(s.Violations) > 0 {
			break
		}
	}
	return s
}

// TestRandomBound: what needs proof of power never runs twice, and moves by the proof of watchdogs alone.
func TestRandomBound(t *testing.T) {
	moved, resets := 0, 0
	for seed := range uint64(max(runs(t, 25), 12)) {
		s := playBound(seed, Config{})
		if len(s.Violations) > 0 {
			t.Fatalf("seed %d: %v\n%s", seed, s.Violations, strings.Join(s.Log, "\n"))
		}
		moved += strings.Count(strings.Join(s.Log, "\n"), "(the watchdog of ")
		resets += s.Faults["reset by watchdog"]
	}
	t.Logf("%d takeovers by proof of a watchdog, %d resets", moved, resets)
	if moved == 0 || resets == 0 {
		t.Error("no watchdog proved anything: the histories prove nothing")
	}
}

// TestBrokenWatchdogsAreCaught: each rule that is broken is seen by who looks at what runs.
func TestBrokenWatchdogsAreCaught(t *testing.T) {
	for name, cfg := range map[string]Config{
		"pet the watchdog late":          {mayFeed: func(now, until, _ time.Duration) bool { return now <= until }},
		"bound in the ledger, not PID 1": {bindLate: true},
	} {
		caught, seed := "", uint64(0)
		for ; seed < 40 && caught == ""; seed++ {
			cfg.Quiet = true
			if s := playBound(seed, cfg); len(s.Violations) > 0 {
				caught = fmt.Sprint(s.Violations)
			}
		}
		if caught == "" {
			t.Errorf("%s: not caught in %d histories", name, seed)
			continue
		}
		t.Logf("%s: caught after %d histories: %s", name, seed, caught)
	}
}
