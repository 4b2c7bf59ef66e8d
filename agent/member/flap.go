package member

import "time"

// flap is how often a link to a peer went bad lately, however shortly, and whether it is held for that. A link
// that is held is told of once; what the node sends prefers any other (package node), and what is heard on it still
// counts as a sign of life: to be heard at all is never a reason to give a node up.
type flap struct {
	known bool            // since when is known
	down  bool            // undamped: one direction or both are cut
	since time.Duration   // since when
	downs []time.Duration // when it went bad, within flapWindow

	held  bool
	hold  time.Duration // how long it must be steady
	times int           // in a row
	ended time.Duration // the last time that it was let go
}

// unknown: the peer is not heard, so nothing can be said of its links.
func (f *flap) unknown() { f.known = false }

// flaps takes the link's condition now. It tells whether the link begins to be held, or is let go, and as what.
func (st *linkState) flaps(now time.Duration, l LinkView) (LinkKind, bool) {
	f := &st.flap
	kind := st.judge(l)
	if down := kind == LinkSilent || kind == LinkOneWay; !f.known || down != f.down {
		if f.known && down {
			f.downs = append(f.downs, now)
		}
		f.known, f.down, f.since = true, down, now
	}
	for len(f.downs) > 0 && now-f.downs[0] > flapWindow {
		f.downs = f.downs[1:]
	}
	switch {
	case !f.held && len(f.downs) > flapTimes:
		if f.times > 0 && now-f.ended > flapForgive {
			f.times = 0
		}
		f.held, f.hold = true, min(flapHold<<min(f.times, 10), flapHoldMost)
		f.times++
		return LinkFlapping, true
	case f.held && now-f.since >= f.hold: // the same all the time, be it good or bad
		f.held, f.ended, f.downs = false, now, nil
		return kind, true
	}
	return "", false
}
