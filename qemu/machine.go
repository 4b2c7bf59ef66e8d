package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/qemu/ethernet"
	"github.com/skein-os/skein/qemu/qmp"
)

// Node is a machine to be: its name, its number (the last byte of its addresses) and the seed it finds
// in its firmware configuration.
type Node struct {
	Name   string
	Number int
	Seed   []byte
	Append string // to this machine's kernel's command line
}

// State of a machine.
type State string

const (
	Off     State = "off"
	Running State = "running"
	Frozen  State = "frozen"
)

// Clock is what a frozen machine's clock does.
type Clock string

const (
	// ClockStanding: no time passes for the machine (QEMU's stop). It cannot notice.
	ClockStanding Clock = "standing"
	// ClockRunning: the machine stands still while time passes (SIGSTOP). Its clock jumps at the thaw.
	ClockRunning Clock = "running"
)

// silentLimit is how long a machine may print nothing after power-on before it is started anew.
const (
	silentLimitTCG = 120 * time.Second
	silentLimitKVM = 45 * time.Second
)

// Machine is one virtual machine, on or off. Its methods are the Lab's, by name.
type Machine struct {
	lab     *Lab
	node    Node
	console *console
	bmc     *controller // nil: the storage array has none
	san     *SAN        // what the storage array is made of; nil: it is a node
	sanPort sanPort

	op sync.Mutex // one operation at a time

	mu         sync.Mutex
	proc       *process // nil: off
	frozen     Clock    // empty: not
	started    time.Time
	relaunches int
	rebooted   time.Time // last reset
	carrierOut [LANs]bool
	elsewhere  [LANs]int               // how many switches further the cable is than it should be
	fault      [LANs][2]ethernet.Fault // by Direction
	group      int
	leased     [LANs]time.Time // of the last lease in this power-on
	printed    chan struct{}   // closed at the first byte on the console
	cutting    bool            // the end of the process is the lab's doing
}

// Status of a machine.
type Status struct {
	Name       string                `json:"name"`
	State      State                 `json:"state"`
	Clock      Clock                 `json:"clock,omitempty"` // of a frozen machine
	Console    string                `json:"console"`         // file with all it printed
	Addresses  []string              `json:"addresses"`
	MACs       []string              `json:"macs"`
	PID        int                   `json:"pid,omitempty"`
	Started    time.Time             `json:"started,omitzero"`
	Relaunches int                   `json:"relaunches"`
	Links      []LinkStatus          `json:"links"`
	Traffic    map[string]PortCounts `json:"traffic,omitempty"`
}

// PortCounts are the counters of a machine's port on a LAN.
type PortCounts = ethernet.Stats

// LinkStatus is what the lab does to a machine's interface.
type LinkStatus struct {
	Interface string `json:"interface"`
	State     string `json:"state"` // up, down (no carrier), silent (carrier, but nothing passes)
	LossOut   string `json:"loss_out,omitempty"`
	LossIn    string `json:"loss_in,omitempty"`
	DelayOut  string `json:"delay_out,omitempty"`
	DelayIn   string `json:"delay_in,omitempty"`
	OtherOut  string `json:"other_out,omitempty"` // duplicates, wrong bits, long packets
	OtherIn   string `json:"other_in,omitempty"`
	Group     int    `json:"group,omitempty"`  // of a partition
	Switch    string `json:"switch,omitempty"` // the one that the cable is in, if that is not where it belongs
}

func (m *Machine) status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{Name: m.node.Name, State: Off, Console: m.lab.consolePath(m.node.Name), Relaunches: m.relaunches}
	for lan := range LANs {
		s.Addresses = append(s.Addresses, Addr(lan, m.node.Number).String())
		s.MACs = append(s.MACs, macText(MACOf(lan, m.node.Number)))
		s.Links = append(s.Links, m.link(lan))
	}
	if m.proc != nil {
		s.State, s.PID, s.Started = Running, m.proc.cmd.Process.Pid, m.started
		if m.frozen != "" {
			s.State, s.Clock = Frozen, m.frozen
		}
		s.Traffic = map[string]PortCounts{}
		for lan, p := range m.proc.ports {
			s.Traffic[fmt.Sprintf("eth%d", lan)] = p.Stats()
		}
	}
	return s
}

func (m *Machine) link(lan int) LinkStatus {
	out, in := m.fault[lan][ethernet.Out], m.fault[lan][ethernet.In]
	l := LinkStatus{Interface: fmt.Sprintf("eth%d", lan), State: "up", Group: m.group}
	if m.elsewhere[lan] != 0 {
		l.Switch = SwitchName(m.plugged(lan))
	}
	switch {
	case m.carrierOut[lan]:
		l.State = "down"
	case out.Drop && in.Drop:
		l.State = "silent"
	case out.Drop:
		l.State = "mute"
	case in.Drop:
		l.State = "deaf"
	}
	percent := func(f float64) string {
		if f == 0 {
			return ""
		}
		return fmt.Sprintf("%g%%", f*100)
	}
	delay := func(f ethernet.Fault) string {
		switch {
		case f.Delay == 0 && f.Jitter == 0:
			return ""
		case f.Jitter == 0:
			return f.Delay.String()
		default:
			return fmt.Sprintf("%s±%s", f.Delay, f.Jitter)
		}
	}
	other := func(f ethernet.Fault) string {
		var all []string
		if f.Duplicate > 0 {
			all = append(all, percent(f.Duplicate)+" twice")
		}
		if f.Longest > 0 {
			all = append(all, fmt.Sprintf("packets of up to %d bytes", f.Longest-ethernet.HeaderBytes))
		}
		if f.Corrupt > 0 {
			all = append(all, percent(f.Corrupt)+" with a wrong bit")
		}
		return strings.Join(all, ", ")
	}
	l.OtherOut, l.OtherIn = other(out), other(in)
	l.LossOut, l.LossIn, l.DelayOut, l.DelayIn = percent(out.Loss), percent(in.Loss), delay(out), delay(in)
	return l
}

// running returns the process of a machine that is on and not frozen.
func (m *Machine) running() (*process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.proc == nil:
		return nil, fmt.Errorf("%s is off: power it on first", m.node.Name)
	case m.frozen != "":
		return nil, fmt.Errorf("%s is frozen: thaw it first", m.node.Name)
	}
	return m.proc, nil
}

// adopt makes p the machine's process, with the faults that were set while it was off.
func (m *Machine) adopt(p *process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proc, m.frozen, m.started, m.cutting = p, "", time.Now(), false
	m.applyFaults()
}

// applyFaults tells the ports of the running process what is set. The caller holds mu.
func (m *Machine) applyFaults() {
	if m.proc == nil {
		return
	}
	for lan, port := range m.proc.ports {
		port.SetFault(ethernet.Out, m.fault[lan][ethernet.Out])
		port.SetFault(ethernet.In, m.fault[lan][ethernet.In])
		port.SetGroup(m.group)
	}
}

func (m *Machine) firstByte(*process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.printed:
	default:
		close(m.printed)
	}
}

// exited is told the end of a process, before its exited channel is closed.
func (m *Machine) exited(p *process) {
	m.mu.Lock()
	current, cutting := m.proc == p, m.cutting
	if current {
		m.proc, m.frozen = nil, ""
	}
	m.mu.Unlock()
	if !current || cutting {
		return
	}
	text := "powered off"
	if p.status != nil {
		text = "QEMU ended: " + p.explain(p.status).Error()
	}
	m.lab.events.add(m.node.Name, EventExited, text)
	m.lab.changed()
}

// onQMP is told QEMU's events.
func (m *Machine) onQMP(p *process, e qmp.Event) {
	var d struct {
		Status string `json:"status"`
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"`
		Action string `json:"action"`
	}
	_ = json.Unmarshal(e.Data, &d) // an event without these fields is fine
	switch e.Name {
	case "MIGRATION":
		select {
		case p.migration <- d.Status:
		default: // nobody waits
		}
	case "RESET":
		m.console.newBoot()
		m.mu.Lock()
		m.leased = [LANs]time.Time{}
		// A kernel that restarts the machine does so in several ways, until one works.
		again := e.Time.Sub(m.rebooted) < time.Second
		m.rebooted = e.Time
		m.mu.Unlock()
		if d.Guest && !again {
			m.lab.events.add(m.node.Name, EventReboot, d.Reason)
		}
	case "WATCHDOG":
		m.lab.events.add(m.node.Name, EventWatchdog, "the watchdog bit: "+d.Action)
	case "GUEST_PANICKED":
		m.lab.events.add(m.node.Name, EventAlarm, "the kernel panicked")
	}
}

// powerOn starts the machine. The caller holds op.
func (m *Machine) powerOn(ctx context.Context) error {
	m.mu.Lock()
	on := m.proc != nil
	m.printed = make(chan struct{})
	m.leased = [LANs]time.Time{}
	m.mu.Unlock()
	if on {
		return fmt.Errorf("%s is on already", m.node.Name)
	}
	m.console.newBoot()
	p, err := m.lab.launch(ctx, m, nil)
	if err != nil {
		return err
	}
	m.adopt(p)
	m.lab.events.add(m.node.Name, EventPowerOn, "")
	if err := m.applyCarrier(ctx, p); err != nil {
		return err
	}
	m.lab.wg.Go(func() { m.watchSilence(p) })
	return nil
}

// applyCarrier pulls the cables that were pulled while the machine was off: QEMU starts with all in.
func (m *Machine) applyCarrier(ctx context.Context, p *process) error {
	m.mu.Lock()
	out := m.carrierOut
	m.mu.Unlock()
	for lan, pulled := range out {
		if !pulled {
			continue
		}
		if err := p.setLink(ctx, lan, false); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) setLink(ctx context.Context, lan int, up bool) error {
	return p.qmp.Execute(ctx, "set_link", map[string]any{"name": fmt.Sprintf("eth%d", lan), "up": up}, nil)
}

// powerOff cuts the power. The caller holds op. It says false if the machine was off.
func (m *Machine) powerOff() bool {
	m.mu.Lock()
	p := m.proc
	m.cutting = true
	m.mu.Unlock()
	if p == nil {
		return false
	}
	p.kill()
	return true
}

// watchSilence starts a machine anew, once, if it prints nothing for too long after power-on.
func (m *Machine) watchSilence(p *process) {
	limit := silentLimitTCG
	if m.lab.accel.Kind == "kvm" {
		limit = silentLimitKVM
	}
	if m.lab.cfg.silentLimit > 0 {
		limit = m.lab.cfg.silentLimit
	}
	m.mu.Lock()
	printed := m.printed
	m.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-printed:
		return
	case <-p.exited:
		return
	case <-timer.C:
	}
	m.op.Lock()
	defer m.op.Unlock()
	m.mu.Lock()
	again := m.proc == p && m.frozen == "" && m.relaunches == 0
	if again {
		m.relaunches++
	}
	m.mu.Unlock()
	if !again {
		return
	}
	m.lab.events.add(m.node.Name, EventRelaunch, fmt.Sprintf("no byte on the console in %s: started anew", limit))
	m.powerOff()
	if err := m.powerOn(m.lab.ctx); err != nil {
		m.lab.events.add(m.node.Name, EventExited, "could not be started anew: "+err.Error())
	}
}

// OOB is the host's end of the machine's out-of-band port (OOBPort), nil if it is off. There is one
// connection for each power-on.
func (l *Lab) OOB(node string) (net.Conn, error) {
	m, err := l.machine(node)
	if err != nil {
		return nil, err
	}
	p, err := m.running()
	if err != nil {
		return nil, err
	}
	return p.oob, nil
}
