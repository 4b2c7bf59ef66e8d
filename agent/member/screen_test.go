package member

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"
)

// screened is a Screen, and heartbeats of a peer that it lets through.
func screened(t testing.TB) (*Screen, *simNode, *Core) {
	w := newWorld(1, 2)
	for _, n := range w.nodes {
		w.start(n, 2)
	}
	s := NewScreen(w.nodes[0].core.cfg)
	s.SetPeers([]netip.Addr{simAddr(1, 0).Addr(), simAddr(1, 1).Addr()})
	return s, w.nodes[0], w.nodes[1].core
}

// forge is a datagram with everything right but the tag.
func forge(good []byte) []byte {
	bad := append([]byte(nil), good...)
	_, _ = rand.Read(bad[len(bad)-tagSize:])
	return bad
}

func TestScreen(t *testing.T) {
	s, n, peer := screened(t)
	home, stranger := simAddr(1, 0).Addr(), netip.MustParseAddr("10.77.0.99")
	at := time.Second
	first, second := peer.Tick(at)[0].Payload, peer.Tick(at + time.Second)[0].Payload
	foreign := append([]byte(nil), first...)
	binary.BigEndian.PutUint64(foreign[4:], 7)
	check := func(what string, from netip.Addr, payload []byte, want error) {
		t.Helper()
		if _, err := s.Check(at, "eth0", from, payload); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	check("short", home, first[:20], ErrMalformed)
	check("of another cluster", home, foreign, ErrForeign)
	check("forged", home, forge(second), ErrAuth)
	d, err := s.Check(at, "eth0", home, first)
	if err != nil {
		t.Fatalf("a good one after a forged one of a higher number: %v", err)
	}
	if err := n.core.StepChecked(at, "eth0", d); err != nil || n.core.byName["n02"].newest == 0 {
		t.Errorf("the core did not take what the screen let through: %v", err)
	}
	check("repeated", home, first, ErrStale)
	check("the next", home, second, nil)
	check("the one before", home, first, ErrStale)

	// A will is repeated on purpose, but not all the time.
	will := peer.Will(at)[0].Payload
	check("will", home, will, nil)
	check("the same will at once", home, will, ErrStale)
	at += sameEvery
	check("the same will again", home, will, nil)

	// Strangers have a budget on each link, and peers have none.
	for range strangers {
		check("forged by a stranger", stranger, forge(second), ErrAuth)
	}
	check("one more", stranger, forge(second), ErrBudget)
	for range 2 * strangers {
		check("forged in a peer's name", home, forge(second), ErrAuth)
	}
	check("the peer itself", home, peer.Tick(at + 2*time.Second)[0].Payload, nil)
	if got := s.Refused(); got < 3*strangers {
		t.Errorf("counted %d refused, want at least %d", got, 3*strangers)
	}
}

// A Core must get from a Screen all that it would take itself.
func FuzzScreen(f *testing.F) {
	_, _, peer := screened(f)
	f.Add(peer.Tick(time.Second)[0].Payload)
	f.Add(peer.Will(time.Second)[0].Payload)
	f.Add([]byte("Sk"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, n, _ := screened(t)
		d, serr := s.Check(time.Second, "eth0", simAddr(1, 0).Addr(), payload)
		cerr := n.core.Step(time.Second, "eth0", payload)
		if serr != nil && cerr == nil {
			t.Errorf("the screen refused (%v) what the core takes", serr)
		}
		_, other, _ := screened(t)
		if serr == nil && (other.core.StepChecked(time.Second, "eth0", d) == nil) != (cerr == nil) {
			t.Errorf("the core takes it with its tag: %v, and differs without", cerr)
		}
	})
}

func BenchmarkScreenForged(b *testing.B) {
	s, _, peer := screened(b)
	bad := forge(peer.Tick(time.Second)[0].Payload)
	from := simAddr(1, 0).Addr()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Check(time.Second, "eth0", from, bad)
	}
}
