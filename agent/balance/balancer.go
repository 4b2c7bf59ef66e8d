package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
)

// Config of a Balancer. All of it is known after the node's admission.
type Config struct {
	Log    *slog.Logger
	Node   netip.Addr   // the node's own address
	Subnet netip.Prefix // its containers
	Bridge string       // what its containers are on, skein0
}

// Balancer owns the floating addresses and published ports of this node. Its methods may be called from
// several goroutines; Hold is fast enough for a heartbeat loop.
type Balancer struct {
	cfg    Config
	cancel context.CancelFunc
	wg     sync.WaitGroup
	t      *tables
	renew  *renewer

	mu       sync.Mutex
	floating []netip.Addr // sorted; all that the kernel's guard knows of
	held     []netip.Addr // sorted; what the kernel was told to let pass while the lease runs
	maybe    []netip.Addr // sorted; held, and what it may let pass besides, since an answer got lost
	until    time.Duration
	stale    bool // the kernel's state is not known to be ours: look before the next change
	links    []string
	locals   []netip.Addr // the node's addresses on its LANs
	applied  *model       // what the kernel's maps hold, nil if unknown

	announcer *announcer
	flows     chan flowFilter // connections to be forgotten
}

// Open makes the guard, closed, or adopts that of a former agent of this boot, as it is.
func Open(cfg Config) (*Balancer, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if !cfg.Node.Is4() || !cfg.Subnet.Addr().Is4() || cfg.Bridge == "" {
		return nil, fmt.Errorf("balance: node address %s, subnet %s and bridge %q must be given, IPv4", cfg.Node, cfg.Subnet, cfg.Bridge)
	}
	b := &Balancer{cfg: cfg, t: newTables(), stale: true, flows: make(chan flowFilter, 64)}
	var err error
	if b.renew, err = openRenewer(); err != nil {
		return nil, err
	}
	if b.announcer, err = newAnnouncer(cfg.Log); err != nil {
		b.renew.close()
		return nil, err
	}
	b.mu.Lock()
	err = b.adopt()
	b.mu.Unlock()
	if err != nil {
		b.renew.close()
		b.announcer.close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.wg.Go(func() { b.announcer.run(ctx) })
	b.wg.Go(func() { b.forgetFlows(ctx) })
	return b, nil
}

// Close stops announcing. What is in the kernel stays: it ends with the lease.
func (b *Balancer) Close() {
	b.cancel()
	b.wg.Wait()
	b.renew.close()
	b.announcer.close()
}

// adopt learns what the kernel has, and makes the tables if they are not there or not ours.
func (b *Balancer) adopt() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	b.until, b.applied = 0, nil
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("list nftables chains (is nf_tables loaded?): %w", err)
	}
	marks := 0
	for _, ch := range chains {
		if ch.Table.Name == Table && ch.Name == version {
			marks++
		}
	}
	if marks != 3 {
		if err := b.t.create(c, &b.cfg); err != nil {
			return fmt.Errorf("make the lease guard: %w", err)
		}
		for _, s := range []*nftables.Set{b.t.ipFloating, b.t.devFloating, b.t.arpFloating} {
			if err := c.SetAddElements(s, elements(b.floating)); len(b.floating) > 0 && err != nil {
				return fmt.Errorf("make the lease guard: %w", err)
			}
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("make the lease guard (are nf_tables, nft_chain_nat, nft_nat, nft_ct and nft_numgen loaded?): %w", err)
		}
		b.held, b.maybe = nil, nil
		b.stale = false
		return b.guardAgain(c, nil)
	}
	read := func(s *nftables.Set) ([]netip.Addr, error) {
		list, err := c.GetSetElements(s)
		if err != nil {
			return nil, fmt.Errorf("read set %s of the lease guard: %w", s.Name, err)
		}
		var out []netip.Addr
		for _, e := range list {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				out = append(out, a)
			}
		}
		return sorted(out), nil
	}
	// The three copies of a set are always changed in one batch, so one is enough.
	floating, err := read(b.t.ipFloating)
	if err != nil {
		return err
	}
	held, err := read(b.t.ipHeld)
	if err != nil {
		return err // what may be held stays known
	}
	b.held, b.maybe = held, held
	wanted := b.floating
	b.floating, b.stale = floating, false
	if err := b.setFloating(sorted(append(slices.Clone(wanted), floating...))); err != nil {
		return err
	}
	return b.guardAgain(c, chains)
}

// guardAgain is guardLinks where a port that cannot be guarded must not keep us from the rest: it stays shut.
func (b *Balancer) guardAgain(c *nftables.Conn, chains []*nftables.Chain) error {
	broken, err := b.guardLinks(c, chains)
	if broken != nil {
		b.cfg.Log.Warn("floating addresses do not answer on some ports", "err", broken)
	}
	return err
}

// SetFloating tells the guard of all floating addresses of the cluster. Those that are held stay in it.
func (b *Balancer) SetFloating(all []netip.Addr) error {
	if err := onlyIPv4(all); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.retry(func() error { return b.setFloating(sorted(append(slices.Clone(all), b.held...))) })
}

func (b *Balancer) setFloating(all []netip.Addr) error {
	if slices.Equal(all, b.floating) {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, s := range []*nftables.Set{b.t.ipFloating, b.t.devFloating, b.t.arpFloating} {
		if err := queueDiff(c, s, b.floating, all); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("tell the lease guard of %d floating addresses: %w", len(all), err)
	}
	b.floating = all
	return nil
}

// SetLinks names the ports to the LANs, on which held addresses are announced, and the node's own
// addresses there, on which ports of services without a floating address are published. A port that
// cannot be guarded (it is gone) is in the error and shut; the others work. Call it again when it is back.
func (b *Balancer) SetLinks(links []string, locals []netip.Addr) error {
	if err := onlyIPv4(locals); err != nil {
		return err
	}
	links = slices.Clone(links)
	slices.Sort(links)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.links, b.locals = slices.Compact(links), sorted(append(slices.Clone(locals), b.cfg.Node))
	var broken error
	err := b.retry(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return fmt.Errorf("list chains of the lease guard: %w", err)
		}
		broken, err = b.guardLinks(c, chains)
		return err
	})
	return errors.Join(broken, err)
}

// guardLinks gives each port its chain. The chain of a device that disappeared went with it.
// What cannot be done for one port is in broken.
func (b *Balancer) guardLinks(c *nftables.Conn, chains []*nftables.Chain) (broken, err error) {
	var have []string
	for _, ch := range chains {
		if name, ok := strings.CutPrefix(ch.Name, egressPrefix); ok && ch.Table.Name == Table && ch.Table.Family == nftables.TableFamilyNetdev {
			have = append(have, name)
		}
	}
	if b.links == nil { // not told yet: leave what a former agent made
		return nil, nil
	}
	changed := false
	var guarded []string
	for _, link := range b.links {
		if slices.Contains(have, link) {
			guarded = append(guarded, link)
			continue
		}
		// One batch for each: a device that is gone by now must not stop the others.
		b.t.guardPort(c, link)
		if err := c.Flush(); err != nil {
			broken = errors.Join(broken, fmt.Errorf("guard ARP on %s (is it there, and has the kernel netfilter egress, 5.16?): %w", link, err))
			continue
		}
		guarded = append(guarded, link)
		changed = true
	}
	for _, link := range have {
		if !slices.Contains(b.links, link) {
			c.FlushChain(b.t.egress(link))
			c.DelChain(b.t.egress(link))
			changed = true
		}
	}
	// Ports without a chain of their own stay shut by the table of family arp.
	wantNames := make([]nftables.SetElement, len(guarded))
	for i, link := range guarded {
		wantNames[i].Key = ifname(link)
	}
	haveNames, err := c.GetSetElements(b.t.arpGuarded)
	if err != nil {
		return broken, fmt.Errorf("read the lease guard: %w", err)
	}
	if !sameKeys(haveNames, wantNames) {
		c.FlushSet(b.t.arpGuarded)
		if err := c.SetAddElements(b.t.arpGuarded, wantNames); err != nil {
			return broken, fmt.Errorf("guard ports: %w", err)
		}
		changed = true
	}
	haveLocals, err := c.GetSetElements(b.t.locals)
	if err != nil {
		return broken, fmt.Errorf("read local addresses: %w", err)
	}
	if locals := elements(b.locals); !sameKeys(haveLocals, locals) {
		c.FlushSet(b.t.locals)
		if err := c.SetAddElements(b.t.locals, locals); err != nil {
			return broken, fmt.Errorf("set local addresses: %w", err)
		}
		changed = true
	}
	if changed {
		if err := c.Flush(); err != nil {
			return broken, fmt.Errorf("guard ports %s: %w", strings.Join(b.links, ", "), err)
		}
	}
	b.announcer.setLinks(guarded)
	return broken, nil
}

// retry does it once more on rebuilt tables, if somebody else damaged ours. b.mu is held.
func (b *Balancer) retry(do func() error) error {
	var err error
	if !b.stale {
		if err = do(); err == nil {
			return nil
		}
		b.stale = true
		b.cfg.Log.Warn("the kernel's tables are not as expected, looking again", "err", err)
	}
	if aerr := b.adopt(); aerr != nil {
		b.stale = true
		return errors.Join(err, aerr)
	}
	if err := do(); err != nil {
		b.stale = true
		return err
	}
	return nil
}

// queueDiff queues what turns the set from have into want; both sorted.
func queueDiff(c *nftables.Conn, s *nftables.Set, have, want []netip.Addr) error {
	if gone := minus(have, want); len(gone) > 0 {
		if err := c.SetDeleteElements(s, elements(gone)); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	if more := minus(want, have); len(more) > 0 {
		if err := c.SetAddElements(s, elements(more)); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	return nil
}

// minus is a without b; both sorted.
func minus(a, b []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, x := range a {
		if _, found := slices.BinarySearchFunc(b, x, netip.Addr.Compare); !found {
			out = append(out, x)
		}
	}
	return out
}

// sorted and without repetition; reuses its argument.
func sorted(a []netip.Addr) []netip.Addr {
	slices.SortFunc(a, netip.Addr.Compare)
	return slices.Compact(a)
}

func sameKeys(a, b []nftables.SetElement) bool {
	keys := func(list []nftables.SetElement) []string {
		out := make([]string, len(list))
		for i, e := range list {
			out[i] = string(e.Key)
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(keys(a), keys(b))
}

func onlyIPv4(list []netip.Addr) error {
	for _, a := range list {
		if !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
			return fmt.Errorf("address %s cannot be used: only IPv4 unicast addresses are supported", a)
		}
	}
	return nil
}
