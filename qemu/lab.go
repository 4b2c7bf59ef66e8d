package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/qemu/accel"
	"github.com/skein-os/skein/qemu/ethernet"
	"github.com/skein-os/skein/qemu/hostnet"
	"github.com/skein-os/skein/qemu/owners"
	"github.com/skein-os/skein/qemu/proxy"
	"github.com/skein-os/skein/qemu/san"
	"github.com/skein-os/skein/qemu/writers"
)

// DefaultMemoryMB is the memory of a machine.
const DefaultMemoryMB = 640

// DefaultQEMU is the program that runs machines; 7.2 or newer.
const DefaultQEMU = "qemu-system-x86_64"

// Config of a lab.
type Config struct {
	Dir      string // where consoles and the timeline are recorded; made if it is not there
	Kernel   string // unpacked vmlinux, booted through PVH
	Initrd   string
	Append   string // added to the kernel's command line
	MemoryMB int    // of each machine, DefaultMemoryMB if 0
	QEMU     string // DefaultQEMU if empty
	Nodes    []Node // machines to power on at the start
	Log      *slog.Logger
	Seed     uint64      // of the chance in the networks' faults; 0: another one each time
	OnEvent  func(Event) // told each event of the timeline; must not call back into the lab

	// SAN is a storage array for the machines; nil: none.
	SAN *SAN

	// Netboot has machines boot from the network, as real ones do, instead of being given kernel and archive.
	Netboot *Netboot

	silentLimit time.Duration // for tests
}

// Lab is a cluster of machines. Close ends it.
type Lab struct {
	cfg      Config
	accel    accel.Choice
	spawner  *spawner
	switches [LANs]*ethernet.Switch
	host     *hostnet.Host
	boot     *bootServer    // nil: machines are given their kernel
	owners   *owners.Watch  // of the floating addresses, as the switches see them
	writers  *writers.Watch // to the disks of a SAN, as the switches see them
	events   *timeline
	ctx      context.Context // ends with the lab
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu       sync.Mutex
	machines map[string]*Machine
	change   chan struct{} // closed and replaced when a machine's leases or state change
	closed   bool
}

// Start makes a lab and powers on cfg.Nodes.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	l, err := open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := l.startSAN(ctx); err != nil {
		l.Close()
		return nil, err
	}
	for _, n := range cfg.Nodes {
		if _, err := l.define(n); err != nil {
			l.Close()
			return nil, err
		}
	}
	if err := each(l.nodes(), func(m *Machine) error { return m.powerOn(ctx) }); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// open makes a lab without machines.
func open(ctx context.Context, cfg Config) (*Lab, error) {
	if cfg.MemoryMB == 0 {
		cfg.MemoryMB = DefaultMemoryMB
	}
	if cfg.QEMU == "" {
		cfg.QEMU = DefaultQEMU
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, f := range []string{cfg.Kernel, cfg.Initrd} {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("image of the machines: %w", err)
		}
	}
	choice, err := accel.Choose(ctx, cfg.QEMU)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the lab's folder: %w", err)
	}
	events, err := newTimeline(filepath.Join(cfg.Dir, "events.jsonl"), cfg.OnEvent)
	if err != nil {
		return nil, fmt.Errorf("open the lab's timeline: %w", err)
	}
	l := &Lab{cfg: cfg, accel: choice, spawner: newSpawner(), events: events, owners: owners.NewWatch(Floating), writers: writers.NewWatch(), machines: map[string]*Machine{}, change: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	hc := hostnet.Config{Floating: []netip.Prefix{Floating}, Lease: l.lease, OnLease: l.onLease, Log: cfg.Log}
	for lan := range LANs {
		l.switches[lan] = ethernet.New()
		l.switches[lan].SetName(SwitchName(lan), switchMAC(lan), announceEvery)
		if cfg.Seed != 0 {
			l.switches[lan].Seed(cfg.Seed + uint64(lan))
		}
		l.switches[lan].Tap(both(l.owners.Tap(lan), l.writers.Tap(lan)))
		hc.LANs = append(hc.LANs, hostnet.LAN{Switch: l.switches[lan],
			Addr: netip.PrefixFrom(Addr(lan, hostNumber), LANPrefix(lan).Bits()), MAC: MACOf(lan, hostNumber)})
	}
	if cfg.Netboot != nil {
		if l.boot, err = newBootServer(l, *cfg.Netboot); err != nil {
			l.Close()
			return nil, err
		}
		hc.Boot = l.boot.decorate
	}
	if l.host, err = hostnet.New(hc); err != nil {
		l.Close()
		return nil, err
	}
	if l.boot != nil {
		if err := l.boot.start(); err != nil {
			l.Close()
			return nil, err
		}
	}
	l.wg.Go(l.announce)
	return l, nil
}

// Close ends all machines and the networks.
func (l *Lab) Close() {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return
	}
	l.cancel()
	for _, m := range l.list() {
		if m.bmc != nil {
			m.bmc.close() // before the machines: it must not switch one on again
		}
	}
	_ = l.each(func(m *Machine) error { m.powerOff(); return nil })
	l.wg.Wait()
	if l.boot != nil {
		l.boot.close()
	}
	if l.host != nil {
		l.host.Close()
	}
	for _, m := range l.list() {
		_ = m.console.close()
	}
	l.spawner.close()
	l.events.close()
}

// Accel is how machines are run here, and why so.
func (l *Lab) Accel() accel.Choice { return l.accel }

// define adds a machine that is off.
func (l *Lab) define(n Node) (*Machine, error) {
	if n.Name == "" || n.Name == san.Machine || n.Number < 1 || n.Number > MaxNumber {
		return nil, fmt.Errorf("machine %q with number %d: it needs a name, which is not %s, and a number from 1 to %d", n.Name, n.Number, san.Machine, MaxNumber)
	}
	return l.add(n, nil)
}

// add adds a machine that is off; array is what it is if it is the storage array.
func (l *Lab) add(n Node, array *SAN) (*Machine, error) {
	dir := filepath.Dir(l.consolePath(n.Name))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of machine %s: %w", n.Name, err)
	}
	m := &Machine{lab: l, node: n, san: array, printed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, other := range l.machines {
		if other.node.Name == n.Name || other.node.Number == n.Number {
			return nil, fmt.Errorf("there is a machine %s with number %d already", other.node.Name, other.node.Number)
		}
	}
	var err error
	m.console, err = newConsole(l.consolePath(n.Name), func(text string) { l.events.add(n.Name, EventAlarm, text) })
	if err != nil {
		return nil, fmt.Errorf("open the console of machine %s: %w", n.Name, err)
	}
	if array == nil {
		if m.bmc, err = l.openBMC(m); err != nil {
			_ = m.console.close()
			return nil, err
		}
	}
	l.machines[n.Name] = m
	return m, nil
}

// Add adds a machine to a running lab and powers it on.
func (l *Lab) Add(ctx context.Context, n Node) error {
	m, err := l.define(n)
	if err != nil {
		return err
	}
	m.op.Lock()
	defer m.op.Unlock()
	return m.powerOn(ctx)
}

func (l *Lab) consolePath(node string) string {
	return filepath.Join(l.cfg.Dir, "machines", node, "console.log")
}

func (l *Lab) machine(name string) (*Machine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.machines[name]; m != nil {
		return m, nil
	}
	names := make([]string, 0, len(l.machines))
	for n := range l.machines {
		names = append(names, n)
	}
	sort.Strings(names)
	return nil, fmt.Errorf("no machine %q; there are: %s", name, strings.Join(names, ", "))
}

// list returns the machines by number.
func (l *Lab) list() []*Machine {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*Machine, 0, len(l.machines))
	for _, m := range l.machines {
		all = append(all, m)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].node.Number < all[j].node.Number })
	return all
}

// nodes are the machines but the storage array, by number.
func (l *Lab) nodes() []*Machine {
	return slices.DeleteFunc(l.list(), func(m *Machine) bool { return m.san != nil })
}

// each runs f for all machines at once, each under its operation lock.
func (l *Lab) each(f func(*Machine) error) error { return each(l.list(), f) }

func each(all []*Machine, f func(*Machine) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		wg.Go(func() {
			m.op.Lock()
			defer m.op.Unlock()
			errs[i] = f(m)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Machines returns the status of all machines but the storage array, by number.
func (l *Lab) Machines() []Status {
	var all []Status
	for _, m := range l.nodes() {
		all = append(all, m.status())
	}
	return all
}

// NextNumber is the lowest number that no machine has.
func (l *Lab) NextNumber() int {
	n := 1
	for _, m := range l.list() {
		if m.node.Number == n {
			n++
		}
	}
	return n
}

// Events is the timeline so far.
func (l *Lab) Events() []Event { return l.events.list() }

// FollowEvents calls emit for each event so far and each that comes, until ctx or the lab ends.
func (l *Lab) FollowEvents(ctx context.Context, emit func(Event) error) error {
	from := 0
	for {
		events, next, more := l.events.since(from)
		for _, e := range events {
			if err := emit(e); err != nil {
				return err
			}
		}
		from = next
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		case <-l.ctx.Done():
			return nil
		}
	}
}

// Owners tells who answers for each floating address, and every double owner since the lab started.
func (l *Lab) Owners() owners.Report { return l.owners.Report() }

// FollowOwners calls emit for each handover and double owner so far and each that comes, until ctx or the
// lab ends.
func (l *Lab) FollowOwners(ctx context.Context, emit func(owners.Record) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	return l.owners.Follow(ctx, emit)
}

// Alarms are the events that a test must not see unless it asked for them.
func (l *Lab) Alarms() []Event {
	var all []Event
	for _, e := range l.events.list() {
		if e.Kind == EventAlarm {
			all = append(all, e)
		}
	}
	return all
}

// WaitConsole waits until a machine prints a line that matches, in its current boot.
func (l *Lab) WaitConsole(ctx context.Context, node string, re *regexp.Regexp) (ConsoleLine, error) {
	m, err := l.machine(node)
	if err != nil {
		return ConsoleLine{}, err
	}
	line, err := m.console.wait(ctx, re)
	if err != nil {
		return line, fmt.Errorf("wait for %s: %w", node, err)
	}
	return line, nil
}

// ConsoleTail returns the last n lines a machine printed.
func (l *Lab) ConsoleTail(node string, n int) ([]ConsoleLine, error) {
	m, err := l.machine(node)
	if err != nil {
		return nil, err
	}
	return m.console.tail(n), nil
}

// FollowConsole calls emit for each line a machine has printed and goes on to print, until ctx ends.
func (l *Lab) FollowConsole(ctx context.Context, node string, emit func(ConsoleLine) error) error {
	m, err := l.machine(node)
	if err != nil {
		return err
	}
	from := 0
	for {
		m.console.mu.Lock()
		start := max(from, m.console.dropped)
		lines := append([]ConsoleLine(nil), m.console.lines[start-m.console.dropped:]...)
		from = start + len(lines)
		more := m.console.changed
		m.console.mu.Unlock()
		for _, line := range lines {
			if err := emit(line); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		case <-l.ctx.Done():
			return nil
		}
	}
}

// lease is the DHCP policy: machine k has .k on both LANs.
func (l *Lab) lease(lan int, mac ethernet.MAC) (netip.Addr, bool) {
	number := int(mac[5])
	if mac != MACOf(lan, number) || number < 1 || number > MaxNumber {
		return netip.Addr{}, false
	}
	return Addr(lan, number), true
}

func (l *Lab) onLease(lan int, mac ethernet.MAC, _ netip.Addr) {
	for _, m := range l.list() {
		if m.node.Number == int(mac[5]) {
			m.mu.Lock()
			m.leased[lan] = time.Now()
			m.mu.Unlock()
			l.changed()
		}
	}
}

// changed wakes those who wait for something in the lab.
func (l *Lab) changed() {
	l.mu.Lock()
	close(l.change)
	l.change = make(chan struct{})
	l.mu.Unlock()
}

// WaitAddresses waits until every machine that is on has its address on both LANs. progress is told
// what is still missing whenever that changes; it may be nil.
func (l *Lab) WaitAddresses(ctx context.Context, progress func(missing string)) error {
	last := ""
	for {
		l.mu.Lock()
		change := l.change
		l.mu.Unlock()
		var missing []string
		on := 0
		for _, m := range l.nodes() {
			m.mu.Lock()
			if m.proc != nil {
				on++
				for lan, at := range m.leased {
					if at.IsZero() {
						missing = append(missing, fmt.Sprintf("%s on lan%d", m.node.Name, lan))
					}
				}
			}
			m.mu.Unlock()
		}
		if on == 0 {
			return errors.New("no machine is on: see their consoles and the lab's events")
		}
		if len(missing) == 0 {
			return nil
		}
		what := "addresses of " + strings.Join(missing, ", ")
		if progress != nil && what != last {
			progress(what)
		}
		last = what
		select {
		case <-change:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
}

// Dial connects to host:port in the lab; host is a machine's name or an address of the lab. A machine
// and a floating address are tried on lan0, then on lan1.
func (l *Lab) Dial(ctx context.Context, network, hostPort string) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" {
		return nil, fmt.Errorf("dial %s: only tcp reaches the lab", network)
	}
	addrs, err := l.resolve(hostPort)
	if err != nil {
		return nil, err
	}
	return l.host.DialAny(ctx, addrs)
}

// Listen accepts connections of the machines on the host's address (.254) of a LAN.
func (l *Lab) Listen(lan int, port uint16) (net.Listener, error) { return l.host.Listen(lan, port) }

func (l *Lab) resolve(hostPort string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q of %s is not a number", portText, hostPort)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		if !Floating.Contains(a) && !LANPrefix(0).Contains(a) && !LANPrefix(1).Contains(a) {
			return nil, fmt.Errorf("%s: %w", hostPort, proxy.ErrOutside)
		}
		return []netip.AddrPort{netip.AddrPortFrom(a, uint16(port))}, nil
	}
	m, err := l.machine(host)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", proxy.ErrOutside, err)
	}
	var all []netip.AddrPort
	for lan := range LANs {
		all = append(all, netip.AddrPortFrom(Addr(lan, m.node.Number), uint16(port)))
	}
	return all, nil
}
