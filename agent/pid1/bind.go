package pid1

import (
	"time"

	"github.com/skein-os/skein/agent/pid1/control"
	"github.com/skein-os/skein/agent/watchdog"
)

// binding is what the agent has promised others of this machine: that its watchdog will have reset it at a
// certain time, unless a later time is named before. It is the agent's and outlives it: what was promised holds
// whatever becomes of who promised it.
type binding struct {
	until  time.Duration // 0: not bound
	lapsed time.Duration // when it was found that nothing may be fed any more; 0: it may. There is no way back
}

// mayFeed tells at time now whether a watchdog of timeout w may be fed. Package watchdog has the arithmetic.
func (b *binding) mayFeed(now, w time.Duration) bool {
	if b.lapsed == 0 && b.until != 0 && !watchdog.MayFeed(now, b.until, w) {
		b.lapsed = now
	}
	return b.lapsed == 0
}

// bind takes a later time, and tells the agent what holds. Without a watchdog there is no answer, so that nobody
// counts on it.
func (s *supervisor) bind(r control.Request) {
	if s.world.WatchdogTimeout() <= 0 || s.binding.lapsed != 0 {
		return
	}
	s.binding.until = max(s.binding.until, time.Duration(r.UntilMS)*time.Millisecond)
	s.tellBound()
}

func (s *supervisor) unbind() {
	if s.binding.until != 0 && s.binding.lapsed == 0 {
		s.world.Logf("the watchdog is not bound to the cluster any more")
		s.binding = binding{}
	}
}

func (s *supervisor) tellBound() {
	if s.agent == nil {
		return
	}
	select {
	case s.agent.exits <- control.Event{Op: control.Bound, UntilMS: s.binding.until.Milliseconds()}:
	default: // full of exits: the answer to the next one will do
	}
}

// boundStep ends the services of a machine whose time has come, and tells whether that is so. It is the
// watchdog that ends the machine.
func (s *supervisor) boundStep(now time.Duration) (ended, stop bool) {
	w := s.world.WatchdogTimeout()
	before := s.binding.lapsed
	if s.binding.mayFeed(now, w) {
		return false, false
	}
	if before == 0 {
		s.world.Logf("no majority of the cluster has heard this machine in time, and others will count on its end: services killed, the watchdog will reset it within %s", ago(watchdog.Bite(w)))
		s.killAgent("it would start the services again") // and none is started any more
		s.killServices()
	}
	return true, now >= s.binding.lapsed+watchdog.Bite(w)+s.limits.Bite
}
