package sim

import (
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/watchdog"
)

// dog is a machine's watchdog and the part of PID 1 that feeds it. It counts true time, at a rate of its own, and
// resets the machine whatever that does: frozen machines too.
type dog struct {
	timeout time.Duration // 0: there is none
	late    time.Duration // how much later than its timeout it bites
	feeds   int
	until   time.Duration // local time at which the machine must be off; 0: not bound
	lapsed  bool          // PID 1 feeds no more
	stood   bool          // the machine's clock stood still in this boot
}

// Watchdog is an operator who switches the binding of a machine's watchdog on or off.
func (s *Sim) Watchdog(name string, on bool) {
	s.Logf("--- an operator sets the watchdog of %s: on %v", name, on)
	p := cluster.WatchdogPolicy{Node: name, On: on}
	s.operate(cluster.Txn{Puts: []cluster.Put{{Key: p.Key(), Value: p}}})
}

// watchdog is what PID 1 finds, nil if there is none. A machine that stands for a real one has what that has.
func (m *machine) watchdog() *cluster.Watchdog {
	switch {
	case m.like != nil && m.like.Watchdog != nil:
		w := *m.like.Watchdog
		w.Bound = 0
		return &w
	case m.sim.cfg.Watchdog > 0:
		return &cluster.Watchdog{Identity: "simulated", Timeout: m.sim.cfg.Watchdog}
	}
	return nil
}

// armWatchdog starts the watchdog and PID 1's feeding of it, in a new boot.
func (m *machine) armWatchdog() {
	s := m.sim
	m.dog = dog{}
	w := m.watchdog()
	if w == nil {
		return
	}
	m.dog.timeout, m.dog.late = w.Timeout, s.between(0, watchdog.Late(w.Timeout))
	m.feed()
	boot := m.boot
	// Each step of PID 1 may be held up, by almost as much as the machine has to live, or more. It would be reset
	// all the time if that were so always: only on machines that are cut off, where it matters.
	stall := func() time.Duration {
		if s.net.side[m.name] != 0 && s.rng.IntN(5) == 0 {
			return s.between(0, w.Timeout*5/4)
		}
		return 0
	}
	same := func(f func()) func() {
		return func() {
			m.do(func() {
				if m.boot == boot && m.powered {
					f()
				}
			})
		}
	}
	may := watchdog.MayFeed
	if s.cfg.mayFeed != nil {
		may = s.cfg.mayFeed
	}
	var look func()
	look = func() {
		m.dog.lapsed = m.dog.lapsed || m.dog.until != 0 && !may(m.clock(), m.dog.until, w.Timeout)
		if m.dog.lapsed {
			s.Logf("%s feeds its watchdog no more, and kills its services", m.name)
			m.dark()
			m.endAgent()
			return
		}
		s.after(stall(), same(func() {
			m.feed()
			s.after(time.Second+stall(), same(look))
		}))
	}
	s.after(time.Second, same(look))
}

func (m *machine) feed() {
	m.dog.feeds++
	fed, boot := m.dog.feeds, m.boot
	m.sim.after(m.dog.timeout+m.dog.late, func() {
		if m.boot == boot && m.dog.feeds == fed {
			m.sim.Logf("the watchdog resets %s", m.name)
			m.sim.Faults["reset by watchdog"]++
			m.powerOff()
			m.powerOn()
		}
	})
}

func (w *world) Bind(until time.Duration) {
	m, gen := w.m, w.gen
	if m.dog.timeout == 0 {
		return
	}
	m.sim.after(time.Millisecond, func() {
		m.do(func() {
			if m.gen != gen || m.dog.lapsed {
				return
			}
			if m.sim.cfg.bindLate {
				m.brain.Bound(until)
				return
			}
			m.dog.until = max(m.dog.until, until)
			m.tellBound(gen)
		})
	})
}

func (w *world) Unbind() {
	m, gen := w.m, w.gen
	m.sim.after(time.Millisecond, func() {
		m.do(func() {
			if m.gen == gen && !m.dog.lapsed {
				m.dog.until = 0
			}
		})
	})
}

func (m *machine) tellBound(gen int) {
	until := m.dog.until
	if until == 0 {
		return
	}
	m.sim.after(time.Millisecond, func() {
		m.do(func() {
			if m.gen == gen && m.brain != nil {
				m.brain.Bound(until)
			}
		})
	})
}
