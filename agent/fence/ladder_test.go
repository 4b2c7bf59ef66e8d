package fence

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// bench drives a Ladder against a controller that is a function.
type bench struct {
	l       *Ladder
	now     time.Duration
	pending []Command
	at      []time.Duration // when the answer comes; <0: never
	answer  []Answer
	control func(now time.Duration, c Command) (a Answer, after time.Duration)
	heard   func(now time.Duration) bool
	hold    string
	log     []Command
}

func (b *bench) step(d time.Duration) {
	b.now += d
	in := Input{Heard: b.heard != nil && b.heard(b.now), Hold: b.hold}
	var due []Answer
	for i := 0; i < len(b.pending); i++ {
		if b.at[i] >= 0 && b.at[i] <= b.now {
			due = append(due, b.answer[i])
			b.pending = append(b.pending[:i], b.pending[i+1:]...)
			b.at = append(b.at[:i], b.at[i+1:]...)
			b.answer = append(b.answer[:i], b.answer[i+1:]...)
			i--
		}
	}
	b.take(b.l.Step(b.now, in))
	for i := range due {
		b.take(b.l.Step(b.now, Input{Answer: &due[i], Heard: in.Heard, Hold: in.Hold}))
	}
}

func (b *bench) take(cs []Command) {
	for _, c := range cs {
		b.log = append(b.log, c)
		a, after := b.control(b.now, c)
		a.ID = c.ID
		at := b.now + after
		if after < 0 {
			at = -1
		}
		b.pending, b.at, b.answer = append(b.pending, c), append(b.at, at), append(b.answer, a)
	}
}

func (b *bench) run(d time.Duration) {
	for end := b.now + d; b.now < end && b.l.Stage() != Proven; {
		b.step(25 * time.Millisecond)
	}
}

// machine is an honest controller, with the ways in which it may be otherwise.
type machine struct {
	on     bool
	lies   bool
	hangs  bool
	refuse bool
	spin   time.Duration // from the order to power off
	offAt  time.Duration
}

func (m *machine) control(now time.Duration, c Command) (Answer, time.Duration) {
	if m.offAt > 0 && now >= m.offAt {
		m.on = false
	}
	switch {
	case m.hangs:
		return Answer{}, -1
	case m.refuse:
		return Answer{Err: "refused: 403"}, 10 * time.Millisecond
	case c.Do == Cut && !m.lies:
		m.offAt = now + m.spin
	case c.Do == Read && m.on:
		return Answer{Power: On}, 10 * time.Millisecond
	case c.Do == Read:
		return Answer{Power: Off}, 10 * time.Millisecond
	}
	return Answer{}, 10 * time.Millisecond
}

func TestLadder(t *testing.T) {
	for _, tt := range []struct {
		name    string
		m       []*machine
		heard   func(time.Duration) bool
		proven  bool
		way     string
		cut     bool
		failure string
	}{
		{name: "honest", m: []*machine{{on: true, spin: 2 * time.Second}}, proven: true, way: "a", cut: true},
		{name: "off already", m: []*machine{{}}, proven: true, way: "a"},
		{name: "lies", m: []*machine{{on: true, lies: true}}, failure: "a lies: it took the order"},
		{name: "hangs, the other way works", m: []*machine{{hangs: true}, {on: true}}, proven: true, way: "b", cut: true, failure: "a did not answer within 3s"},
		{name: "refuses", m: []*machine{{refuse: true}}, failure: "a refused: 403"},
		{name: "all hang", m: []*machine{{hangs: true}, {hangs: true}}, failure: "b did not answer within 3s"},
		{name: "off, and heard", m: []*machine{{}}, heard: func(time.Duration) bool { return true }, failure: "heartbeats are heard"},
		{name: "heard for a moment longer", m: []*machine{{on: true}}, heard: func(n time.Duration) bool { return n < time.Second }, proven: true, way: "a", cut: true},
		{name: "too slow to switch off", m: []*machine{{on: true, spin: time.Hour}}, failure: "still reads on"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &bench{l: New(Config{}, []string{"a", "b"}[:len(tt.m)], 1), heard: tt.heard}
			b.control = func(now time.Duration, c Command) (Answer, time.Duration) { return tt.m[c.Way].control(now, c) }
			b.run(DefaultConfig().Round(len(tt.m)))
			if got := b.l.Stage() == Proven; got != tt.proven {
				t.Fatalf("proven: got %v, want %v; %s", got, tt.proven, b.l.Failure())
			}
			if !tt.proven && b.l.Rounds() < 1 {
				t.Errorf("rounds within the budget: got %d, want one at least", b.l.Rounds())
			}
			if tt.proven && (b.l.Way() != tt.way || b.l.Cut() != tt.cut) {
				t.Errorf("got way %s, cut %v, want %s, %v", b.l.Way(), b.l.Cut(), tt.way, tt.cut)
			}
			if got := b.l.Failure(); !strings.Contains(got, tt.failure) || tt.failure == "" && got != "" {
				t.Errorf("got failure %q, want %q", got, tt.failure)
			}
		})
	}
}

// TestLadderCutsWhatComesBack: a machine that was off and is then switched on is ordered off; one that stays
// off is not touched.
func TestLadderCutsWhatComesBack(t *testing.T) {
	for _, back := range []bool{false, true} {
		m := &machine{}
		b := &bench{l: New(Config{}, []string{"a"}, 1)}
		b.control = func(now time.Duration, c Command) (Answer, time.Duration) {
			if c.ID == 2 {
				m.on = back
			}
			return m.control(now, c)
		}
		b.run(DefaultConfig().Round(1))
		cut := slices.ContainsFunc(b.log, func(c Command) bool { return c.Do == Cut })
		if b.l.Stage() != Proven || cut != back || b.l.Cut() != back {
			t.Errorf("back %v: got %s, ordered off %v, cut %v", back, b.l.Stage(), cut, b.l.Cut())
		}
	}
}

// TestLadderTriesAgain: a controller that comes back is used, after a rest.
func TestLadderTriesAgain(t *testing.T) {
	m := &machine{on: true, hangs: true}
	b := &bench{l: New(Config{}, []string{"a"}, 1), control: m.control}
	b.run(DefaultConfig().Round(1))
	m.hangs = false
	b.run(time.Minute)
	if b.l.Stage() != Proven {
		t.Errorf("got %s, want proven", b.l.Stage())
	}
}

// TestLadderNever: whatever controllers answer, and when, off is never said without the order and two
// readings in time after it, and a round ends in its budget.
func TestLadderNever(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type reading struct {
			answer         Answer
			command        Command
			asked, arrives time.Duration
			heard          bool
		}
		var got []reading // answers in the order of their arrival, as the ladder may have taken them
		ways := rapid.IntRange(1, 3).Draw(t, "ways")
		l := New(Config{}, []string{"a", "b", "c"}[:ways], rapid.Uint64().Draw(t, "seed"))
		budget := DefaultConfig().Round(ways)
		var waiting []reading
		now, began, rounds := time.Duration(0), time.Duration(0), 0
		take := func(cs []Command) {
			for _, c := range cs {
				if began < 0 {
					began = now
				}
				r := reading{command: c, asked: now}
				if rapid.IntRange(0, 9).Draw(t, "hangs") == 0 {
					continue
				}
				r.arrives = now + time.Duration(rapid.IntRange(0, 4000).Draw(t, "takes"))*time.Millisecond
				r.answer = Answer{ID: c.ID, Power: rapid.SampledFrom([]Power{Off, Off, Off, On, Unknown}).Draw(t, "power")}
				if rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
					r.answer.Err = "no"
				}
				waiting = append(waiting, r)
			}
		}
		for range 3000 {
			now += 50 * time.Millisecond
			take(l.Step(now, Input{}))
			for i := 0; i < len(waiting); i++ {
				if r := waiting[i]; r.arrives <= now {
					waiting = append(waiting[:i], waiting[i+1:]...)
					i--
					r.heard = rapid.IntRange(0, 5).Draw(t, "heard") == 0
					r.arrives = now
					got = append(got, r)
					take(l.Step(now, Input{Answer: &r.answer, Heard: r.heard}))
					if l.Stage() == Proven {
						break
					}
				}
			}
			if l.Rounds() > rounds {
				rounds, began = l.Rounds(), -1
			}
			if began >= 0 && now-began > budget+time.Second {
				t.Fatalf("a round of %d ways takes %v, more than its budget %v", ways, now-began, budget)
			}
			if l.Stage() != Proven {
				continue
			}
			// The two newest readings in time must say off, of one way, apart, unheard.
			var last []reading
			for _, r := range got {
				if r.arrives < r.asked+r.command.Within {
					last = append(last, r)
				}
			}
			if len(last) < 2 {
				t.Fatalf("proven after %d answers", len(last))
			}
			if cuts := slices.ContainsFunc(last, func(r reading) bool { return r.answer.Err == "" && r.command.Do == Read && r.answer.Power == On }); cuts && !l.Cut() {
				t.Fatal("it was read on, but not ordered off")
			}
			b, a := last[len(last)-1], last[len(last)-2]
			for _, r := range []reading{a, b} {
				if r.command.Do != Read || r.answer.Power != Off || r.answer.Err != "" || r.heard || r.command.Way != b.command.Way {
					t.Fatalf("proven by %+v after %+v", b, a)
				}
			}
			if b.asked-a.arrives < DefaultConfig().Confirm {
				t.Fatalf("the readings are only %v apart", b.asked-a.arrives)
			}
			return
		}
	})
}

// TestLadderHolds: while no machine may be switched off, one that is on is left on, and said to be; one that is off is proven
// off; and when the hold ends, the order is given.
func TestLadderHolds(t *testing.T) {
	on, orders := true, 0
	b := &bench{l: New(Config{}, []string{"bmc"}, 1), hold: "too many were", control: func(_ time.Duration, c Command) (Answer, time.Duration) {
		a := Answer{Power: Off}
		if c.Do == Cut {
			orders++
			on = false
		} else if on {
			a.Power = On
		}
		return a, 50 * time.Millisecond
	}}
	b.run(3 * time.Minute)
	if orders != 0 || b.l.Stage() == Proven || b.l.Cut() || !strings.Contains(b.l.Failure(), "reads on and is not switched off: too many were") {
		t.Errorf("got %d orders, stage %s, %q; want none, and why", orders, b.l.Stage(), b.l.Failure())
	}
	b.hold = ""
	b.run(10 * time.Minute)
	if orders != 1 || b.l.Stage() != Proven {
		t.Errorf("after the hold: got %d orders, stage %s, want one and the proof", orders, b.l.Stage())
	}
	b.l, b.hold = New(Config{}, []string{"bmc"}, 1), "too many were"
	b.run(time.Minute)
	if orders != 1 || b.l.Stage() != Proven {
		t.Errorf("one that is off: got %d orders, stage %s, want the proof", orders, b.l.Stage())
	}
}
