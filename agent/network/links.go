package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config of the node's ports.
type Config struct {
	Log *slog.Logger
	// Static gives ports (by name, eth0, or by MAC, which survives a renumbering) a fixed address; the
	// others ask by DHCP.
	Static map[string]netip.Prefix
	// OnChange is called with all ports that have an address, sorted by name, whenever that list changes;
	// never concurrently. It must not call back into Links.
	OnChange func([]cluster.Link)
	// IsPort tells which links are ports; nil means all hardware Ethernet ports. For tests.
	IsPort func(netlink.Link) bool
}

// Links looks after the node's ports. Make one with Watch, end it with Close.
type Links struct {
	cfg    Config
	cancel context.CancelFunc
	wg     sync.WaitGroup

	notify sync.Mutex // serialises OnChange, so that the last call has the last state

	mu      sync.Mutex
	ports   map[int]*port // by interface index
	last    []cluster.Link
	changed chan struct{} // closed and replaced whenever last changes
}

// Watch finds the ports, brings them up and looks after them until Close or the end of ctx. It returns
// at once; Wait waits.
func Watch(ctx context.Context, cfg Config) (*Links, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.IsPort == nil {
		cfg.IsPort = isPort
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &Links{cfg: cfg, cancel: cancel, ports: map[int]*port{}, changed: make(chan struct{})}
	updates, err := subscribe(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	l.wg.Go(func() { l.follow(ctx, updates) })
	return l, nil
}

// isPort: an Ethernet device with hardware behind it, real or emulated. A link's kind does not tell: the
// kernel's notices about the ports of a bridge leave it out, so that a container's veth looks like a port.
func isPort(link netlink.Link) bool {
	a := link.Attrs()
	if link.Type() != "device" || a.EncapType != "ether" || len(a.HardwareAddr) != 6 {
		return false
	}
	_, err := os.Stat(filepath.Join("/sys/class/net", a.Name, "device"))
	return err == nil
}

func subscribe(ctx context.Context) (<-chan netlink.LinkUpdate, error) {
	updates := make(chan netlink.LinkUpdate, 64)
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{ListExisting: true})
	if err != nil {
		return nil, fmt.Errorf("subscribe to link changes: %w", err)
	}
	return updates, nil
}

// follow owns the ports: it starts one worker for each port that appears and ends that of one that
// disappears. It ends when all workers have.
func (l *Links) follow(ctx context.Context, updates <-chan netlink.LinkUpdate) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case u, ok := <-updates:
			if ok {
				l.update(ctx, u)
				continue
			}
			// The kernel dropped messages or the socket failed. A new subscription lists everything
			// again, so nothing is missed.
			l.cfg.Log.Warn("link notifications were interrupted, subscribing again")
			var err error
			if updates, err = subscribe(ctx); err != nil {
				l.cfg.Log.Error("cannot watch links, trying again", "err", err)
				wait(ctx, time.Second)
			}
		}
	}
}

func (l *Links) update(ctx context.Context, u netlink.LinkUpdate) {
	index := int(u.Index)
	// The same message with family AF_BRIDGE only says that a port left a bridge.
	gone := u.Header.Type == unix.RTM_DELLINK && u.IfInfomsg.Family == unix.AF_UNSPEC
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.ports[index]
	switch {
	case gone && p != nil:
		delete(l.ports, index)
		p.stop()
	case gone || !l.cfg.IsPort(u.Link):
	case p != nil:
		p.setCarrier(hasCarrier(u.Link))
	default:
		p = newPort(l, u.Link)
		l.ports[index] = p
		pctx, stop := context.WithCancel(ctx)
		p.stop = stop
		p.setCarrier(hasCarrier(u.Link))
		l.wg.Go(func() {
			defer stop()
			p.run(pctx)
			l.publish()
		})
	}
}

func hasCarrier(link netlink.Link) bool {
	a := link.Attrs()
	return a.RawFlags&unix.IFF_LOWER_UP != 0 && a.OperState != netlink.OperDown
}

// publish tells the world if the list of ports with an address has changed.
func (l *Links) publish() {
	l.notify.Lock()
	defer l.notify.Unlock()
	l.mu.Lock()
	now := l.list()
	same := slices.Equal(now, l.last)
	if !same {
		l.last = now
		close(l.changed)
		l.changed = make(chan struct{})
	}
	l.mu.Unlock()
	if !same && l.cfg.OnChange != nil {
		l.cfg.OnChange(slices.Clone(now))
	}
}

func (l *Links) list() []cluster.Link {
	out := []cluster.Link{}
	for _, p := range l.ports {
		if addr := p.address(); addr.IsValid() {
			out = append(out, cluster.Link{Name: p.name, MAC: p.mac, Addr: addr})
		}
	}
	slices.SortFunc(out, func(a, b cluster.Link) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// List is all ports that have an address, sorted by name.
func (l *Links) List() []cluster.Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list()
}

// Wait returns as soon as at least one port has an address. If ctx ends first, the error says what each
// port waits for.
func (l *Links) Wait(ctx context.Context) ([]cluster.Link, error) {
	for {
		l.mu.Lock()
		list, changed := slices.Clone(l.last), l.changed
		l.mu.Unlock()
		if len(list) > 0 {
			return list, nil
		}
		select {
		case <-ctx.Done():
			what := l.Conditions()
			if len(what) == 0 {
				return nil, errors.New("no Ethernet port found: is the driver of the network card in the image?")
			}
			return nil, fmt.Errorf("no port has an address yet: %s", strings.Join(what, "; "))
		case <-changed:
		}
	}
}

// Conditions says what the ports wait for, one sentence each, for people; empty when all is well.
func (l *Links) Conditions() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, p := range l.ports {
		if c := p.condition(time.Now()); c != "" {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

// Resolvers are the name servers that DHCP servers named, without repetition.
func (l *Links) Resolvers() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []netip.Addr
	for _, p := range l.ports {
		p.mu.Lock()
		out = append(out, p.resolvers...)
		p.mu.Unlock()
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// Close ends all work and waits for it. Addresses stay: services outlive the agent.
func (l *Links) Close() {
	l.cancel()
	l.wg.Wait()
}

// wait for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// Received is how many frames have come in on a link since it is there, by the kernel's count; 0 if there is none.
func Received(link string) uint64 {
	data, err := os.ReadFile(filepath.Join("/sys/class/net", link, "statistics/rx_packets"))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64) // the kernel writes numbers
	return n
}
