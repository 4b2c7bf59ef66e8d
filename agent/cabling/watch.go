package cabling

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/lldp"
	"github.com/skein-os/skein/agent/network"
)

const (
	// look is how often the ports are looked at if nothing is told of them: some drivers change their speed silently.
	look = 30 * time.Second
	// settle is for how long further changes are waited for: they come in groups.
	settle = 50 * time.Millisecond
	// again is after what time a failed look is tried again.
	again = 2 * time.Second
)

// Identity is what this node says of itself by LLDP.
type Identity struct {
	MachineID string // tells it from others
	Name      string
	Software  string
}

// Config of a Watcher.
type Config struct {
	Log  *slog.Logger
	Self Identity
	// OnChange is called with all ports whenever they have changed, never concurrently.
	OnChange func([]cluster.EthernetPort)
	// IsPort tells which links are ports; nil means all hardware Ethernet ports. For tests.
	IsPort func(netlink.Link) bool
}

// Watcher follows the ports. Make one with Watch, end it with Close.
type Watcher struct {
	cfg     Config
	speaker *lldp.Speaker
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	wake    chan struct{}

	mu    sync.Mutex
	ports []cluster.EthernetPort
	known []cluster.EthernetPort // as an earlier agent of this boot told them
}

// Watch begins to follow the ports.
func Watch(cfg Config) (*Watcher, error) {
	if cfg.IsPort == nil {
		cfg.IsPort = network.IsPort
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{cfg: cfg, cancel: cancel, wake: make(chan struct{}, 1)}
	n, err := subscribe(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w.speaker = lldp.NewSpeaker(cfg.Log, w.say, w.poke)
	w.wg.Go(func() { w.run(ctx, n) })
	return w, nil
}

// Close ends it. With goodbye the switches are told that this node is gone.
func (w *Watcher) Close(goodbye bool) {
	w.cancel()
	w.wg.Wait()
	w.speaker.Close(goodbye)
}

// Ports are the ports as last seen, sorted by name.
func (w *Watcher) Ports() []cluster.EthernetPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ports)
}

// Remember takes what an earlier agent of this boot has told: who was heard last on a port on which nobody is heard yet.
func (w *Watcher) Remember(ports []cluster.EthernetPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = slices.Clone(ports)
	w.ports = slices.Clone(w.ports)
	for i := range w.ports { // at once: who tells of the ports must not forget it first
		if p := &w.ports[i]; len(p.Neighbours) == 0 {
			p.Neighbours = lastHeard(p, w.known)
		}
	}
}

func (w *Watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// notices are what the kernel tells of links and addresses.
type notices struct {
	links chan netlink.LinkUpdate
	addrs chan netlink.AddrUpdate
	end   context.CancelFunc
}

func subscribe(ctx context.Context) (*notices, error) {
	ctx, cancel := context.WithCancel(ctx)
	n := &notices{links: make(chan netlink.LinkUpdate, 64), addrs: make(chan netlink.AddrUpdate, 64), end: cancel}
	if err := netlink.LinkSubscribe(n.links, ctx.Done()); err != nil {
		cancel()
		return nil, fmt.Errorf("subscribe to link changes: %w", err)
	}
	if err := netlink.AddrSubscribe(n.addrs, ctx.Done()); err != nil {
		cancel()
		return nil, fmt.Errorf("subscribe to address changes: %w", err)
	}
	return n, nil
}

// run looks at the ports whenever something may have changed.
func (w *Watcher) run(ctx context.Context, n *notices) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var ok bool
		select {
		case <-ctx.Done():
			return
		case _, ok = <-n.links:
		case _, ok = <-n.addrs:
		case <-w.wake:
			ok = true
		case <-timer.C:
			if n.links == nil {
				ok = false // ask for notices again
				break
			}
			timer.Reset(w.lookNow())
			continue
		}
		if !ok && ctx.Err() == nil { // the kernel dropped messages
			n.end()
			next, err := subscribe(ctx)
			if err != nil {
				w.cfg.Log.Warn("ports are looked at now and then only", "err", err)
				next = &notices{end: func() {}} // of which nothing comes
				timer.Reset(again)
			}
			n = next
		}
		// What comes meanwhile is seen by the same look.
		timer.Reset(settle)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(w.lookNow())
		}
	}
}

// lookNow tells of the ports if they have changed, and returns when to look again.
func (w *Watcher) lookNow() time.Duration {
	ports, speak, err := scan(w.cfg.IsPort, network.HasCarrier)
	if err != nil {
		w.cfg.Log.Warn("cannot look at the ports, trying again", "err", err)
		return again
	}
	w.speaker.SetPorts(speak)
	w.mu.Lock()
	for i := range ports {
		p := &ports[i]
		if p.Neighbours = neighbours(w.speaker.Neighbours(p.Name)); len(p.Neighbours) == 0 {
			p.Neighbours = lastHeard(p, w.ports, w.known)
		}
	}
	changed, said := !reflect.DeepEqual(ports, w.ports), saysDifferently(ports, w.ports)
	w.ports = ports
	w.mu.Unlock()
	if said {
		w.speaker.Renew()
	}
	if changed && w.cfg.OnChange != nil {
		w.cfg.OnChange(slices.Clone(ports))
	}
	return look
}

// lastHeard are who was heard on a port before.
func lastHeard(p *cluster.EthernetPort, before ...[]cluster.EthernetPort) []cluster.Neighbour {
	for _, list := range before {
		for i := range list {
			if list[i].Name != p.Name || list[i].MAC != p.MAC || len(list[i].Neighbours) == 0 {
				continue
			}
			out := slices.Clone(list[i].Neighbours)
			for j := range out {
				out[j].Heard = false
			}
			return out
		}
	}
	return nil
}

func neighbours(list []lldp.Unit) []cluster.Neighbour {
	var out []cluster.Neighbour
	for i := range list {
		u := &list[i]
		out = append(out, cluster.Neighbour{
			Chassis: u.ChassisText(), System: u.SystemName, Port: u.PortText(), Description: u.PortDescription,
			Bridge: u.Is&lldp.Bridge != 0, VLAN: u.VLAN, MaxFrame: u.MaxFrame, Heard: true,
		})
	}
	return out
}

// saysDifferently tells whether what LLDP says of the ports has changed.
func saysDifferently(now, before []cluster.EthernetPort) bool {
	return !slices.EqualFunc(now, before, func(a, b cluster.EthernetPort) bool {
		return a.Name == b.Name && a.MTU == b.MTU && slices.Equal(a.Addrs, b.Addrs)
	})
}

// say is what this node says on a port.
func (w *Watcher) say(port string) lldp.Unit {
	u := lldp.Unit{
		Chassis: lldp.ID{Subtype: lldp.ChassisLocal, Value: w.cfg.Self.MachineID}, Port: lldp.ID{Subtype: lldp.PortIface, Value: port},
		SystemName: w.cfg.Self.Name, SystemDescription: "Skein " + w.cfg.Self.Software, Can: lldp.Station | lldp.Router, Is: lldp.Station,
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.ports {
		p := &w.ports[i]
		if p.Name != port {
			continue
		}
		u.PortDescription = p.MAC
		u.MaxFrame = min(p.MTU+headerBytes, 65535)
		for _, a := range p.Addrs {
			if len(u.Management) < 4 {
				u.Management = append(u.Management, a.Addr())
			}
		}
	}
	if u.Management == nil {
		u.Management = []netip.Addr{}
	}
	return u
}
