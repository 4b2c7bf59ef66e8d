package lldp

import "time"

// When to speak (IEEE 802.1AB, table 9-1, its defaults).
const (
	Interval = 30 * time.Second
	// TTL is four intervals and a second: three frames may be lost.
	TTL = 4*Interval + time.Second
	// FastInterval and FastTimes: after a port has come up, and after a new neighbour, so that both ends know of
	// each other soon.
	FastInterval = time.Second
	FastTimes    = 4
)

// Schedule says when to speak on one port. The zero value is a port that is down.
type Schedule struct {
	up   bool
	next time.Duration
	last time.Duration
	said bool // at last
	fast int
}

// Hurry: the port has come up, or there is a new neighbour.
func (s *Schedule) Hurry(now time.Duration) {
	s.up, s.fast = true, FastTimes
	s.soon(now)
}

// Changed: what there is to say has changed.
func (s *Schedule) Changed(now time.Duration) {
	if s.up {
		s.soon(now)
	}
}

// soon speaks as soon as FastInterval allows.
func (s *Schedule) soon(now time.Duration) {
	s.next = now
	if s.said {
		s.next = max(now, s.last+FastInterval)
	}
}

// Down: nothing is said any more.
func (s *Schedule) Down() { s.up, s.fast = false, 0 }

// Due tells whether to speak now, and counts it as done.
func (s *Schedule) Due(now time.Duration) bool {
	if !s.up || now < s.next {
		return false
	}
	s.last, s.said = now, true
	if s.fast--; s.fast > 0 {
		s.next = now + FastInterval
	} else {
		s.fast = 0
		s.next = now + Interval
	}
	return true
}

// Next is when to speak next, if the port is up.
func (s *Schedule) Next() (at time.Duration, ok bool) { return s.next, s.up }
