package pid1

import "time"

// Limits are the times by which PID 1 judges the agent. Each has a default; a zero field means the default.
type Limits struct {
	// Boot is how long the first agent may take from PID 1's start to its first feed. Longer: slow machines
	// get through; shorter: a machine that boots into a broken state resets sooner. Default 2 min.
	Boot time.Duration
	// Feed is how old the last feed of a running agent may be. The agent feeds every second. Default 8 s.
	Feed time.Duration
	// Restart is how old the last feed may be while the agent is down or starting. Services keep running in
	// that time, unattended. Default 30 s.
	Restart time.Duration
	// Watchdog is the timeout programmed into the watchdog, in whole seconds: from the last feed to the reset.
	// Default 10 s.
	Watchdog time.Duration
	// Bite is how long after the watchdog should have reset the machine PID 1 does it itself. Default 5 s.
	Bite time.Duration
	// Stop is the cap on an orderly stop; after it the machine is stopped by force. Default 10 s.
	Stop time.Duration
	// StopAgent is the part of Stop that the agent gets to end by itself after SIGTERM. Default 3 s.
	StopAgent time.Duration
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&l.Boot, 2*time.Minute)
	set(&l.Feed, 8*time.Second)
	set(&l.Restart, 30*time.Second)
	set(&l.Watchdog, 10*time.Second)
	set(&l.Bite, 5*time.Second)
	set(&l.Stop, 10*time.Second)
	set(&l.StopAgent, 3*time.Second)
	return l
}

// verdict is what the guard says about the watchdog.
type verdict int

const (
	feed   verdict = iota // the agent is well, or still within its grace
	starve                // it is not: stop the services, feed no more
	force                 // starving did not reset the machine: do it ourselves
)

func (v verdict) String() string { return [...]string{"feed", "starve", "force"}[v] }

// trust is how the guard sees the agent, and by that which limit holds.
type trust int

const (
	booting  trust = iota // no agent has ever fed: Limits.Boot since PID 1's start
	well                  // this agent has fed: Limits.Feed since its last feed
	absent                // down, or started and not fed yet: Limits.Restart since the last feed
	starving              // a limit was passed. Only a feed leads out.
)

// guard decides whether the watchdog is fed. It has no clock: every time is an argument, counted from boot.
//
// The worked timeline of a hung agent, with the defaults:
//
//	 0 s  last feed
//	 8 s  starve: services are killed, the watchdog is fed no more (its last feed was at most 1 s ago)
//	18 s  the watchdog resets the machine
//	23 s  or, if it does not, PID 1 does
type guard struct {
	limits  Limits
	trust   trust
	since   time.Duration // start of PID 1 while booting, then the time of the last feed
	starved time.Duration // when starving began
}

func newGuard(l Limits, now time.Duration) guard {
	return guard{limits: l, since: now}
}

// fed notes that the agent was well at time at, heard at time now. A time in the future is a clock that
// cannot be right and counts as now; an older one than already known changes nothing.
func (g *guard) fed(at, now time.Duration) {
	at = min(at, now)
	switch {
	case g.trust == booting:
	case at <= g.since:
		return
	case g.trust == starving && now-at > g.limits.Feed:
		return // it waited in the socket while the agent was already too late
	}
	g.trust, g.since = well, at
}

// gone notes that the agent ended. It does not lead out of starving: a hung agent that dies at last is no
// reason to believe in the machine.
func (g *guard) gone() {
	if g.trust == well {
		g.trust = absent
	}
}

// deadline is when the patience with the agent ends.
func (g *guard) deadline() time.Duration {
	switch g.trust {
	case booting:
		return g.since + g.limits.Boot
	case absent:
		return g.since + g.limits.Restart
	default:
		return g.since + g.limits.Feed
	}
}

// decide says at time now whether to feed.
func (g *guard) decide(now time.Duration) verdict {
	if g.trust != starving {
		if now < g.deadline() {
			return feed
		}
		g.trust, g.starved = starving, now
	}
	if now >= g.starved+g.limits.Watchdog+g.limits.Bite {
		return force
	}
	return starve
}
