package member

import (
	"fmt"
	"time"
)

// LinkEvent tells a change of one link to one peer, damped: a flapping link is reported bad once and
// good only after it held.
type LinkEvent struct {
	Peer, Link string
	Kind       LinkKind
	Text       string // for people
}

// LinkKind is the condition of a link.
type LinkKind string

const (
	LinkSilent LinkKind = "silent"  // nothing gets through in either direction
	LinkOneWay LinkKind = "one-way" // one direction works, the other does not
	LinkLossy  LinkKind = "lossy"   // LossHigh percent or more get lost
	LinkBack   LinkKind = "back"    // good again
	// LinkFlapping: it went bad more than flapTimes within flapWindow. Nothing else is told of it, and nobody
	// relies on it, until it has been the same for flapHold, doubled each time.
	LinkFlapping LinkKind = "flapping"
)

const (
	// LossHigh is the loss in percent from which a link is reported lossy; it is good again below a
	// quarter of it.
	LossHigh = 20

	holdBad   = 200 * time.Millisecond // beyond Silent: a link is reported bad well within a second
	holdLossy = 2 * time.Second
	// holdMending: the loss is of the last 64 heartbeats, so one that was cut is lossy for 6.4 s after it is good.
	holdMending = 8 * time.Second
	holdBack    = 2 * time.Second // doubled by each relapse
	holdMax     = time.Minute
	forgive     = 5 * time.Minute // without a relapse: forget earlier ones

	flapTimes    = 4
	flapWindow   = time.Minute
	flapHold     = 30 * time.Second
	flapHoldMost = 10 * time.Minute
	flapForgive  = 20 * time.Minute // after the end of a flapping: the next one is a first one
)

// linkState damps one link to one peer.
type linkState struct {
	reported, seen LinkKind // LinkBack: good
	since          time.Duration
	relapses       int
	lastBad        time.Duration
	wasBad         bool
	flap           flap
}

// Events returns what changed since the last call. Links of a peer that is not alive are not judged:
// a dead node has no bad links. Nor are they while all of several are bad at once: then the peer is slow,
// not its cables.
func (c *Core) Events(now time.Duration) []LinkEvent {
	c.wake(now)
	var out []LinkEvent
	for _, p := range c.peers {
		views := c.linkViews(now, p)
		alive := c.alive(now, p) && p.ever && (len(views) == 1 || anyGood(views))
		for _, l := range views {
			st := p.evs[l.Link]
			if st == nil {
				st = &linkState{reported: LinkBack, seen: LinkBack, since: now}
				p.evs[l.Link] = st
			}
			if !alive {
				st.seen, st.since = st.reported, now
				st.flap.unknown()
				continue
			}
			if kind, told := st.flaps(now, l); told {
				st.reported, st.seen, st.since = kind, kind, now
				out = append(out, LinkEvent{Peer: p.Name, Link: l.Link, Kind: kind, Text: st.text(p.Name, l, kind)})
			}
			if st.flap.held {
				continue
			}
			if kind := st.judge(l); kind != st.seen {
				st.seen, st.since = kind, now
			}
			if st.seen == st.reported || now-st.since < st.hold() {
				continue
			}
			if st.seen != LinkBack && st.reported == LinkBack {
				if !st.wasBad || now-st.lastBad > forgive {
					st.relapses = 0
				} else {
					st.relapses++
				}
				st.wasBad, st.lastBad = true, now
			}
			st.reported = st.seen
			out = append(out, LinkEvent{Peer: p.Name, Link: l.Link, Kind: st.seen, Text: st.text(p.Name, l, st.seen)})
		}
	}
	return out
}

func anyGood(views []LinkView) bool {
	for _, l := range views {
		if l.Receiving && l.Sending {
			return true
		}
	}
	return false
}

func (st *linkState) judge(l LinkView) LinkKind {
	switch {
	case !l.Receiving && !l.Sending:
		return LinkSilent
	case l.Receiving != l.Sending:
		return LinkOneWay
	case l.LossPercent >= LossHigh, st.reported == LinkLossy && l.LossPercent >= LossHigh/4:
		return LinkLossy
	}
	return LinkBack
}

// hold is how long the new condition must last before it is reported.
func (st *linkState) hold() time.Duration {
	switch st.seen {
	case LinkLossy:
		if st.reported != LinkBack && st.reported != LinkLossy {
			return holdMending
		}
		return holdLossy
	case LinkBack:
		return min(holdBack<<min(st.relapses, 10), holdMax)
	}
	return holdBad
}

func (st *linkState) text(peer string, l LinkView, kind LinkKind) string {
	switch kind {
	case LinkFlapping:
		return fmt.Sprintf("%s: the link to %s goes up and down, more than %d times within %v: nothing relies on it, and nothing more is told of it, until it has been steady for %v",
			l.Link, peer, flapTimes, flapWindow, st.flap.hold)
	case LinkSilent:
		return fmt.Sprintf("%s: nothing gets through to %s or back; other links carry on", l.Link, peer)
	case LinkOneWay:
		if l.Receiving {
			return fmt.Sprintf("%s: %s does not hear us, but we hear it: one direction is cut", l.Link, peer)
		}
		return fmt.Sprintf("%s: we do not hear %s, but it hears us: one direction is cut", l.Link, peer)
	case LinkLossy:
		return fmt.Sprintf("%s: %d%% of the heartbeats from or to %s get lost", l.Link, l.LossPercent, peer)
	}
	return fmt.Sprintf("%s: link to %s works again in both directions", l.Link, peer)
}
