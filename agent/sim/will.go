package sim

import (
	"time"

	"github.com/skein-os/skein/agent/node"
)

// willEvery is between two sendings of a dead agent's will, as PID 1 does it.
const willEvery = 300 * time.Millisecond

// will is what an agent has left with its machine's PID 1.
type will struct {
	node.Bequest
	number int // of the agent's newest
}

func (w *world) Bequeath(b node.Bequest) { w.m.will = will{b, w.m.will.number + 1} }

// sendWill imitates PID 1: it sends the will of an agent that has ended until another agent leaves its own.
func (m *machine) sendWill() {
	left, boot, until := m.will, m.boot, m.clock()+m.will.Patience
	var again func()
	again = func() {
		if m.boot != boot || m.will.number != left.number || m.clock() >= until {
			return
		}
		for _, d := range left.Restarts {
			m.sim.send(m, d)
		}
		m.sim.after(willEvery, func() { m.do(again) })
	}
	m.do(again)
}
