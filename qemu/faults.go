package qemu

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/qemu/ethernet"
	"github.com/skein-os/skein/qemu/san"
)

// operate runs f for one machine, alone.
func (l *Lab) operate(node string, f func(*Machine) error) error {
	m, err := l.machine(node)
	if err != nil {
		return err
	}
	m.op.Lock()
	defer m.op.Unlock()
	return f(m)
}

// PowerOn starts a machine that is off.
func (l *Lab) PowerOn(ctx context.Context, node string) error {
	return l.operate(node, func(m *Machine) error { return m.powerOn(ctx) })
}

// PowerOff cuts the power of a machine: nothing of it gets to say goodbye. It has no effect on a
// machine that is off.
func (l *Lab) PowerOff(node string) error {
	return l.operate(node, func(m *Machine) error {
		at := time.Now()
		if m.powerOff() {
			l.events.add(node, EventPowerOff, fmt.Sprintf("gone %s after the order", time.Since(at).Round(time.Millisecond)))
			l.changed()
		}
		return nil
	})
}

// Reset presses a machine's reset button.
func (l *Lab) Reset(ctx context.Context, node string) error {
	return l.operate(node, func(m *Machine) error {
		p, err := m.running()
		if err != nil {
			return err
		}
		l.events.add(node, EventReset, "")
		return p.qmp.Execute(ctx, "system_reset", nil, nil)
	})
}

// Freeze makes a machine stand still, with its clock standing or running.
func (l *Lab) Freeze(ctx context.Context, node string, clock Clock) error {
	return l.operate(node, func(m *Machine) error {
		p, err := m.running()
		if err != nil {
			return err
		}
		switch clock {
		case ClockStanding:
			err = p.qmp.Execute(ctx, "stop", nil, nil)
		case ClockRunning:
			err = p.cmd.Process.Signal(unix.SIGSTOP)
		default:
			return fmt.Errorf("clock %q: must be %s or %s", clock, ClockStanding, ClockRunning)
		}
		if err != nil {
			return fmt.Errorf("freeze %s: %w", node, err)
		}
		m.setFrozen(clock)
		l.events.add(node, EventFreeze, "clock "+string(clock))
		return nil
	})
}

// Thaw lets a frozen machine go on.
func (l *Lab) Thaw(ctx context.Context, node string) error {
	return l.operate(node, func(m *Machine) error {
		m.mu.Lock()
		p, clock := m.proc, m.frozen
		m.mu.Unlock()
		if p == nil || clock == "" {
			return fmt.Errorf("%s is not frozen", node)
		}
		var err error
		if clock == ClockRunning {
			err = p.cmd.Process.Signal(unix.SIGCONT)
		} else {
			err = p.qmp.Execute(ctx, "cont", nil, nil)
		}
		if err != nil {
			return fmt.Errorf("thaw %s: %w", node, err)
		}
		m.setFrozen("")
		l.events.add(node, EventThaw, "")
		return nil
	})
}

func (m *Machine) setFrozen(c Clock) {
	m.mu.Lock()
	m.frozen = c
	m.mu.Unlock()
}

// SetLink takes a machine's cable out (up false) or puts it in. A silent cut leaves the carrier: the
// machine sees a good link on which nothing passes. Putting it in undoes both.
func (l *Lab) SetLink(ctx context.Context, node, iface string, up, silent bool) error {
	lan, err := lanOf(iface)
	if err != nil {
		return err
	}
	return l.operate(node, func(m *Machine) error {
		if !up && silent {
			m.changeFault(lan, func(f *[2]ethernet.Fault) { f[ethernet.Out].Drop, f[ethernet.In].Drop = true, true })
			l.events.add(node, EventNetwork, iface+" silent")
			return nil
		}
		m.mu.Lock()
		p, frozen := m.proc, m.frozen
		m.mu.Unlock()
		if p != nil && frozen == ClockRunning {
			return fmt.Errorf("%s is frozen: its carrier cannot change; thaw it first, or cut the link with --silent", node)
		}
		if p != nil {
			if err := p.setLink(ctx, lan, up); err != nil {
				return fmt.Errorf("set link of %s: %w", node, err)
			}
			if up {
				p.ports[lan].Announce()
			}
		}
		m.mu.Lock()
		m.carrierOut[lan] = !up
		m.mu.Unlock()
		state := " down"
		if up {
			state = " up"
			m.changeFault(lan, func(f *[2]ethernet.Fault) { f[ethernet.Out].Drop, f[ethernet.In].Drop = false, false })
		}
		l.events.add(node, EventNetwork, iface+state)
		return nil
	})
}

func (m *Machine) changeFault(lan int, change func(*[2]ethernet.Fault)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.fault[lan])
	m.applyFaults()
}

// SetFault replaces what is done to one direction of a machine's interface, seen from the machine.
func (l *Lab) SetFault(node, iface string, d ethernet.Direction, f ethernet.Fault) error {
	return l.ChangeFault(node, iface, []ethernet.Direction{d}, func(old *ethernet.Fault) { *old = f })
}

// ChangeFault changes what is done to some directions of a machine's interface.
func (l *Lab) ChangeFault(node, iface string, dirs []ethernet.Direction, change func(*ethernet.Fault)) error {
	lan, err := lanOf(iface)
	if err != nil {
		return err
	}
	m, err := l.machine(node)
	if err != nil {
		return err
	}
	var text []string
	m.changeFault(lan, func(f *[2]ethernet.Fault) {
		for _, d := range dirs {
			change(&f[d])
			name := map[ethernet.Direction]string{ethernet.Out: "out", ethernet.In: "in"}[d]
			text = append(text, fmt.Sprintf("%s: loss %g%%, delay %s±%s, duplicates %g%%, wrong bits %g%%, drop %v", name,
				f[d].Loss*100, f[d].Delay, f[d].Jitter, f[d].Duplicate*100, f[d].Corrupt*100, f[d].Drop))
		}
	})
	l.events.add(node, EventNetwork, iface+" "+strings.Join(text, "; "))
	return nil
}

// Impair changes what is done to the frames of one machine, or with node empty to what every machine sends: then
// each frame between two of them meets the fault once. That spares the storage array. With iface empty both interfaces are meant, with no dirs
// both directions of the one machine. A cable that is out or silent stays so.
func (l *Lab) Impair(node, iface string, dirs []ethernet.Direction, to ethernet.Fault) error {
	ifaces := []string{iface}
	if iface == "" {
		ifaces = nil
		for lan := range LANs {
			ifaces = append(ifaces, fmt.Sprintf("eth%d", lan))
		}
	}
	nodes := []string{node}
	if node == "" {
		nodes = nil
		for _, m := range l.nodes() {
			nodes = append(nodes, m.node.Name)
		}
		if len(dirs) == 0 {
			dirs = []ethernet.Direction{ethernet.Out}
		}
	}
	if len(dirs) == 0 {
		dirs = []ethernet.Direction{ethernet.Out, ethernet.In}
	}
	for _, n := range nodes {
		for _, i := range ifaces {
			if err := l.ChangeFault(n, i, dirs, func(f *ethernet.Fault) {
				drop, longest := f.Drop, f.Longest
				*f = to
				f.Drop, f.Longest = drop, longest
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Partition splits the machines into groups that do not hear each other, on both LANs. Machines that
// are named in no group form one more. The host hears all, and so does the storage array if it is not named.
func (l *Lab) Partition(groups [][]string) error {
	of := map[string]int{}
	for i, g := range groups {
		for _, name := range g {
			if _, err := l.machine(name); err != nil {
				return err
			}
			if _, twice := of[name]; twice {
				return fmt.Errorf("%s is in two groups", name)
			}
			of[name] = i + 1
		}
	}
	if len(groups) < 2 && len(of) == len(l.nodes()) && of[san.Machine] == 0 {
		return fmt.Errorf("one group of all machines is no partition")
	}
	var text []string
	for _, g := range groups {
		text = append(text, strings.Join(g, ","))
	}
	var rest []string
	for _, m := range l.list() {
		group, named := of[m.node.Name]
		if !named && m.san == nil {
			group = len(groups) + 1
			rest = append(rest, m.node.Name)
		}
		m.setGroup(group)
	}
	if len(rest) > 0 {
		text = append(text, strings.Join(rest, ","))
	}
	l.events.add("", EventNetwork, "partition "+strings.Join(text, " | "))
	return nil
}

func (m *Machine) setGroup(g int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.group = g
	m.applyFaults()
}

// Heal undoes every fault of the networks: partitions, loss, delay, and cables that are out or in the wrong switch.
func (l *Lab) Heal(ctx context.Context) error {
	err := l.each(func(m *Machine) error {
		m.setGroup(0)
		for lan := range LANs {
			m.changeFault(lan, func(f *[2]ethernet.Fault) { *f = [2]ethernet.Fault{} })
			if err := m.plug(ctx, lan, lan); err != nil {
				return err
			}
		}
		m.mu.Lock()
		p, out, frozen := m.proc, m.carrierOut, m.frozen
		m.mu.Unlock()
		for lan, pulled := range out {
			if !pulled {
				continue
			}
			if p != nil {
				if frozen == ClockRunning {
					return fmt.Errorf("%s is frozen: thaw it first to put its cable in", m.node.Name)
				}
				if err := p.setLink(ctx, lan, true); err != nil {
					return fmt.Errorf("put in the cable of %s: %w", m.node.Name, err)
				}
			}
			m.mu.Lock()
			m.carrierOut[lan] = false
			m.mu.Unlock()
		}
		return nil
	})
	l.events.add("", EventNetwork, "healed")
	return err
}
