package qemu

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/skein-os/skein/qemu/ethernet"
)

// announceEvery is how often the switches say by LLDP who they are. Real ones do every 30 s and soon after a carrier
// comes up; these do not see carriers.
const announceEvery = 5 * time.Second

// handTime is how long a cable is in nobody's socket while it is moved.
const handTime = time.Second

// SwitchName is what the switch of a LAN calls itself: sw-a is lan0, sw-b is lan1.
func SwitchName(lan int) string { return "sw-" + string(rune('a'+lan)) }

// switchMAC is the address of a switch's chassis; 02: locally administered.
func switchMAC(lan int) ethernet.MAC { return ethernet.MAC{0x02, 0x77, 0, 0, 0, byte(lan + 1)} }

func (l *Lab) announce() {
	t := time.NewTicker(announceEvery)
	defer t.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-t.C:
		}
		for _, s := range l.switches {
			s.Announce()
		}
	}
}

// SwitchCables is what is plugged into one switch.
type SwitchCables struct {
	Switch string           `json:"switch"`
	Cables []ethernet.Cable `json:"cables"`
}

// Cables tells what is plugged in where, and what the machines say of themselves there.
func (l *Lab) Cables() []SwitchCables {
	var out []SwitchCables
	for lan, s := range l.switches {
		out = append(out, SwitchCables{Switch: SwitchName(lan), Cables: s.Cables()})
	}
	return out
}

// Plug pulls the cable of a machine's interface and plugs it into the switch of the given name; the machine sees that
// its carrier goes and comes back. The interface keeps its address.
func (l *Lab) Plug(ctx context.Context, node, iface, into string) error {
	lan, err := lanOf(iface)
	if err != nil {
		return err
	}
	to := -1
	var names []string
	for i := range LANs {
		if names = append(names, SwitchName(i)); names[i] == into {
			to = i
		}
	}
	if to < 0 {
		return fmt.Errorf("there is no switch %q; there are: %s", into, strings.Join(names, ", "))
	}
	return l.operate(node, func(m *Machine) error {
		if err := m.plug(ctx, lan, to); err != nil {
			return err
		}
		l.events.add(node, EventNetwork, iface+" plugged into "+into)
		return nil
	})
}

// plugged is the switch that a cable is in. The caller holds mu.
func (m *Machine) plugged(lan int) int { return (lan + m.elsewhere[lan]) % LANs }

func (m *Machine) pluggedIn(lan int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plugged(lan)
}

// plug moves a cable. The caller holds op.
func (m *Machine) plug(ctx context.Context, lan, to int) error {
	m.mu.Lock()
	p, frozen, out, same := m.proc, m.frozen, m.carrierOut[lan], m.plugged(lan) == to
	m.mu.Unlock()
	if same {
		return nil
	}
	if p != nil && frozen == ClockRunning {
		return fmt.Errorf("%s is frozen: its carrier cannot change; thaw it first", m.node.Name)
	}
	if p != nil && !out {
		if err := p.setLink(ctx, lan, false); err != nil {
			return fmt.Errorf("pull a cable of %s: %w", m.node.Name, err)
		}
	}
	m.mu.Lock()
	m.elsewhere[lan] = (to - lan + LANs) % LANs
	m.mu.Unlock()
	if p == nil {
		return nil
	}
	p.ports[lan].Move(m.lab.switches[to])
	if out {
		return nil
	}
	// As long as a hand needs: a guest that looks only afterwards would not know that its carrier was gone.
	t := time.NewTimer(handTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done(): // in it goes all the same
		ctx = context.WithoutCancel(ctx)
	}
	if err := p.setLink(ctx, lan, true); err != nil {
		return fmt.Errorf("plug in a cable of %s: %w", m.node.Name, err)
	}
	p.ports[lan].Announce() // what was said before found no carrier
	return nil
}

// LimitMTU has a machine's switch drop packets of more than mtu bytes, in both directions and without a word; 0 ends it.
func (l *Lab) LimitMTU(node, iface string, mtu int) error {
	if mtu < 0 {
		return fmt.Errorf("limit of %d bytes: must not be negative", mtu)
	}
	longest := 0
	if mtu > 0 {
		longest = mtu + ethernet.HeaderBytes
	}
	lan, err := lanOf(iface)
	if err != nil {
		return err
	}
	m, err := l.machine(node)
	if err != nil {
		return err
	}
	m.changeFault(lan, func(f *[2]ethernet.Fault) { f[ethernet.Out].Longest, f[ethernet.In].Longest = longest, longest })
	l.events.add(node, EventNetwork, fmt.Sprintf("%s takes packets of up to %d bytes (0: all)", iface, mtu))
	return nil
}
