package member

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// schedule is one random history: everything that can go wrong between the nodes.
type schedule struct {
	seed           uint64
	size, voters   int
	loss, copies   float64
	maxDelay       time.Duration
	skew           float64 // each clock is off by up to this
	lag            time.Duration
	freezes        bool
	restarts       bool
	partitions     bool
	events         int
	mutant         mutant
	proofs, leases int // out: how often the history meant something
}

// play runs the history and returns the first violation of the promise: a proof at one node while, in
// true time, the lease of the incarnation that it speaks of goes on or comes back.
func (s *schedule) play() error {
	w := newWorld(s.seed, s.size)
	rng := rand.New(rand.NewPCG(s.seed, 2))
	w.loss, w.copies = s.loss, s.copies
	w.delay = func() time.Duration {
		d := time.Duration(w.rng.Int64N(int64(5 * time.Millisecond)))
		if w.rng.IntN(4) == 0 {
			d = time.Duration(w.rng.Int64N(int64(s.maxDelay) + 1))
		}
		return d
	}
	cuts := map[string]bool{}
	w.cut = func(from, to int, link string) bool { return cuts[fmt.Sprint(from, to, link)] }

	leaseEnd := map[string]time.Duration{} // true time
	proofAt := map[string]time.Duration{}
	var violation error
	w.after = func(n *simNode) {
		v := n.core.View(n.clock(w.now))
		if v.LeaseUntil > 0 {
			s.leases++
			end := n.trueTime(v.LeaseUntil)
			leaseEnd[n.boot] = max(leaseEnd[n.boot], end)
			if at, ok := proofAt[n.boot]; ok && end > at && violation == nil {
				violation = fmt.Errorf("%s: lease until %v, but proof of its end at %v", n.name, end, at)
			}
		}
		for _, p := range v.Peers {
			if !p.LeaseExpired {
				continue
			}
			if _, ok := proofAt[p.BootID]; !ok {
				s.proofs++
				proofAt[p.BootID] = w.now
			}
			if leaseEnd[p.BootID] > w.now && violation == nil {
				violation = fmt.Errorf("%s at %v has proof against %s whose lease runs until %v", n.name, w.now, p.Name, leaseEnd[p.BootID])
			}
		}
	}
	for _, n := range w.nodes {
		n.rate = 1 + s.skew*(2*rng.Float64()-1)
		n.offset = time.Duration(rng.Int64N(int64(time.Hour)))
		n.ledgerLag = time.Duration(rng.Int64N(int64(s.lag) + 1))
		n.mutant = s.mutant
		w.start(n, s.voters)
	}
	w.run(time.Second)
	lost := map[int]bool{}
	for range s.events {
		x := rng.IntN(s.size)
		switch rng.IntN(7) {
		case 0, 1: // the coordinator gives up on one, rightly or not
			if len(lost) < s.size/2 && !lost[x] {
				lost[x] = true
				w.ledger = append(w.ledger, lostEntry{w.now, w.nodes[x].name, w.nodes[x].boot})
				w.nodes[x].ledgerLag = time.Hour // it does not hear of it
			}
		case 2:
			if s.freezes {
				w.nodes[x].frozenUntil = w.now + time.Duration(rng.Int64N(int64(3*time.Second)))
			}
		case 3, 4: // cut or heal one node, from all or from some
			if s.partitions {
				for o := range s.size {
					cut := rng.IntN(2) == 0
					for _, l := range simLinks {
						cuts[fmt.Sprint(x, o, l)] = cut && rng.IntN(4) > 0
						cuts[fmt.Sprint(o, x, l)] = cut && rng.IntN(4) > 0
					}
				}
			}
		case 5:
			clear(cuts)
		case 6:
			if s.restarts && w.now >= w.nodes[x].frozenUntil {
				w.nodes[x].backlog = nil
				w.deliverWill(willOf(w, x))
				w.start(w.nodes[x], s.voters)
			}
		}
		w.run(time.Duration(rng.Int64N(int64(800 * time.Millisecond))))
		if violation != nil {
			return violation
		}
	}
	w.run(2 * time.Second)
	return violation
}

func TestNoProofWhileLeaseRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 6).Draw(t, "size")
		s := schedule{
			seed: rapid.Uint64().Draw(t, "seed"), size: size,
			voters:     rapid.IntRange(1, size).Draw(t, "voters"),
			loss:       rapid.SampledFrom([]float64{0, .05, .3, .6}).Draw(t, "loss"),
			copies:     rapid.SampledFrom([]float64{0, .1}).Draw(t, "copies"),
			maxDelay:   rapid.SampledFrom([]time.Duration{5 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second}).Draw(t, "delay"),
			skew:       rapid.SampledFrom([]float64{0, .005, .01}).Draw(t, "skew"),
			lag:        rapid.SampledFrom([]time.Duration{0, 300 * time.Millisecond, 3 * time.Second}).Draw(t, "lag"),
			freezes:    rapid.Bool().Draw(t, "freezes"),
			restarts:   rapid.Bool().Draw(t, "restarts"),
			partitions: rapid.Bool().Draw(t, "partitions"),
			events:     rapid.IntRange(1, 10).Draw(t, "events"),
		}
		if err := s.play(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHistoriesHoldProofsAndLeases: the property above would hold of histories in which nothing happens. These, the same
// in every run and a part of what it draws from, have both proofs and readings of leases.
func TestHistoriesHoldProofsAndLeases(t *testing.T) {
	proofs, leases := 0, 0
	for seed := range uint64(20) {
		s := schedule{
			seed: seed, size: 3 + int(seed%3), voters: 3, skew: .01, maxDelay: 300 * time.Millisecond,
			loss: .05, freezes: true, restarts: true, partitions: true, events: 8,
		}
		if err := s.play(); err != nil {
			t.Fatal(err)
		}
		proofs += s.proofs
		leases += s.leases
	}
	if proofs == 0 || leases == 0 {
		t.Errorf("got %d proofs and %d lease readings, want some of both", proofs, leases)
	}
	t.Logf("%d proofs, %d lease readings", proofs, leases)
}

// TestPropertyNoticesBrokenRules breaks one rule at a time and wants the same check to find it.
func TestPropertyNoticesBrokenRules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mutant mutant
	}{
		{"owner counts from receipt", mutant{leaseFromReceipt: true}},
		{"majority less one", mutant{majorityLess: 1}},
		{"refusals forgotten", mutant{forgetRefusals: true}},
		{"no margin for clocks", mutant{noMargin: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := uint64(1); seed <= 3000; seed++ {
				rng := rand.New(rand.NewPCG(seed, 3))
				s := schedule{
					seed: seed, size: 3 + rng.IntN(3), skew: .01, maxDelay: time.Duration(rng.Int64N(int64(2 * time.Second))),
					loss: .3 * rng.Float64(), freezes: true, partitions: true, events: 8, mutant: tt.mutant,
				}
				s.voters = min(s.size, 3+2*rng.IntN(2))
				if err := s.play(); err != nil {
					t.Logf("found by history %d: %v", seed, err)
					return
				}
			}
			t.Error("3000 histories, none shows the broken rule")
		})
	}
}
