package member

import "time"

// Causes of the end of a boot, in the order of what they are worth.
const (
	causeStopped  = 1 // PID 1 stops the machine in order: a hint
	causeFailed   = 2 // PID 1 has failed: a hint
	causeFarewell = 3 // the agent has closed the guard for the life of this boot: a proof
)

const (
	wordsStopped = "its PID 1 says that the machine is being stopped"
	wordsFailed  = "its PID 1 says that it has failed, and restarts the machine"
)

// Farewell is Gasp after which this boot certainly answers on no guarded address any more: those who hear it take it
// for proof L1, at once and without a clock. Whoever calls it has first made sure of two things: that the kernel
// answers on none of these addresses now, and that no later agent of this boot will ever hold one. What is
// said is true for ever then; copies and late arrivals say nothing false.
func (c *Core) Farewell(now time.Duration, reason string) []Datagram {
	c.wake(now)
	c.end()
	return c.lastWords(now, causeFarewell, reason)
}

// LastWords are datagrams that are not for sending, but for whoever outlives this agent (PID 1), to be sent when
// it knows that this boot ends: stopped, when the machine is being stopped in order and no agent runs any more;
// failed, when PID 1 itself has failed. Like a will, they are made anew every WillEvery and after each SetPeers;
// unlike one they do not age: they are true whenever they are sent.
func (c *Core) LastWords(now time.Duration) (stopped, failed []Datagram) {
	c.wake(now)
	return c.lastWords(now, causeStopped, wordsStopped), c.lastWords(now, causeFailed, wordsFailed)
}

func (c *Core) lastWords(now time.Duration, cause byte, reason string) []Datagram {
	c.lastWill = max(c.lastWill+1, uint64(max(now, 0)/time.Microsecond))
	return c.each(func(id uint8) []byte { return c.appendTag(c.appendEnd(id, c.lastWill, cause, reason)) })
}

// takeEnd notes that the committed boot of p ends. It is no sign of life and acknowledges nothing; how old it is
// does not matter. Heartbeats that were sent before and come after it change nothing any more.
func (p *peer) takeEnd(m *message) {
	if !p.over || m.cause == causeFarewell {
		p.gasped = string(m.reason)
		p.ordered = m.cause != causeFailed
	}
	if p.gasped == "" {
		p.gasped = "no reason given"
	}
	p.over = true
	p.dark = p.dark || m.cause == causeFarewell
}
