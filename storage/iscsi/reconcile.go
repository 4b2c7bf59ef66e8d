package iscsi

import (
	"cmp"
	"slices"
	"time"
)

// Back-off between two tries of one portal, and how long a session may be without its connection before it is
// logged out and in again: iscsid has been seen to retry a stale session for ever.
const (
	FirstRetry = time.Second
	MaxRetry   = 30 * time.Second
	StuckAfter = 60 * time.Second
)

// State is a session's, as /sys/class/iscsi_session/*/state has it.
type State string

// The kernel's states.
const (
	LoggedIn State = "LOGGED_IN"
	Failed   State = "FAILED"
	Free     State = "FREE"
)

// Session is one of the kernel's.
type Session struct {
	Portal
	ID    int // N of sessionN
	State State
}

// Do is a kind of step.
type Do int

// The steps.
const (
	Login Do = iota + 1
	Logout
)

// Step is one thing to do.
type Step struct {
	Do     Do
	Portal Portal
	ID     int // of the session to log out
	Why    string
}

// Reconciler remembers what was tried. It does nothing by itself and has no clock.
type Reconciler struct {
	tries  map[Portal]try
	stayed map[int]try       // sessions that could not be logged out
	failed map[int]time.Time // since when a session is seen without its connection
}

type try struct {
	failures int
	next     time.Time
}

// Next returns what to do now, portals in order, and when to ask again at the latest if nothing changes (zero: no need).
func (r *Reconciler) Next(now time.Time, want []Portal, seen []Session) (steps []Step, again time.Time) {
	later := func(at time.Time) {
		if again.IsZero() || at.Before(again) {
			again = at
		}
	}
	out := func(s Session, why string) {
		if t := r.stayed[s.ID]; now.Before(t.next) {
			later(t.next)
		} else {
			steps = append(steps, Step{Logout, s.Portal, s.ID, why})
		}
	}
	have := map[Portal]bool{}
	since := map[int]time.Time{}
	for _, s := range seen {
		switch {
		case !slices.Contains(want, s.Portal):
			out(s, "the portal is wanted no more")
			continue
		case have[s.Portal]:
			out(s, "there is another session to the portal")
			continue
		}
		have[s.Portal] = true
		if s.State == LoggedIn {
			continue
		}
		at, known := r.failed[s.ID]
		if !known {
			at = now
		}
		since[s.ID] = at
		if stuck := at.Add(StuckAfter); now.Before(stuck) {
			later(stuck) // iscsid connects it again until then
		} else {
			out(s, "the session has been without a connection for too long")
		}
	}
	r.failed = since
	for id := range r.stayed {
		if !slices.ContainsFunc(seen, func(s Session) bool { return s.ID == id }) {
			delete(r.stayed, id)
		}
	}
	for p := range r.tries {
		if have[p] || !slices.Contains(want, p) {
			delete(r.tries, p)
		}
	}
	for _, p := range want {
		if have[p] {
			continue
		}
		have[p] = true // named twice is wanted once
		if t := r.tries[p]; now.Before(t.next) {
			later(t.next)
		} else {
			steps = append(steps, Step{Do: Login, Portal: p, Why: "there is no session"})
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int {
		return cmp.Or(cmp.Compare(a.Portal.Target, b.Portal.Target), a.Portal.Addr.Compare(b.Portal.Addr))
	})
	return steps, again
}

// Refused tells that a login to p did not work.
func (r *Reconciler) Refused(now time.Time, p Portal) {
	if r.tries == nil {
		r.tries = map[Portal]try{}
	}
	r.tries[p] = r.tries[p].again(now)
}

// Stayed tells that a session could not be logged out.
func (r *Reconciler) Stayed(now time.Time, id int) {
	if r.stayed == nil {
		r.stayed = map[int]try{}
	}
	r.stayed[id] = r.stayed[id].again(now)
}

// again is the try after another failure.
func (t try) again(now time.Time) try {
	return try{t.failures + 1, now.Add(min(FirstRetry<<min(t.failures, 10), MaxRetry))}
}
