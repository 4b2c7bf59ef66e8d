package member

import (
	"testing"
	"time"
)

// flapping plays eth1 of two nodes, down for the first part of each period, and collects what n01 is told.
type flapping struct {
	w      *world
	events []LinkEvent
	at     []time.Duration
}

func newFlapping(t *testing.T) *flapping {
	f := &flapping{w: lab(t, 2, 2)}
	f.w.after = func(x *simNode) {
		if x.id != 0 {
			return
		}
		for _, e := range x.core.Events(x.clock(f.w.now)) {
			f.events, f.at = append(f.events, e), append(f.at, f.w.now)
		}
	}
	return f
}

func (f *flapping) run(d, down, period time.Duration) {
	began := f.w.now
	f.w.cut = func(_, _ int, l string) bool { return l == "eth1" && period > 0 && (f.w.now-began)%period < down }
	f.w.run(d)
}

func (f *flapping) held() bool { return f.w.view(0).peer("n02").Links[1].Flapping }

func (f *flapping) count(k LinkKind) (n int) {
	for _, e := range f.events {
		if e.Kind == k {
			n++
		}
	}
	return n
}

func TestFlapping(t *testing.T) {
	for _, tt := range []struct {
		name         string
		down, period time.Duration
		held         bool
	}{
		{"once a second", 500 * ms, time.Second, true},
		{"twice in three seconds", 700 * ms, 1500 * ms, true},
		{"every five seconds", 2500 * ms, 5 * time.Second, true},
		{"every ten seconds", 3 * time.Second, 10 * time.Second, true},
		{"every thirty seconds", 5 * time.Second, 30 * time.Second, false},
		{"never silent for long enough to see", 200 * ms, time.Second, false},
		{"dead", time.Hour, time.Hour, false},
		{"well", 0, time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFlapping(t)
			f.run(5*time.Minute, tt.down, tt.period)
			if f.held() != tt.held || f.count(LinkFlapping) != map[bool]int{true: 1}[tt.held] {
				t.Errorf("held %v with %d events of it, want %v, told once: %+v", f.held(), f.count(LinkFlapping), tt.held, f.events[:min(len(f.events), 6)])
			}
			for i := range f.at { // whatever it does
				n := 0
				for _, at := range f.at[:i+1] {
					if f.at[i]-at < time.Minute {
						n++
					}
				}
				if n > 2*flapTimes+1 {
					t.Fatalf("%d events within a minute", n)
				}
			}
		})
	}
}

// TestFlappingEnds: it is let go when it was steady, well or dead, and relapses are held for longer.
func TestFlappingEnds(t *testing.T) {
	f := newFlapping(t)
	f.run(time.Minute, 500*ms, time.Second)
	f.events = nil
	f.run(flapHold-time.Second, 0, 0)
	if !f.held() {
		t.Fatal("let go before it was steady for long enough")
	}
	f.run(3*time.Second, 0, 0)
	if f.held() || len(f.events) != 1 || f.events[0].Kind != LinkBack {
		t.Fatalf("after %v: held %v, events %+v; want it let go as good, once", flapHold, f.held(), f.events)
	}
	f.run(time.Minute, 500*ms, time.Second)
	f.run(flapHold+3*time.Second, 0, 0)
	if !f.held() {
		t.Error("a relapse is not held for longer")
	}
	f.run(flapHold, 0, 0)
	if f.held() {
		t.Error("a relapse is held for ever")
	}
	f.run(time.Minute, 500*ms, time.Second)
	f.events = nil
	f.run(4*flapHold+3*time.Second, time.Hour, time.Hour) // the cable is pulled at last
	if f.held() || len(f.events) != 1 || f.events[0].Kind != LinkSilent {
		t.Errorf("a dead link: held %v, events %+v; want that it is dead", f.held(), f.events)
	}
}

// TestLossIsToldFirst: a link that loses a third is silent now and then, too; what is told of it has an end.
func TestLossIsToldFirst(t *testing.T) {
	f := newFlapping(t)
	f.w.cut = func(_, _ int, l string) bool { return l == "eth1" && f.w.rng.Float64() < .3 }
	f.w.run(5 * time.Minute)
	if len(f.events) == 0 || f.events[0].Kind != LinkLossy || len(f.events) > 2*flapTimes+2 {
		t.Errorf("got %d events, want that it is lossy, and little more: %+v", len(f.events), f.events[:min(len(f.events), 3)])
	}
}
