package sim

import "time"

// stopTime is how long an orderly stop takes at most, from the agent's last word to the end of the machine.
const stopTime = 3 * time.Second

// Shutdown stops a machine in order, as an operator or its power button does; back: it starts again by itself.
// The agent says farewell; containers run on until PID 1 has stopped them.
func (s *Sim) Shutdown(name string, back bool) {
	m := s.machine(name)
	if !m.works() {
		return
	}
	s.Logf("--- %s is stopped in order, comes back: %v", name, back)
	stop := s.between(50*time.Millisecond, stopTime)
	boot := m.boot
	if m.brain != nil {
		m.brain.Stop("the node is being stopped")
	}
	words := m.will.Stopped
	m.endAgent()
	// PID 1 says it too, when the agent has ended.
	for range 3 {
		for _, d := range words {
			s.send(m, d)
		}
	}
	m.will = will{}
	s.after(stop, func() {
		m.do(func() {
			if m.powered && m.boot == boot {
				m.powerOff()
				if back {
					m.powerOn()
				}
			}
		})
	})
}

// FailPID1 makes the first process of a machine panic: it says so and restarts the machine at once.
func (s *Sim) FailPID1(name string) {
	m := s.machine(name)
	if !m.works() {
		return
	}
	s.Logf("--- PID 1 of %s panics", name)
	for range 3 {
		for _, d := range m.will.Failed {
			s.send(m, d)
		}
	}
	m.powerOff()
	m.powerOn()
}

// Renounce imitates the mark that every later agent of the boot reads, and the closing of the kernel's guard.
func (w *world) Renounce() bool {
	w.m.renounced = true
	if w.m.sim.cfg.falseFarewell {
		return true
	}
	clear(w.m.guard)
	return true
}
