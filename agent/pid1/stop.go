package pid1

import "time"

// stopInterval is how often the progress of an orderly stop is looked at.
const stopInterval = 50 * time.Millisecond

// stopPhase is how far an orderly stop has come. Phases only move forward.
type stopPhase int

const (
	stopAgent    stopPhase = iota // SIGTERM sent; it may hand over its work
	stopServices                  // everything in the services' cgroup was killed
	unmounting                    // file systems are being written back and unmounted
)

// stopping is an orderly stop of the machine. The order matters: the agent first, or it would start again
// what is stopped; then the services, which keep file systems busy; then the file systems.
type stopping struct {
	mode      StopMode
	phase     stopPhase
	began     time.Duration
	killed    bool // the agent was killed as well
	unmounted chan struct{}
}

// beginStop starts an orderly stop. A second request changes nothing: the first is on its way.
func (s *supervisor) beginStop(mode StopMode, reason string) {
	if s.stopping != nil {
		return
	}
	now := s.world.Uptime()
	s.world.Logf("%s: %s; at most %s", mode, reason, ago(s.limits.Stop))
	s.stopping = &stopping{mode: mode, began: now}
	s.will.revoke() // no agent will come back
	if s.agent != nil {
		if err := s.world.TerminateAgent(s.agent.pid); err != nil {
			s.world.Logf("terminate agent: %v", err)
		}
	}
}

// stopStep moves an orderly stop forward. It returns true when the machine was stopped.
func (s *supervisor) stopStep(now time.Duration) bool {
	stop := s.stopping
	if now >= stop.began+s.limits.Stop {
		s.world.Logf("orderly %s took too long: forcing it", stop.mode)
		s.world.Stop(stop.mode)
		return true
	}
	if s.agent == nil {
		s.sayStopped()
	}
	if stop.phase == stopAgent {
		if s.agent != nil && now < stop.began+s.limits.StopAgent {
			return false
		}
		if s.agent != nil && !stop.killed {
			stop.killed = true
			s.killAgent("the agent did not end in " + ago(s.limits.StopAgent))
		}
		s.world.Logf("stopping services")
		s.killServices()
		stop.phase = stopServices
	}
	if stop.phase == stopServices {
		if s.agent != nil || s.world.ServicesRunning() {
			return false
		}
		s.world.Logf("unmounting file systems")
		done := make(chan struct{})
		stop.unmounted = done
		stop.phase = unmounting
		go func() { // not waited for beyond the cap: dead storage may hold it for ever
			defer dieOnPanic()
			defer close(done)
			s.world.Unmount()
		}()
	}
	select {
	case <-stop.unmounted:
	default:
		return false
	}
	s.world.Logf("%s now, %s after the request", stop.mode, ago(now-stop.began))
	s.world.Stop(stop.mode)
	return true
}
