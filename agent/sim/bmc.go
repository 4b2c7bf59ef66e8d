package sim

import (
	"fmt"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
)

// BMC gives a machine a power controller, or changes how the one it has behaves: ok, lie (takes every order,
// obeys none, reads on), hang, refuse, slow.
func (s *Sim) BMC(name, mode string) error {
	switch mode {
	case "ok", "lie", "hang", "refuse", "slow":
	default:
		return fmt.Errorf("%q is no behaviour of a power controller", mode)
	}
	s.Logf("--- the power controller of %s: %s", name, mode)
	s.machine(name).bmc = mode
	if b := (cluster.BMC{Node: name, Driver: cluster.DriverRedfish, Addresses: []string{name + "-bmc"}}); s.Ledger.State().BMC(name) == nil {
		s.operate(cluster.Txn{Puts: []cluster.Put{{Key: b.Key(), Value: b}}})
	}
	return nil
}

// Confirm is an operator who says that a lost machine is off.
func (s *Sim) Confirm(name string) error {
	st := s.Ledger.State()
	n := st.Node(name)
	if n == nil || n.State != cluster.NodeLost {
		return fmt.Errorf("%s is not lost", name)
	}
	s.Logf("--- an operator confirms that %s is off", name)
	rec, cond := cluster.Confirmation(st, n, "operator", time.Time{})
	s.operate(cluster.Txn{Conditions: cond, Puts: []cluster.Put{{Key: rec.Key(), Value: rec}}})
	return nil
}

// Power imitates a controller and the network to it. It is on a supply and a network of its own.
func (w *world) Power(node string, c fence.Command) {
	m, s, target := w.m, w.m.sim, w.m.sim.machine(node)
	answer := func(after time.Duration, a fence.Answer) {
		a.ID = c.ID
		gen := m.gen
		s.after(min(after, c.Within), func() {
			m.do(func() {
				if m.gen == gen && m.brain != nil {
					m.brain.Powered(a)
				}
			})
		})
	}
	takes := s.between(20*time.Millisecond, 200*time.Millisecond)
	switch target.bmc {
	case "hang":
		answer(c.Within, fence.Answer{Err: "did not answer in time"})
		return
	case "refuse":
		answer(takes, fence.Answer{Err: "refused the order: 403"})
		return
	case "slow":
		takes = s.between(time.Second, 2*time.Second)
	}
	s.after(takes/2, func() { // it does so when it gets the order, whatever becomes of who gave it
		a := fence.Answer{}
		switch {
		case c.Do == fence.Read && (target.powered || target.bmc == "lie"):
			a.Power = fence.On
		case c.Do == fence.Read:
			a.Power = fence.Off
		case target.bmc == "lie":
		case c.Do == fence.Cut && target.powered:
			s.after(s.between(100*time.Millisecond, 2*time.Second), func() {
				if target.powered {
					s.Logf("%s is switched off by its controller", node)
					target.powerOff()
				}
			})
		case c.Do == fence.SwitchOn:
			target.powerOn()
		}
		answer(takes/2, a)
	})
}
