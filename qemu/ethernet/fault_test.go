package ethernet

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// fates are what a fault decides for n frames under a seed.
func fates(f Fault, seed uint64, n int) (all []fate) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		all = append(all, f.next(r))
	}
	return all
}

func TestFaultShares(t *testing.T) {
	const n = 20000
	tests := []struct {
		name                         string
		fault                        Fault
		lost, twice, wrong           float64 // shares of all frames
		shortest, longest, mean, dev time.Duration
	}{
		{name: "good cable"},
		{name: "dead", fault: Fault{Drop: true}, lost: 1},
		{name: "lossy", fault: Fault{Loss: 0.3}, lost: 0.3},
		{name: "copies", fault: Fault{Duplicate: 0.2}, twice: 0.2},
		{name: "wrong bits", fault: Fault{Loss: 0.5, Corrupt: 0.5}, lost: 0.5, wrong: 0.25},
		{name: "slow", fault: Fault{Delay: 20 * time.Millisecond}, shortest: 20 * time.Millisecond, longest: 20 * time.Millisecond, mean: 20 * time.Millisecond},
		{name: "jitter", fault: Fault{Delay: 50 * time.Millisecond, Jitter: 50 * time.Millisecond},
			longest: 100 * time.Millisecond, mean: 50 * time.Millisecond, dev: 2 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lost, twice, wrong, arrived int
			var sum time.Duration
			for _, f := range fates(tt.fault, 7, n) {
				if f.copies == 0 {
					lost++
					continue
				}
				if f.copies == 2 {
					twice++
				}
				if f.flip >= 0 {
					wrong++
				}
				for _, d := range f.delays() {
					arrived++
					sum += d
					if d < tt.shortest || d > tt.longest {
						t.Fatalf("a delay of %v, want %v to %v", d, tt.shortest, tt.longest)
					}
				}
			}
			for what, x := range map[string][2]float64{"lost": {float64(lost) / n, tt.lost}, "twice": {float64(twice) / n, tt.twice}, "wrong": {float64(wrong) / n, tt.wrong}} {
				if math.Abs(x[0]-x[1]) > 0.02 {
					t.Errorf("%s: got a share of %.3f, want %.3f", what, x[0], x[1])
				}
			}
			if arrived > 0 {
				if mean := sum / time.Duration(arrived); mean < tt.mean-tt.dev || mean > tt.mean+tt.dev {
					t.Errorf("mean delay: got %v, want %v", mean, tt.mean)
				}
			}
		})
	}
}

// What becomes of a port's frames depends on the seed and the port, and on nothing that others do.
func TestSeedRepeats(t *testing.T) {
	arrivals := func(seed uint64, noise bool) (got []byte) {
		s := New()
		s.Seed(seed)
		out, in := newCollector(), newCollector()
		from, to, other := s.Attach("n1", out), s.Attach("n2", in), s.Attach("n3", newCollector())
		from.SetFault(Out, Fault{Loss: 0.5, Duplicate: 0.1})
		other.SetFault(Out, Fault{Loss: 0.5})
		for i := range byte(200) {
			from.Receive(frame(mac(2), mac(1), string([]byte{i})))
			if noise {
				other.Receive(frame(mac(1), mac(3), "noise")) // goes to n1 only, once that is learnt
			}
		}
		from.Receive(frame(mac(2), mac(1), "")) // learn, whatever the chance
		from.SetFault(Out, Fault{})
		from.Receive(frame(mac(2), mac(1), "end"))
		for {
			f := in.next(t)
			if bytes.HasSuffix(f, []byte("end")) {
				break
			}
			if !bytes.HasSuffix(f, []byte("noise")) {
				got = append(got, f[len(f)-1])
			}
		}
		for _, p := range []*Port{from, to, other} {
			p.Detach()
		}
		return got
	}
	first := arrivals(1, false)
	if again := arrivals(1, true); !slices.Equal(first, again) {
		t.Errorf("the same seed, with others sending: got %v, want %v", again, first)
	}
	if other := arrivals(2, false); slices.Equal(first, other) {
		t.Errorf("another seed lost the same frames: %v", other)
	}
	if len(first) < 60 || len(first) > 160 {
		t.Errorf("%d of 200 frames arrived, want about half and some twice", len(first))
	}
}

// A wrong bit is in the copy of one receiver, never in the frame that others get, and never in an address.
func TestCorruptChangesOneBitOfACopy(t *testing.T) {
	_, p, d := three(t)
	p[1].SetFault(In, Fault{Corrupt: 1})
	for range 50 {
		sent := frame(broadcast, mac(1), "sixteen bytes...")
		p[0].Receive(bytes.Clone(sent))
		wrong, right := d[1].next(t), d[2].next(t)
		if !bytes.Equal(right, sent) {
			t.Fatalf("the good port got %x, want %x", right, sent)
		}
		bits := 0
		for i := range sent {
			for b := sent[i] ^ wrong[i]; b != 0; b &= b - 1 {
				bits++
			}
		}
		if bits != 1 || !bytes.Equal(wrong[:12], sent[:12]) {
			t.Fatalf("the bad port got %x, want %x with one bit wrong behind the addresses", wrong, sent)
		}
	}
}

func TestDuplicateArrivesTwice(t *testing.T) {
	_, p, d := three(t)
	p[1].SetFault(In, Fault{Duplicate: 1})
	p[0].Receive(frame(mac(2), mac(1), "x"))
	if one, two := d[1].next(t), d[1].next(t); !bytes.Equal(one, two) {
		t.Fatalf("got %x and %x, want the same frame twice", one, two)
	}
}

// The tap is shown what a device sends, whatever becomes of it.
func TestTapSeesWhatFaultsTake(t *testing.T) {
	s := New()
	var seen []string
	s.Tap(func(port string, f []byte) { seen = append(seen, port+" "+string(f[headerBytes:])) })
	in := newCollector()
	one, two := s.Attach("n1", newCollector()), s.Attach("n2", in)
	defer one.Detach()
	defer two.Detach()
	one.SetFault(Out, Fault{Drop: true})
	one.Receive(frame(mac(2), mac(1), "lost"))
	one.SetFault(Out, Fault{})
	one.SetGroup(1)
	two.SetGroup(2)
	one.Receive(frame(mac(2), mac(1), "partitioned"))
	two.SetGroup(1)
	one.Receive(frame(mac(2), mac(1), "heard"))
	if got := in.next(t); !bytes.HasSuffix(got, []byte("heard")) {
		t.Fatalf("the other machine got %q, want only the last frame", got)
	}
	if want := []string{"n1 lost", "n1 partitioned", "n1 heard"}; !slices.Equal(seen, want) {
		t.Fatalf("the tap saw %q, want %q", seen, want)
	}
}
