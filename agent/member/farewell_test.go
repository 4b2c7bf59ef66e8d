package member

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestFarewellIsProofAtOnce(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[2]
	w.send(n, n.core.Farewell(n.clock(w.now), "reboot"))
	w.run(10 * ms)
	p := w.view(0).peer("n03")
	if p.Alive || p.Gasped != "reboot" || !p.Ordered || !p.Dark || !p.LeaseExpired {
		t.Errorf("got %+v, want it gone, in order, with proof", p)
	}
	if v := w.view(2); v.LeaseUntil != 0 || len(n.core.Tick(n.clock(w.now)+time.Second)) > 0 {
		t.Errorf("got lease %v after its own farewell, and heartbeats; want neither", v.LeaseUntil)
	}
	// It says nothing of the next boot, and the next boot is not kept out by it.
	old := n.core.Farewell(n.clock(w.now), "reboot")[0]
	a := w.nodes[0]
	peers := w.peersOf(a, 3)
	peers[1].BootID = "boot-3b"
	a.core.SetPeers(a.clock(w.now), true, peers)
	if err := a.core.Step(a.clock(w.now), old.Link, old.Payload); !errors.Is(err, ErrStale) {
		t.Errorf("a farewell of the boot before: got %v, want ErrStale", err)
	}
	if p := w.view(0).peer("n03"); p.Dark || p.Gasped != "" || p.LeaseExpired {
		t.Errorf("the next boot: got %+v", p)
	}
}

// TestLateFarewell: a copy that comes a minute later, out of order, to a node that had given it up already.
func TestLateFarewell(t *testing.T) {
	w := lab(t, 3, 3)
	n, a := w.nodes[2], w.nodes[0]
	words := n.core.Farewell(n.clock(w.now), "reboot")
	a.core.Refuse(a.clock(w.now), n.name, n.boot)
	if w.view(0).peer("n03").LeaseExpired {
		t.Fatal("there is proof already: the test shows nothing")
	}
	for range 2 {
		if err := a.core.Step(a.clock(w.now), words[0].Link, words[0].Payload); err != nil {
			t.Fatal(err)
		}
		if p := w.view(0).peer("n03"); !p.LeaseExpired || !p.Dark {
			t.Errorf("got %+v, want proof", p)
		}
	}
}

// TestLastWordsAreHints: what PID 1 says proves nothing about addresses, and nothing that comes late takes it back.
func TestLastWordsAreHints(t *testing.T) {
	for name, failed := range map[string]bool{"stopped": false, "failed": true} {
		t.Run(name, func(t *testing.T) {
			w := lab(t, 3, 3)
			n := w.nodes[2]
			words, ifFailed := n.core.LastWords(n.clock(w.now))
			if failed {
				words = ifFailed
			}
			late := n.core.Tick(n.clock(w.now) + 500*ms) // sent after the words were left, and before its end
			n.dead = true
			w.send(n, words)
			w.run(20 * ms)
			if p := w.view(0).peer("n03"); p.Alive || p.Gasped == "" || p.Ordered == failed {
				t.Errorf("got %+v, want it gone, in order %v", p, !failed)
			}
			w.send(n, late)
			w.run(20 * ms)
			p := w.view(0).peer("n03")
			if p.Alive || p.Gasped == "" || p.LeaseExpired || p.Dark || p.Ordered == failed {
				t.Errorf("after a late heartbeat: got %+v, want it gone, without proof", p)
			}
			if p.RestartingUntil != 0 {
				t.Error("its agent is waited for")
			}
			// A will that comes late brings it no patience.
			w.deliverWill(willOf(w, 2))
			if p := w.view(0).peer("n03"); p.RestartingUntil != 0 {
				t.Error("a late will is believed")
			}
		})
	}
}

func TestEndOfStrangers(t *testing.T) {
	w := lab(t, 2, 2)
	a, b := w.nodes[0], w.nodes[1]
	good := b.core.Farewell(b.clock(w.now), "reboot")[0].Payload
	sign := func(cause byte) []byte { return b.core.appendTag(b.core.appendEnd(0, 1, cause, "x")) }
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-tagSize-4] ^= 1 // in the reason
	for name, tt := range map[string]struct {
		payload []byte
		want    error
	}{
		"no cause":      {sign(0), ErrMalformed},
		"unknown cause": {sign(causeFarewell + 1), ErrMalformed},
		"flipped":       {flipped, ErrAuth},
		"good":          {good, nil},
	} {
		if err := a.core.Step(a.clock(w.now), "eth0", tt.payload); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

// farewells plays a history in which nodes say farewell, and breaks one of the caller's two duties if it is told
// to. It returns the first proof against a node that answers, in true time, then or later.
func farewells(seed uint64, size int, loss float64, openGuard, comesBack bool) (proofs int, violation error) {
	w := newWorld(seed, size)
	rng := rand.New(rand.NewPCG(seed, 7))
	w.loss, w.copies = loss, .1
	w.delay = func() time.Duration {
		return time.Duration(rng.Int64N(int64(time.Second))) * time.Duration(rng.IntN(2))
	}
	open := map[string]time.Duration{} // true time until which the guard of a boot is open
	proof := map[string]bool{}
	w.after = func(n *simNode) {
		v := n.core.View(n.clock(w.now))
		if v.LeaseUntil > 0 {
			open[n.boot] = max(open[n.boot], n.trueTime(v.LeaseUntil))
		}
		for _, p := range v.Peers {
			if p.LeaseExpired && !proof[p.BootID] {
				proof[p.BootID] = true
				proofs++
			}
		}
		for boot := range proof {
			if open[boot] > w.now && violation == nil {
				violation = fmt.Errorf("at %v there is proof against %s, which answers until %v", w.now, boot, open[boot])
			}
		}
	}
	for _, n := range w.nodes {
		n.rate, n.offset = 1+.01*(2*rng.Float64()-1), time.Duration(rng.Int64N(int64(time.Hour)))
		w.start(n, size)
	}
	w.run(time.Second)
	for range 4 {
		n := w.nodes[rng.IntN(size)]
		if !n.dead {
			if !openGuard {
				open[n.boot] = 0
			}
			for range 3 {
				w.send(n, n.core.Farewell(n.clock(w.now), "reboot"))
			}
			if n.dead = !comesBack; comesBack {
				w.start(n, size)
			}
		}
		w.run(time.Duration(rng.Int64N(int64(600 * ms))))
	}
	w.run(2 * time.Second)
	return proofs, violation
}

func TestNoFarewellWhileAnswering(t *testing.T) {
	proofs := 0
	rapid.Check(t, func(t *rapid.T) {
		n, err := farewells(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(2, 5).Draw(t, "size"),
			rapid.SampledFrom([]float64{0, .3, .8}).Draw(t, "loss"), false, false)
		if err != nil {
			t.Fatal(err)
		}
		proofs += n
	})
	if proofs == 0 {
		t.Error("no farewell was ever heard: the histories show nothing")
	}
}

// TestFarewellsCallerHasDuties: each of the two is needed.
func TestFarewellsCallerHasDuties(t *testing.T) {
	for name, broken := range map[string][2]bool{"the guard stays open": {true, false}, "a new agent of the same boot": {false, true}} {
		found := false
		for seed := uint64(0); seed < 200 && !found; seed++ {
			_, err := farewells(seed, 3, .1, broken[0], broken[1])
			found = err != nil
		}
		if !found {
			t.Errorf("%s: 200 histories, none shows it", name)
		}
	}
}
