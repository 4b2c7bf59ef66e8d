package watchdog

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// life is one machine that is cut off, with the worst that may happen to it. Times without a unit in their name
// are true time; the heartbeat that is acknowledged last is sent at 0.
type life struct {
	w        time.Duration // the watchdog's timeout
	owner    float64       // rate of the owner's clock; 1 is right
	observer float64
	late     time.Duration // how much later than w the watchdog bites, in true time
	last     time.Duration // owner's clock: when PID 1 looks before its last feed but one, that is at once
	stall    time.Duration // how long it is stopped between its last look and its last feed, true time
	travel   time.Duration // until a majority has received the heartbeat
}

// mayFeed is the rule under test; the others are broken on purpose.
type rule func(now, until, w time.Duration) bool

// ends is when the machine is reset, reuse from when on an observer has proof.
func (l life) ends(may rule) (reset, reuse time.Duration) {
	truly := func(d time.Duration, rate float64) time.Duration { return time.Duration(float64(d) / rate) }
	until := Lease(l.w)
	// It feeds once a second by its own clock for as long as it may, beginning at l.last.
	look := l.last
	fed := truly(look, l.owner)
	for n := look + time.Second; may(n, until, l.w); n += time.Second {
		look, fed = n, truly(n, l.owner)
	}
	bite := func(from time.Duration) time.Duration { return from + l.w + l.late }
	if !may(look, until, l.w) {
		return bite(0), truly(Expired(until), l.observer) + l.travel // it never fed after the cut
	}
	// Its last feed is the one it is stopped before. The one before was a second ago, or this one is the first.
	before := max(truly(look-time.Second, l.owner), 0)
	if wakes := fed + l.stall; wakes < bite(before) {
		return bite(wakes), truly(Expired(until), l.observer) + l.travel
	}
	return bite(before), truly(Expired(until), l.observer) + l.travel
}

// TestTimeline is the arithmetic as a table. reset and reuse are in milliseconds of true time.
func TestTimeline(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name         string
		l            life
		reset, reuse time.Duration
	}{
		// A second too early to be the last: 15.0 + 23.0 <= 38.0 is the last look.
		{"all clocks are right, no stall", life{w: 10 * s, owner: 1, observer: 1, last: s}, 25 * s, 39950 * time.Millisecond},
		{"the watchdog is as late as it may be", life{w: 10 * s, owner: 1, observer: 1, last: s, late: 1500 * time.Millisecond}, 26500 * time.Millisecond, 39950 * time.Millisecond},
		// The look at 15.0, the feed at 24.9: the watchdog fed at 14.0 bites at 25.0 only.
		{"stopped between look and feed, to the last moment", life{w: 10 * s, owner: 1, observer: 1, last: s, stall: 8900 * time.Millisecond}, 33900 * time.Millisecond, 39950 * time.Millisecond},
		{"stopped for longer than it lives", life{w: 10 * s, owner: 1, observer: 1, last: s, stall: 9 * s}, 24 * s, 39950 * time.Millisecond},
		{"stopped, and the watchdog is late", life{w: 10 * s, owner: 1, observer: 1, last: s, late: 1500 * time.Millisecond, stall: 10400 * time.Millisecond}, 36900 * time.Millisecond, 39950 * time.Millisecond},
		{"all at once: owner slow, observer fast", life{w: 10 * s, owner: 0.99, observer: 1.01, last: s, late: 1500 * time.Millisecond, stall: 10400 * time.Millisecond}, 37051 * time.Millisecond, 39554 * time.Millisecond},
		{"owner fast, observer slow: safe, and later", life{w: 10 * s, owner: 1.01, observer: 0.99, last: s}, 24851 * time.Millisecond, 40353 * time.Millisecond},
		{"a slow network only delays the proof", life{w: 10 * s, owner: 1, observer: 1, last: s, travel: 300 * time.Millisecond}, 25 * s, 40250 * time.Millisecond},
		{"a short timeout", life{w: 2 * s, owner: 1, observer: 1, last: s}, 17 * s, 22730 * time.Millisecond},
		{"a minute, the longest that is common", life{w: 60 * s, owner: 0.99, observer: 1.01, last: s, late: 4 * s}, 79151 * time.Millisecond, 146114 * time.Millisecond},
	} {
		reset, reuse := tt.l.ends(MayFeed)
		if near := func(a, b time.Duration) bool { return (a - b).Abs() <= 2*time.Millisecond }; !near(reset, tt.reset) || !near(reuse, tt.reuse) {
			t.Errorf("%s: reset at %v, reused at %v, want %v and %v", tt.name, reset, reuse, tt.reset, tt.reuse)
		}
		if reset >= reuse {
			t.Errorf("%s: alive until %v, reused at %v", tt.name, reset, reuse)
		}
	}
}

func anyLife(t *rapid.T) life {
	l := life{
		w:        time.Duration(rapid.IntRange(1, 120).Draw(t, "W")) * time.Second,
		owner:    rapid.Float64Range(0.99, 1.01).Draw(t, "owner's rate"),
		observer: rapid.Float64Range(0.99, 1.01).Draw(t, "observer's rate"),
		travel:   time.Duration(rapid.IntRange(0, 3000).Draw(t, "travel")) * time.Millisecond,
	}
	l.late = time.Duration(rapid.Int64Range(0, int64(Late(l.w))).Draw(t, "late"))
	l.last = time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "first feed"))
	l.stall = time.Duration(rapid.Int64Range(0, int64(2*Bite(l.w))).Draw(t, "stall"))
	return l
}

// TestNeverAliveWhenReused: whatever the clocks, the stall and the watchdog do within their bounds.
func TestNeverAliveWhenReused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := anyLife(t)
		if reset, reuse := l.ends(MayFeed); reset >= reuse {
			t.Fatalf("%+v: alive until %v, reused at %v", l, reset, reuse)
		}
	})
}

// TestBrokenRulesAreSeen: rules that look right.
func TestBrokenRulesAreSeen(t *testing.T) {
	for name, may := range map[string]rule{
		"fed until T":                      func(now, until, _ time.Duration) bool { return now <= until },
		"no room for a stop before a feed": func(now, until, w time.Duration) bool { return now+w+Late(w) <= until },
	} {
		seen := false
		for stall := time.Duration(0); stall < 30*time.Second && !seen; stall += 100 * time.Millisecond {
			l := life{w: 10 * time.Second, owner: 0.99, observer: 1.01, last: time.Second, late: Late(10 * time.Second), stall: stall}
			reset, reuse := l.ends(may)
			seen = reset >= reuse
		}
		if !seen {
			t.Errorf("%s: a machine was never alive after its reuse", name)
		}
	}
}
