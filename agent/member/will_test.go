package member

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// deliver gives the will that one node's agent left to all others.
func (w *world) deliverWill(will []Datagram) (errs []error) {
	for _, d := range will {
		a := d.To.Addr().As4()
		n := w.nodes[int(a[3])-1]
		if !n.dead && n.core != nil {
			errs = append(errs, n.core.Step(n.clock(w.now), simLinks[a[2]], d.Payload))
		}
	}
	return errs
}

func willOf(w *world, i int) []Datagram { return w.nodes[i].core.Will(w.nodes[i].clock(w.now)) }

func (w *world) restarting(observer int, name string) bool {
	return w.view(observer).peer(name).RestartingUntil > w.nodes[observer].clock(w.now)
}

func TestWillDelaysSuspicionAndNothingElse(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[2]
	will := willOf(w, 2)
	w.run(900 * ms) // the will is as old as one can be, and heartbeats followed it
	lease := w.view(2).LeaseUntil
	n.dead = true
	died := w.now
	w.deliverWill(will)
	w.run(3 * time.Second)
	p := w.view(0).peer("n03")
	if p.Alive || p.LeaseExpired || !w.restarting(0, "n03") || p.ConfirmedSilent != 0 || w.view(1).peer("n03").ConfirmedSilent != 0 {
		t.Errorf("three seconds after the will: got %+v, want it restarting, not alive and suspected by nobody", p)
	}
	if now := n.clock(w.now); lease > now {
		t.Errorf("the dead agent's lease runs until %v, it is %v", lease, now)
	}
	// Repetitions do not renew the patience.
	for w.restarting(0, "n03") {
		w.deliverWill(will)
		w.run(300 * ms)
		if w.now-died > 20*time.Second {
			t.Fatal("the patience does not end")
		}
	}
	if got := w.now - died; got < 8*time.Second || got > 8400*ms {
		t.Errorf("the patience ended after %v, want 8 s", got)
	}
	w.run(200 * ms) // the other one's suspicion travels with its next heartbeat
	if p := w.view(0).peer("n03"); p.ConfirmedSilent != 2 || p.RestartingUntil == 0 {
		t.Errorf("after the patience: got %+v, want it suspected by both, and why", p)
	}
}

func TestNewAgentEndsThePatience(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[2]
	will := willOf(w, 2)
	n.dead = true
	w.deliverWill(will)
	w.run(3 * time.Second)
	n.dead = false
	w.start(n, 3)
	w.run(300 * ms)
	if p := w.view(0).peer("n03"); !p.Alive || p.RestartingUntil != 0 {
		t.Errorf("the new agent is heard: got %+v, want it alive and nothing else", p)
	}
	if v := w.view(2); v.LeaseUntil == 0 || !v.Majority {
		t.Errorf("the new agent: got %+v, want a lease and a majority", v)
	}
	for _, err := range w.deliverWill(will) {
		if !errors.Is(err, ErrStale) {
			t.Errorf("the old will once more: got %v, want ErrStale", err)
		}
	}
	// Its power is cut now: the will that is over must not delay anything.
	n.dead = true
	w.run(700 * ms)
	if p := w.view(0).peer("n03"); p.ConfirmedSilent != 2 {
		t.Errorf("silent again: got %+v, want it suspected by two", p)
	}
}

// Heartbeats of the dead agent that overtook nothing must not look like a new one.
func TestLateHeartbeatIsNoNewAgent(t *testing.T) {
	w := lab(t, 2, 2)
	a, b := w.nodes[0], w.nodes[1]
	will := willOf(w, 1)
	late := b.core.Tick(b.clock(w.now) + 120*ms)[0].Payload
	b.dead = true
	w.deliverWill(will)
	w.run(200 * ms)
	if err := a.core.Step(a.clock(w.now), "eth0", late); err != nil {
		t.Fatal(err)
	}
	w.run(time.Second)
	if !w.restarting(0, "n02") {
		t.Error("a late heartbeat of the old agent ended the patience")
	}
}

func TestWillBudget(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[2]
	crash := func(down time.Duration) {
		will := willOf(w, 2)
		n.dead = true
		w.deliverWill(will)
		w.run(down)
		n.dead = false
		w.start(n, 3)
		w.run(300 * ms)
	}
	for range 3 {
		crash(3 * time.Second)
	}
	w.deliverWill(willOf(w, 2))
	n.dead = true
	w.run(time.Second)
	if w.restarting(0, "n03") || w.view(0).peer("n03").ConfirmedSilent != 2 {
		t.Errorf("fourth crash within %v: got %+v, want it suspected", patienceEvery, w.view(0).peer("n03"))
	}
	n.dead = false
	w.start(n, 3)
	w.run(patienceEvery)
	w.deliverWill(willOf(w, 2))
	n.dead = true
	w.run(time.Second)
	if !w.restarting(0, "n03") {
		t.Errorf("a crash %v after the first: got no patience", patienceEvery)
	}
}

func TestWillNotTaken(t *testing.T) {
	for name, arrange := range map[string]func(w *world) []Datagram{
		"of an incarnation that was given up": func(w *world) []Datagram {
			will := willOf(w, 2)
			w.nodes[2].ledgerLag = time.Hour
			w.ledger = append(w.ledger, lostEntry{w.now, "n03", "boot-3"})
			w.run(100 * ms)
			return will
		},
		"of a boot that said goodbye": func(w *world) []Datagram {
			will := willOf(w, 2)
			w.send(w.nodes[2], w.nodes[2].core.Gasp(w.nodes[2].clock(w.now), "power off"))
			w.run(20 * ms)
			return will
		},
		"recorded and kept back": func(w *world) []Datagram {
			will := willOf(w, 2)
			w.run(willFresh + 200*ms)
			return will
		},
		"older than one that was taken": func(w *world) []Datagram {
			old := willOf(w, 2)
			w.run(500 * ms)
			w.deliverWill(willOf(w, 2))
			return old
		},
		"of another boot": func(w *world) []Datagram {
			w.nodes[2].boot = "boot-3b"
			w.start(w.nodes[2], 3)
			return willOf(w, 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := lab(t, 3, 3)
			will := arrange(w)
			if len(will) == 0 {
				t.Fatal("there is no will")
			}
			before := w.view(0).peer("n03").RestartingUntil
			for _, err := range w.deliverWill(will) {
				if !errors.Is(err, ErrStale) {
					t.Errorf("got %v, want ErrStale", err)
				}
			}
			if got := w.view(0).peer("n03").RestartingUntil; got != before {
				t.Errorf("got patience until %v, want it unchanged at %v", got, before)
			}
		})
	}
}

func TestNoWillOfAnEndedBoot(t *testing.T) {
	w := lab(t, 2, 2)
	n := w.nodes[1]
	n.core.Refuse(n.clock(w.now), n.name, n.boot)
	if got := willOf(w, 1); got != nil {
		t.Errorf("got %d datagrams, want no will of a boot that is lost", len(got))
	}
}

// TestWillsChangeNoLease plays one history twice, in the second with agents that leave wills: taken, repeated,
// replayed long after, at every node. Every lease, every proof and who counts
// as alive must be the same to the nanosecond. (A suspicion is told at once, in a heartbeat of its own. A will
// puts the suspicion off, so those heartbeats are left out here: they would be at different times.)
func TestWillsChangeNoLease(t *testing.T) {
	taken, proofs := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		size := rapid.IntRange(3, 5).Draw(t, "size")
		events := rapid.IntRange(3, 12).Draw(t, "events")
		type reading struct {
			lease  time.Duration
			proofs string
			alive  string
		}
		play := func(wills bool) (out []reading) {
			w := newWorld(seed, size)
			rng := rand.New(rand.NewPCG(seed, 2))
			w.loss = .1
			w.delay = func() time.Duration { return time.Duration(w.rng.Int64N(int64(30 * ms))) }
			w.after = func(n *simNode) {
				v := n.core.View(n.clock(w.now))
				r := reading{lease: v.LeaseUntil}
				for _, p := range v.Peers {
					if p.Alive {
						r.alive += p.Name + " "
					}
					if p.LeaseExpired {
						r.proofs += p.Name + " "
						proofs++
					}
				}
				out = append(out, r)
			}
			for _, n := range w.nodes {
				n.offset = time.Duration(rng.Int64N(int64(time.Hour)))
				n.mutant.keepNews = true
				w.start(n, size)
			}
			w.run(time.Second)
			var recorded [][]Datagram
			last := w.nodes[0] // whose agent died
			for range events {
				x := rng.IntN(size)
				n := w.nodes[x]
				switch rng.IntN(4) {
				case 0: // its agent dies; most go on, or nothing would be proved
					if dead := slices.IndexFunc(w.nodes, func(n *simNode) bool { return n.dead }); dead >= 0 {
						break
					}
					last = n
					if wills {
						will := willOf(w, x)
						recorded = append(recorded, will)
						for _, err := range w.deliverWill(will) {
							if err == nil {
								taken++
							}
						}
					}
					n.dead = true
				case 1: // it comes back
					if n.dead {
						n.dead = false
						n.backlog = nil
						w.start(n, size)
					}
				case 2: // one is given up, and does not hear of it
					if len(w.ledger) < 1 {
						w.ledger = append(w.ledger, lostEntry{w.now, last.name, last.boot})
						last.ledgerLag = time.Hour
					}
				case 3: // somebody replays all there ever was
					for _, will := range recorded {
						w.deliverWill(will)
					}
				}
				w.run(time.Duration(rng.Int64N(int64(1500 * ms))))
			}
			return out
		}
		without, with := play(false), play(true)
		if len(without) != len(with) {
			t.Fatalf("got %d readings with wills, %d without", len(with), len(without))
		}
		for i := range with {
			if with[i] != without[i] {
				t.Fatalf("reading %d: got %+v with wills, %+v without", i, with[i], without[i])
			}
		}
	})
	if taken == 0 || proofs == 0 {
		t.Errorf("got %d wills taken and %d proofs, want some of both: the histories show nothing", taken, proofs)
	}
}

// What a restart did not use of the patience is there for the next one.
func TestQuickRestartsShareThePatience(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[2]
	for i := range 5 {
		n.dead = true
		w.deliverWill(willOf(w, 2))
		w.run(1200 * ms)
		if p := w.view(0).peer("n03"); !w.restarting(0, "n03") || p.ConfirmedSilent != 0 {
			t.Errorf("restart %d of 1.2 s: got %+v, want it waited for", i+1, p)
		}
		n.dead = false
		w.start(n, 3)
		w.run(2 * time.Second)
	}
	n.dead = true
	w.deliverWill(willOf(w, 2))
	w.run(2500 * ms)
	if p := w.view(0).peer("n03"); w.restarting(0, "n03") || p.ConfirmedSilent != 2 {
		t.Errorf("restart 6, 6 s of the patience are used and it takes 2.5 s: got %+v, want it suspected", p)
	}
}
