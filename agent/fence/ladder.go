package fence

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Config of a Ladder: how long each part may take. Zero fields have the defaults below.
type Config struct {
	// Ask is how long one command may take; 3 s. Less than the slowest healthy controller needs makes
	// fencing fail.
	Ask time.Duration
	// Attempt bounds one attempt of one way, from looking to the second reading; 15 s. Controllers take up
	// to some 6 s from the order to power off.
	Attempt time.Duration
	// Attempts of one way before the next one; 2.
	Attempts int
	// Poll is the time between readings; 300 ms. Shorter proves sooner and bothers the controller more.
	Poll time.Duration
	// Confirm is the time between the two readings that must both say off; 500 ms.
	Confirm time.Duration
	// Pause is the mean pause before another attempt of the same way, half to one and a half times this; 1 s.
	Pause time.Duration
	// Rest is the pause after a round that failed, doubled each time up to MostRest; 20 s and 5 min.
	Rest, MostRest time.Duration
}

// DefaultConfig has the defaults.
func DefaultConfig() Config {
	return Config{
		Ask: 3 * time.Second, Attempt: 15 * time.Second, Attempts: 2, Poll: 300 * time.Millisecond,
		Confirm: 500 * time.Millisecond, Pause: time.Second, Rest: 20 * time.Second, MostRest: 5 * time.Minute,
	}
}

func (c Config) filled() Config {
	d := DefaultConfig()
	for _, f := range []struct{ v, d *time.Duration }{
		{&c.Ask, &d.Ask}, {&c.Attempt, &d.Attempt}, {&c.Poll, &d.Poll}, {&c.Confirm, &d.Confirm},
		{&c.Pause, &d.Pause}, {&c.Rest, &d.Rest}, {&c.MostRest, &d.MostRest},
	} {
		if *f.v <= 0 {
			*f.v = *f.d
		}
	}
	if c.Attempts <= 0 {
		c.Attempts = d.Attempts
	}
	return c
}

// Round bounds one round over so many ways: the budget. The owner must step the Ladder at least every
// slack for it to hold to the millisecond; a late step makes it longer by its lateness.
func (c Config) Round(ways int) time.Duration {
	c = c.filled()
	return time.Duration(ways*c.Attempts) * (c.Attempt + c.Pause*3/2)
}

// Action is what a power controller is asked to do.
type Action string

const (
	Read     Action = "read" // tell the power state, change nothing
	Cut      Action = "cut"  // switch off at once, as by the cable
	SwitchOn Action = "on"
)

// Power is what a controller says of the machine.
type Power string

const (
	Unknown Power = ""
	On      Power = "on"
	Off     Power = "off"
)

// Command asks for one action of one way. Its Answer must bear its ID; one that comes later than Within
// after the command counts as none.
type Command struct {
	ID     uint64
	Way    int // index of the way
	Do     Action
	Within time.Duration
	// Boot is filled in by the owner of the Ladder: a Cut is of this boot of the machine, and of no later one. A
	// controller knows nothing of boots, so whoever carries it out looks once more, at the last moment (OperateIf).
	Boot string
}

// Answer is the outcome of a command. Err is empty if it was done; Power is the answer to Read.
type Answer struct {
	ID    uint64
	Power Power
	Err   string
}

// Input of a step. The zero Input lets time pass.
type Input struct {
	Answer *Answer
	// Heard: heartbeats of the very boot that is fenced are being received now.
	Heard bool
	// Hold is why no machine may be ordered off now, a clause; empty: this one may. What is off already is proven all the same.
	Hold string
}

// Stage is where a Ladder stands.
type Stage string

const (
	Waiting    Stage = "waiting"    // for the next attempt
	Looking    Stage = "looking"    // how is the power before anything is done?
	Cutting    Stage = "cutting"    // the order is being given
	Reading    Stage = "reading"    // is the power off by now?
	Confirming Stage = "confirming" // it was read off once
	Proven     Stage = "proven"     // it was read off twice; nothing is done any more
)

// transitions are all that a Ladder can do.
var transitions = map[Stage][]Stage{
	Waiting:    {Looking},
	Looking:    {Cutting, Reading, Confirming, Waiting},
	Cutting:    {Reading, Waiting},
	Reading:    {Confirming, Cutting, Waiting},
	Confirming: {Proven, Reading, Cutting, Waiting},
	Proven:     {},
}

// Ladder fences one incarnation of one node. The zero value is not useful: use New.
type Ladder struct {
	cfg    Config
	rng    *rand.Rand
	ways   []string
	stage  Stage
	way    int
	try    int
	rest   time.Duration
	at     time.Duration // the next command is due
	end    time.Duration // of the attempt
	asked  Command       // ID 0: no answer is awaited
	due    time.Duration // of the answer
	lastID uint64

	wasOn    bool   // it was seen on, and ordered off
	ordered  bool   // the order was given in this attempt
	accepted bool   // the controller took the order of this attempt
	refused  string // or why not
	seen     Power  // last reading of this attempt
	trouble  string // last failure of a reading
	heard    bool   // a reading said off while heartbeats were heard

	why    []string // by way: why the last attempt failed
	rounds int
}

// New makes a Ladder that tries these ways in this order; their names are for people. seed makes its pauses
// differ from those of others.
func New(cfg Config, ways []string, seed uint64) *Ladder {
	return &Ladder{cfg: cfg.filled(), ways: ways, why: make([]string, len(ways)), stage: Waiting,
		rng: rand.New(rand.NewPCG(seed, uint64(len(ways))))}
}

// Stage tells where it stands.
func (l *Ladder) Stage() Stage { return l.stage }

// Rounds is how often all ways were tried without success.
func (l *Ladder) Rounds() int { return l.rounds }

// Cut tells that the machine was seen on and then ordered off: if it is off, it is because of this.
func (l *Ladder) Cut() bool { return l.wasOn }

// Way names the way that is tried, or that gave the proof.
func (l *Ladder) Way() string {
	if len(l.ways) == 0 {
		return ""
	}
	return l.ways[l.way]
}

// Failure tells for each way why its last attempt failed; empty while none has.
func (l *Ladder) Failure() string {
	var parts []string
	for i, w := range l.why {
		if w != "" {
			parts = append(parts, l.ways[i]+" "+w)
		}
	}
	return strings.Join(parts, "; ")
}

// Step takes what has happened and returns what to do now: one command at most, since a controller is asked
// one thing at a time.
func (l *Ladder) Step(now time.Duration, in Input) []Command {
	if l.stage == Proven || len(l.ways) == 0 {
		return nil
	}
	if a := in.Answer; a != nil && l.asked.ID != 0 && a.ID == l.asked.ID && now < l.due {
		l.answered(now, *a, in)
	}
	if l.asked.ID != 0 && now >= l.due {
		l.answered(now, Answer{Err: fmt.Sprintf("did not answer within %v", l.asked.Within.Round(time.Millisecond))}, in)
	}
	if l.stage == Proven {
		return nil
	}
	if l.stage != Waiting && now >= l.end {
		l.fail(now, l.verdict())
	}
	if l.asked.ID != 0 || now < l.at {
		return nil
	}
	if l.stage == Waiting {
		l.begin(now)
	}
	return []Command{l.ask(now)}
}

func (l *Ladder) move(to Stage) {
	for _, s := range transitions[l.stage] {
		if s == to {
			l.stage = to
			return
		}
	}
	panic(fmt.Sprintf("fence: %s after %s", to, l.stage)) // a bug here must not become a proof
}

func (l *Ladder) begin(now time.Duration) {
	l.move(Looking)
	l.end = now + l.cfg.Attempt
	l.ordered, l.accepted, l.refused, l.seen, l.trouble, l.heard = false, false, "", Unknown, "", false
}

func (l *Ladder) ask(now time.Duration) Command {
	do := Read
	if l.stage == Cutting {
		do = Cut
	}
	l.lastID++
	l.asked = Command{ID: l.lastID, Way: l.way, Do: do, Within: min(l.cfg.Ask, l.end-now)}
	l.due = now + l.asked.Within
	return l.asked
}

// answered takes the outcome of the command that is awaited.
func (l *Ladder) answered(now time.Duration, a Answer, in Input) {
	l.asked.ID = 0
	if a.Err == "" && l.stage != Cutting && a.Power == Unknown {
		a.Err = "does not know whether the power is on"
	}
	switch l.stage {
	case Looking:
		if a.Err != "" {
			l.fail(now, a.Err)
			return
		}
		l.read(now, a, in)
	case Cutting:
		l.accepted, l.refused = a.Err == "", a.Err
		l.move(Reading)
		l.at = now + l.cfg.Poll
	case Reading, Confirming:
		if a.Err != "" && now >= l.end && l.asked.Within < l.cfg.Ask {
			return // it had less time than it may take: what was read before is the better reason
		}
		l.read(now, a, in)
	}
}

// read takes a reading. One that is on is ordered off, once in an attempt. One that is off before it was
// ordered so is not ordered: it might be switched on by somebody in between, and would then stay off.
func (l *Ladder) read(now time.Duration, a Answer, in Input) {
	l.seen, l.trouble = a.Power, a.Err
	off := a.Err == "" && a.Power == Off
	l.heard = off && in.Heard
	switch {
	case a.Err == "" && a.Power == On && !l.ordered && in.Hold != "":
		l.fail(now, "reads on and is not switched off: "+in.Hold)
	case a.Err == "" && a.Power == On && !l.ordered:
		l.move(Cutting)
		l.wasOn, l.ordered, l.at = true, true, now
	case !off || in.Heard:
		if l.stage != Reading {
			l.move(Reading)
		}
		l.at = now + l.cfg.Poll
	case l.stage == Confirming:
		l.move(Proven)
	default:
		l.move(Confirming)
		l.at = now + l.cfg.Confirm
	}
}

// verdict tells why an attempt whose time is over has failed.
func (l *Ladder) verdict() string {
	switch {
	case l.heard:
		return "lies: it reads off, but the node's heartbeats are heard; is it the controller of this machine?"
	case l.seen == On && l.accepted:
		return "lies: it took the order to switch off and still reads on"
	case l.seen == On:
		return "did not switch off: " + l.refused
	case l.trouble != "":
		return l.trouble
	case l.refused != "":
		return l.refused
	}
	return fmt.Sprintf("did not read off twice within %v", l.cfg.Attempt)
}

func (l *Ladder) fail(now time.Duration, why string) {
	l.move(Waiting)
	l.asked.ID = 0 // its answer would be of an attempt that is over
	l.why[l.way] = why
	if l.try++; l.try < l.cfg.Attempts {
		l.at = now + l.jitter(l.cfg.Pause)
		return
	}
	l.try = 0
	if l.way++; l.way < len(l.ways) {
		l.at = now
		return
	}
	l.way = 0
	l.rest = min(max(2*l.rest, l.cfg.Rest), l.cfg.MostRest)
	l.rounds++
	l.at = now + l.jitter(l.rest)
}

// jitter is half to one and a half times d.
func (l *Ladder) jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(l.rng.Int64N(int64(d)+1))
}
