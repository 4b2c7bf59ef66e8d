package pathmtu

import (
	"cmp"
	"time"
)

const (
	// Every is between two probes of a path.
	Every = 20 * time.Second
	// confirm is after what time a limit that was found is searched again: a link that loses packets looks like one
	// with a limit, each time another one.
	confirm = 2 * time.Second
	// answerTime is how long an answer is waited for, tries how often a size is tried before it is given up.
	answerTime = 500 * time.Millisecond
	tries      = 3
)

// Search is what is known of the path to one peer over one link. The zero value knows nothing. It is pure: its driver
// sends what Next says and tells of answers.
type Search struct {
	full  int           // the port's MTU
	pause time.Duration // instead of Every, for tests

	size, tried int // of the packet that is under way
	until       time.Duration
	below       int // the largest that has arrived in this search; 0: none
	above       int // the smallest that has not
	next        time.Duration
	same        int // how often in a row the same was found

	// Largest packet that arrives, bytes, and of which MTU that was found; 0: not known.
	Largest, Of int
}

// Next says whether to send a packet now, and of which size. full is the port's MTU.
func (s *Search) Next(now time.Duration, full int) (size int, send bool) {
	if full != s.full { // begin anew
		*s = Search{full: full, pause: s.pause, Largest: s.Largest, Of: s.Of, same: s.same}
	}
	switch {
	case full < smallest || full > 65535:
		return 0, false
	case s.size == 0 && now < s.next:
		return 0, false
	case s.size == 0:
		s.size, s.tried, s.below, s.above = full, 0, 0, full+1
	case now < s.until:
		return 0, false
	}
	if s.tried == tries {
		s.above, s.tried = s.size, 0
		if !s.choose(now) {
			return 0, false
		}
	}
	s.tried++
	s.until = now + answerTime
	return s.size, true
}

// Answer takes the news that a packet of that size has arrived.
func (s *Search) Answer(now time.Duration, size int) {
	if s.size == 0 || size > s.full || size < s.below {
		return
	}
	s.below = size
	if size >= s.size {
		s.tried = 0
		s.choose(now)
		s.until = now
	}
}

// choose picks the next size to try; false: the search is over.
func (s *Search) choose(now time.Duration) bool {
	switch {
	case s.below == 0 && s.above <= smallest: // the link is bad
		s.found(now, 0, 0)
	case s.below == 0:
		s.size = smallest
		return true
	case s.above-s.below > 1:
		s.size = (s.above + s.below) / 2
		return true
	default:
		s.found(now, s.below, s.full)
	}
	return false
}

// found ends a search.
func (s *Search) found(now time.Duration, largest, of int) {
	if largest != s.Largest || of != s.Of {
		s.same = 0
	}
	s.same++
	s.Largest, s.Of, s.size, s.next = largest, of, 0, now+cmp.Or(s.pause, Every)
	if s.same == 1 && largest < of {
		s.next = now + min(confirm, cmp.Or(s.pause, Every))
	}
}

// Limit is the largest packet that arrives, if that is certainly less than the port's MTU.
func (s *Search) Limit() (largest int, ok bool) {
	return s.Largest, s.Largest < s.Of && s.same > 1
}
