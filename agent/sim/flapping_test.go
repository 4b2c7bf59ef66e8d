package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// flapLinks takes links of a node down and up again, for d.
func (s *Sim) flapLinks(node string, links []string, down, period, d time.Duration) {
	for at := time.Duration(0); at < d; at += period {
		s.after(at, func() {
			for _, l := range links {
				for _, dir := range []string{"in", "out"} {
					s.machine(node).cut[l+" "+dir] = true
				}
			}
			s.after(down, func() {
				for _, l := range links {
					for _, dir := range []string{"in", "out"} {
						s.machine(node).cut[l+" "+dir] = false
					}
				}
			})
		})
	}
}

func (s *Sim) linkEvents() (n int) {
	for _, l := range s.Log { // they belong to no transaction
		if strings.Contains(l, "heartbeats on that link") {
			n++
		}
	}
	return n
}

// TestOneLinkFlaps is fault 54: whatever its rhythm, a node with one link that flaps moves nothing, and little
// is told of it.
func TestOneLinkFlaps(t *testing.T) {
	const d = 5 * time.Minute
	for _, f := range []struct{ down, period time.Duration }{
		{500 * time.Millisecond, time.Second}, {150 * time.Millisecond, 300 * time.Millisecond},
		{900 * time.Millisecond, time.Second}, {2500 * time.Millisecond, 5 * time.Second}, {10 * time.Second, 20 * time.Second},
	} {
		t.Run(fmt.Sprintf("%v of %v", f.down, f.period), func(t *testing.T) {
			s := New(Config{Seed: 54, Nodes: 3})
			svc := Service("web", 1, "10.77.9.10")
			s.Deploy(svc)
			p := s.ProbeAddr(svc.Floating[0])
			mustSettle(t, s)
			p.Reset()
			s.flapLinks(s.Owner(svc.Floating[0]), []string{"eth0"}, f.down, f.period, d)
			s.Run(d + time.Minute)
			if s.Takeovers > 0 || s.happened("is lost") > 0 || p.Longest > leastOutage {
				t.Errorf("%d takeovers, %d losses, outage %v; want none", s.Takeovers, s.happened("is lost"), p.Longest)
			}
			t.Logf("%d events of links", s.linkEvents())
			// The node and its two peers tell of it, each a few times until it is held.
			if n := s.linkEvents(); n > 30 {
				t.Errorf("%d events of links in %v", n, d)
			}
			if len(s.Violations) > 0 {
				t.Error(s.Violations)
			}
		})
	}
}

// TestAllLinksFlap: a node that cannot be reached on any link now and then is lost, restarts, is given work, and is
// lost again: what it has moves a few times at most, then it gets nothing.
func TestAllLinksFlap(t *testing.T) {
	for seed := range uint64(5) {
		s := New(Config{Seed: seed, Nodes: 4})
		svc := Service("web", 3, "10.77.9.10")
		s.Deploy(svc)
		mustSettle(t, s)
		const bad = "n4"
		const period = 15 * time.Second // time enough to come back and be given work
		s.flapLinks(bad, lans, 600*time.Millisecond, period, 5*time.Minute)
		for at := 8 * time.Second; at < 5*time.Minute; at += period { // there is always something new to place
			s.after(at, func() { s.Deploy(Service(fmt.Sprintf("job%.0f", at.Seconds()), 4, "")) })
		}
		s.Run(5*time.Minute + 10*time.Second)
		losses := s.happened(bad + " is lost")
		if losses < 3 {
			t.Fatalf("seed %d: lost %d times: the test shows nothing", seed, losses)
		}
		moves := 0
		for _, e := range s.Ledger.Events {
			if e.Kind == cluster.EventService && strings.Contains(e.Text, "takes over") && strings.Contains(e.Text, "from "+bad) {
				moves++
			}
		}
		t.Logf("seed %d: %d losses, %d moves", seed, losses, moves)
		if moves > 2*cluster.QuarantineLosses {
			t.Errorf("seed %d: %d moves from a node that was lost %d times", seed, moves, losses)
		}
		for n := range s.nodes {
			if name := s.nodes[n].name; name != bad && s.happened(name+" is lost") > 0 {
				t.Errorf("seed %d: %s is lost, too", seed, name)
			}
		}
		if len(s.Violations) > 0 {
			t.Errorf("seed %d: %v", seed, s.Violations)
		}
	}
}
