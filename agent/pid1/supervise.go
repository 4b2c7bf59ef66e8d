package pid1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/skein-os/skein/agent/pid1/control"
)

const (
	// checkInterval is how often the guard is asked when nothing else happens.
	checkInterval = 500 * time.Millisecond
	// queueSize is how many exits may wait for an agent that does not read. A replay must fit.
	queueSize = 4 * control.History
	// lingerTime is how long the socket of a dead agent is still read: its last words may be a request
	// to power off, and arrive after the news of its death.
	lingerTime = 2 * time.Second
	// brokenTime is how long an agent may be seen running after its conversation broke. Usually it is about
	// to end: its socket closes a moment before it can be reaped.
	brokenTime = time.Second
	// complainInterval is how often PID 1 says that it still waits for the agent.
	complainInterval = 10 * time.Second
)

// running is the agent that runs now.
type running struct {
	pid     int
	conn    *conversation
	started time.Duration
	fed     bool
	broken  bool // its conversation ended, and it is killed at killAt if it still runs
	killAt  time.Duration
	deaf    bool // its queue overflowed; it was killed for that
	exits   chan<- control.Event
}

// heard is a request of an agent, or the end of its conversation.
type heard struct {
	from    *conversation
	request control.Request
	err     error
}

// supervisor is PID 1's one loop. All its fields belong to the goroutine of run.
type supervisor struct {
	world  World
	limits Limits
	guard  guard

	agent   *running // nil while it is down
	startAt time.Duration
	backoff backoff
	history history
	will    will
	words   words
	binding binding

	stopping  *stopping // nil until the machine is to stop
	lastFeed  time.Duration
	starved   bool
	complain  time.Duration // when to say next that the agent is waited for
	feedError string        // the last failure of the watchdog, said once

	heard chan heard
	done  chan struct{} // closed when run returns: lets go of the conversations
	talks tasks
}

func newSupervisor(w World, l Limits) *supervisor {
	l = l.withDefaults()
	now := w.Uptime()
	return &supervisor{
		world: w, limits: l, guard: newGuard(l, now),
		startAt: now, complain: now + complainInterval, lastFeed: -time.Hour,
		heard: make(chan heard), done: make(chan struct{}),
	}
}

// run supervises until the machine stops (World.Stop of the real world does not return) or ctx ends, which
// happens in tests only.
func (s *supervisor) run(ctx context.Context, signals <-chan os.Signal) {
	defer s.talks.wait()
	defer s.hangUp()
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-signals:
			s.signal(sig)
		case h := <-s.heard:
			s.hear(h)
		case <-timer.C:
		}
		if s.step() {
			return
		}
		timer.Reset(s.pause())
	}
}

func (s *supervisor) hangUp() {
	if s.agent != nil {
		s.agent.conn.close()
	}
}

// step does whatever is due, and is called after every event. It returns true when the machine was stopped.
func (s *supervisor) step() bool {
	// Reaping is done on every event and not only on SIGCHLD: signals of the same kind merge.
	s.reap()
	now := s.world.Uptime()
	s.sendWill(now)
	if s.stopping != nil {
		s.feedWatchdog(now) // the cap on the stop is what bounds this
		return s.stopStep(now)
	}
	ended, stop := s.boundStep(now)
	if stop {
		s.world.Logf("the watchdog did not reset this machine: rebooting by force")
		s.world.Stop(Restart)
		return true
	}
	if ended {
		return false
	}
	switch s.guard.decide(now) {
	case feed:
		s.starved = false
		s.feedWatchdog(now)
	case starve:
		if !s.starved {
			s.starved = true
			s.world.Logf("the agent is not well since %s: services killed, the watchdog will reset this machine", ago(now-s.guard.since))
			s.killServices()
		}
	case force:
		s.world.Logf("the watchdog did not reset this machine: rebooting by force")
		s.world.Stop(Restart)
		return true
	}
	if s.agent == nil && now >= s.startAt {
		s.start(now)
	}
	if s.agent != nil && s.agent.broken && now >= s.agent.killAt {
		s.agent.killAt = now + brokenTime
		s.killAgent("the agent closed its conversation and runs on, unheard")
	}
	if s.guard.trust == well {
		s.complain = now + complainInterval
	} else if now >= s.complain {
		s.complain = now + complainInterval
		s.world.Logf("waiting for the agent to be well, %s, patience ends in %s", ago(now-s.guard.since), ago(s.guard.deadline()-now))
	}
	return false
}

// pause is how long nothing is due.
func (s *supervisor) pause() time.Duration {
	if s.stopping != nil {
		return stopInterval
	}
	d := checkInterval
	if s.agent == nil && s.binding.lapsed == 0 { // else none is started any more
		d = min(d, s.startAt-s.world.Uptime())
	}
	if s.will.sending() {
		d = min(d, s.will.next-s.world.Uptime())
	}
	return max(d, 0)
}

// feedInterval is how often the hardware is fed: rarely enough to cost nothing.
const feedInterval = time.Second

// feedWatchdog is the only way to the hardware. The clock is read anew: whatever was done since the step began
// may have taken time. What passes after that is what package watchdog allows for.
func (s *supervisor) feedWatchdog(now time.Duration) {
	if now < s.lastFeed+feedInterval || !s.binding.mayFeed(s.world.Uptime(), s.world.WatchdogTimeout()) {
		return
	}
	s.lastFeed = now
	why := ""
	if err := s.world.FeedWatchdog(); err != nil {
		why = err.Error()
		s.lastFeed = now - feedInterval + checkInterval // try again soon
	}
	if why != s.feedError {
		s.feedError = why
		if why != "" {
			s.world.Logf("watchdog: %s", why)
		}
	}
}

func (s *supervisor) start(now time.Duration) {
	// Once more: what did not die at once may have by now. The exits belong in the replay.
	s.cleanUp()
	s.reap()
	pid, rw, err := s.world.StartAgent()
	if err != nil {
		delay := s.backoff.next(0)
		s.startAt = now + delay
		s.world.Logf("start agent: %v; trying again in %s", err, delay)
		return
	}
	out := make(chan control.Event, queueSize)
	for _, e := range s.history.all() {
		out <- e
	}
	if s.binding.until != 0 {
		out <- control.Event{Op: control.Bound, UntilMS: s.binding.until.Milliseconds()}
	}
	out <- control.Event{Op: control.Replayed}
	s.will.revoked = false
	conn := &conversation{rw: rw, closed: make(chan struct{})}
	s.agent = &running{pid: pid, conn: conn, started: now, exits: out}
	s.talks.start(func() { s.listen(conn) })
	s.talks.start(func() { conn.tell(out) })
	s.world.Logf("agent started as process %d", pid)
}

func (s *supervisor) reap() {
	for _, e := range s.world.Reap() {
		now := s.world.Uptime()
		if s.agent != nil && e.PID == s.agent.pid {
			s.agentEnded(e, now)
			continue
		}
		exit := control.Event{Op: control.Exit, PID: e.PID, Code: e.Code, Signal: int(e.Signal), AtMS: now.Milliseconds()}
		s.history.add(exit)
		if s.agent == nil {
			continue
		}
		select {
		case s.agent.exits <- exit:
		default:
			if !s.agent.deaf { // it has not read for thousands of exits
				s.agent.deaf = true
				s.killAgent("the agent does not read the exits of its processes")
			}
		}
	}
}

func (s *supervisor) agentEnded(e Ended, now time.Duration) {
	ran := now - s.agent.started
	how := fmt.Sprintf("with status %d", e.Code)
	if e.Signal != 0 {
		how = "by signal: " + e.Signal.String()
	}
	close(s.agent.exits)
	s.agent.conn.linger()
	s.agent = nil
	s.guard.gone()
	if s.stopping == nil && (e.Code != 0 || e.Signal != 0) {
		s.will.died(now)
		s.sendWill(now) // before anything that takes time: peers count every tenth of a second
	}
	s.cleanUp()
	if s.stopping != nil {
		s.world.Logf("agent ended %s", how)
		return
	}
	delay := s.backoff.next(ran)
	s.startAt = now + delay
	s.world.Logf("agent ended %s after %s; services go on; starting it again in %s", how, ago(ran), delay)
}

func (s *supervisor) killAgent(why string) {
	s.world.Logf("%s: killing it", why)
	if err := s.world.KillAgent(); err != nil {
		s.world.Logf("kill agent: %v", err)
	}
}

// cleanUp kills what a dead agent left behind: it must not work unattended, nor beside the next agent.
func (s *supervisor) cleanUp() {
	if err := s.world.KillAgent(); err != nil {
		s.world.Logf("clean up after the last agent: %v", err)
	}
}

func (s *supervisor) killServices() {
	s.will.revoke() // it says that they are there
	if err := s.world.KillServices(); err != nil {
		s.world.Logf("kill services: %v", err)
	}
}

func (s *supervisor) signal(sig os.Signal) {
	switch sig {
	case syscall.SIGINT: // what the kernel sends for Ctrl-Alt-Del
		s.beginStop(Restart, "Ctrl-Alt-Del")
	case syscall.SIGPWR:
		s.beginStop(PowerOff, "power failure")
	}
}

func (s *supervisor) hear(h heard) {
	current := s.agent != nil && s.agent.conn == h.from
	switch lineErr := (*control.LineError)(nil); {
	case errors.As(h.err, &lineErr):
		s.world.Logf("agent: %v", lineErr)
		return
	case h.err != nil:
		if current && s.stopping == nil {
			s.agent.broken, s.agent.killAt = true, s.world.Uptime()+brokenTime
		}
		return
	}
	now := s.world.Uptime()
	switch h.request.Op {
	case control.Feed:
		if !current { // a feed of the dead is no sign of life
			return
		}
		at := now
		if h.request.AtMS != 0 {
			at = time.Duration(h.request.AtMS) * time.Millisecond
		}
		s.guard.fed(at, now)
		if !s.agent.fed {
			s.agent.fed = true
			s.world.Logf("agent is well, %s after its start", ago(now-s.agent.started))
		}
	case control.SetWill:
		if current {
			s.will.set(*h.request.Will)
			s.words.left = *h.request.Will
			s.world.KeepWords(s.words.left)
		}
	case control.Bind:
		if current {
			s.bind(h.request)
		}
	case control.Unbind:
		if current {
			s.unbind()
		}
	case control.Reboot:
		s.beginStop(Restart, h.request.Reason)
	case control.Poweroff:
		s.beginStop(PowerOff, h.request.Reason)
	case control.StopServices:
		s.world.Logf("stopping all services: the agent asked for it")
		s.killServices()
	}
}

// listen hands the agent's requests to the loop until the conversation ends.
func (s *supervisor) listen(c *conversation) {
	defer c.close()
	lines := control.NewLines(c.rw)
	for {
		line, err := lines.Next()
		h := heard{from: c, err: err}
		if err == nil {
			if h.request, err = control.ParseRequest(line); err != nil {
				h.err = &control.LineError{Why: err}
			}
		}
		select {
		case s.heard <- h:
		case <-s.done:
			return
		}
		if lineErr := (*control.LineError)(nil); h.err != nil && !errors.As(h.err, &lineErr) {
			return
		}
	}
}

// ago prints a duration for people.
func ago(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
