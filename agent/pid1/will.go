package pid1

import (
	"time"

	"github.com/skein-os/skein/agent/pid1/control"
)

// willInterval is between two sendings of a will: often enough that peers, who suspect a silent node after
// some 0.6 s, have it even if the first one is lost.
const willInterval = 300 * time.Millisecond

// will is what the newest agent left for the case of its end, and whether that is being sent.
type will struct {
	newest  *control.Will
	revoked bool          // by what was done to the services: this agent gets no will any more
	until   time.Duration // sent until then; 0: not being sent
	next    time.Duration
	failure string // of sending, said once
}

// set takes a will of the agent that runs: whatever was said of the one before is over.
func (w *will) set(newest control.Will) {
	if !w.revoked {
		*w = will{newest: &newest}
	}
}

// revoke forgets the will, and takes no other until a new agent is started.
func (w *will) revoke() { *w = will{revoked: true} }

// died begins to send. An agent that dies before it has left a will of its own does not prolong the time of
// the one before it.
func (w *will) died(now time.Duration) {
	if w.newest == nil {
		return
	}
	if w.until == 0 {
		w.until = now + w.newest.Patience()
	}
	w.next = now
}

func (w *will) sending() bool { return w.until != 0 }

// due returns the will if it is to be sent now.
func (w *will) due(now time.Duration) *control.Will {
	switch {
	case w.until == 0 || now < w.next:
		return nil
	case now >= w.until:
		*w = will{revoked: w.revoked}
		return nil
	}
	w.next = now + willInterval
	return w.newest
}

func (s *supervisor) sendWill(now time.Duration) {
	w := s.will.due(now)
	if w == nil {
		return
	}
	if err := s.world.SendWill(*w); err != nil && err.Error() != s.will.failure {
		s.will.failure = err.Error()
		s.world.Logf("tell the other nodes that the agent restarts: %v", err)
	}
}
