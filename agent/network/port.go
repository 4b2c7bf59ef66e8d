package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	firstAnswer = time.Second     // how long the first attempt waits for a DHCP server
	longestWait = 8 * time.Second // and between two attempts, at most

	// defaultMetric is added to the interface index: the metric of a default route that DHCP named, so
	// that two ports never fight for one route.
	defaultMetric = 1000
)

// port is one Ethernet port and its worker.
type port struct {
	links *Links
	link  netlink.Link
	name  string
	mac   string
	stop  context.CancelFunc // guarded by links.mu, called when the port is gone

	mu        sync.Mutex
	carrier   bool
	flip      chan struct{} // closed and replaced when carrier changes
	addr      netip.Prefix
	resolvers []netip.Addr
	waiting   string    // what for, empty if nothing
	since     time.Time // since when
}

func newPort(l *Links, link netlink.Link) *port {
	a := link.Attrs()
	return &port{links: l, link: link, name: a.Name, mac: a.HardwareAddr.String(), flip: make(chan struct{})}
}

func (p *port) address() netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

func (p *port) setCarrier(up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if up != p.carrier {
		p.carrier = up
		close(p.flip)
		p.flip = make(chan struct{})
	}
}

// carrierState is the state now and a channel that closes when it changes.
func (p *port) carrierState() (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.carrier, p.flip
}

// waitFor names what the worker waits for. The time counts from when it began to wait for that.
func (p *port) waitFor(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting != what {
		p.waiting, p.since = what, time.Now()
	}
}

const (
	waitCarrier = "carrier"
	waitAnswer  = "answer"
	waitRenewal = "renewal"
	waitUp      = "up"
)

func (p *port) condition(now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	age := int(now.Sub(p.since).Seconds())
	switch {
	case !p.carrier && p.waiting != "" || p.waiting == waitCarrier:
		return fmt.Sprintf("waiting for carrier on %s (no cable, or the switch is off, for %d s)", p.name, age)
	case p.waiting == waitAnswer:
		return fmt.Sprintf("waiting for an address on %s (carrier up, no DHCP answer for %d s)", p.name, age)
	case p.waiting == waitRenewal:
		return fmt.Sprintf("waiting to renew %s on %s (no DHCP answer for %d s)", p.addr, p.name, age)
	case p.waiting == waitUp:
		return fmt.Sprintf("waiting for %s to come up (the kernel refuses it, for %d s)", p.name, age)
	}
	return ""
}

// run is the port's life: up, carrier, address, keeping it.
func (p *port) run(ctx context.Context) {
	log := p.links.cfg.Log.With("link", p.name)
	if addr, ok := p.existing(); ok {
		// A former agent of this boot set it. Trust it at once, then ask again in peace: peers are
		// heard without waiting for a DHCP server.
		log.Info("port has an address already", "addr", addr)
		p.setAddress(addr, nil)
	}
	for ctx.Err() == nil {
		if err := netlink.LinkSetUp(p.link); err != nil {
			p.waitFor(waitUp)
			log.Warn("cannot bring the port up, trying again", "err", err)
			wait(ctx, time.Second)
			continue
		}
		break
	}
	if static, ok := p.static(); ok {
		p.keepStatic(ctx, static)
		return
	}
	pause := firstAnswer
	for p.awaitCarrier(ctx) {
		p.waitFor(waitAnswer)
		lease, err := p.request(ctx, pause)
		if err != nil {
			log.Info("no address yet", "err", err)
			if errors.Is(err, errNoAnswer) {
				pause = min(2*pause, longestWait) // the attempt itself took the time of the pause
				continue
			}
			wait(ctx, pause)
			pause = min(2*pause, longestWait)
			continue
		}
		pause = firstAnswer
		if err := p.keep(ctx, lease); err != nil && ctx.Err() == nil {
			log.Warn("lost the address, asking for a new one", "err", err)
		}
	}
}

func (p *port) static() (netip.Prefix, bool) {
	if a, ok := p.links.cfg.Static[p.mac]; ok {
		return a, true
	}
	a, ok := p.links.cfg.Static[p.name]
	return a, ok
}

func (p *port) keepStatic(ctx context.Context, addr netip.Prefix) {
	for ctx.Err() == nil {
		if err := p.install(addr); err != nil {
			p.links.cfg.Log.Warn("cannot set a static address, trying again", "link", p.name, "err", err)
			wait(ctx, time.Second)
			continue
		}
		p.setAddress(addr, nil)
		break
	}
	for ctx.Err() == nil {
		up, flip := p.carrierState()
		if up {
			p.waitFor("")
		} else {
			p.waitFor(waitCarrier)
		}
		select {
		case <-ctx.Done():
		case <-flip:
		}
	}
}

// awaitCarrier returns false if ctx ended first.
func (p *port) awaitCarrier(ctx context.Context) bool {
	for {
		up, flip := p.carrierState()
		if up || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		p.waitFor(waitCarrier)
		select {
		case <-ctx.Done():
		case <-flip:
		}
	}
}

// existing finds the address that the port has already.
func (p *port) existing() (netip.Prefix, bool) {
	addrs, err := netlink.AddrList(p.link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, false
	}
	for _, a := range addrs {
		if pfx, ok := prefixOf(a.IPNet); ok && a.Scope == unix.RT_SCOPE_UNIVERSE {
			return pfx, true
		}
	}
	return netip.Prefix{}, false
}

// setAddress records the address, or its loss, and tells the world.
func (p *port) setAddress(addr netip.Prefix, resolvers []netip.Addr) {
	p.mu.Lock()
	p.addr, p.resolvers = addr, resolvers
	p.mu.Unlock()
	p.links.publish()
}

// install makes addr the only global IPv4 address of the port; an invalid addr removes all.
func (p *port) install(addr netip.Prefix) error {
	have, err := netlink.AddrList(p.link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", p.name, err)
	}
	found := false
	for _, a := range have {
		pfx, ok := prefixOf(a.IPNet)
		if ok && pfx == addr {
			found = true
		}
	}
	// First the new one, then away with the old: the port is never without.
	if addr.IsValid() && !found {
		if err := netlink.AddrAdd(p.link, &netlink.Addr{IPNet: ipNet(addr)}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("set %s on %s: %w", addr, p.name, err)
		}
	}
	for _, a := range have {
		pfx, ok := prefixOf(a.IPNet)
		if ok && pfx != addr && a.Scope == unix.RT_SCOPE_UNIVERSE {
			if err := netlink.AddrDel(p.link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("remove %s from %s: %w", pfx, p.name, err)
			}
		}
	}
	return nil
}

// errNoAnswer: nobody answered within the time given.
var errNoAnswer = errors.New("no DHCP server answered")

// errNak: the server says that the address is not ours (any more).
var errNak = errors.New("the DHCP server refused the address")

// dial opens the port for DHCP, with one attempt of the given length per exchange.
func (p *port) dial(timeout time.Duration) (*nclient4.Client, error) {
	c, err := nclient4.New(p.name, nclient4.WithTimeout(timeout), nclient4.WithRetry(1))
	if err != nil {
		return nil, fmt.Errorf("open %s for DHCP (is packet socket support in the kernel?): %w", p.name, err)
	}
	return c, nil
}

// request asks for a lease: one discovery and one request, each waiting up to timeout. The loss of the
// carrier ends it at once.
func (p *port) request(ctx context.Context, timeout time.Duration) (*nclient4.Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, flip := p.carrierState()
	if !up {
		return nil, errors.New("carrier lost")
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() { // ends with this call
		select {
		case <-flip:
			cancel()
		case <-stop:
		}
	}()
	c, err := p.dial(timeout)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	mods := []dhcpv4.Modifier{
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer),
	}
	if addr := p.address(); addr.IsValid() {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(addr.Addr().AsSlice())))
	}
	offer, err := c.DiscoverOffer(ctx, mods...)
	if err != nil {
		return nil, dhcpError(err)
	}
	lease, err := c.RequestFromOffer(ctx, offer)
	if err != nil {
		return nil, dhcpError(err)
	}
	return lease, nil
}

func dhcpError(err error) error {
	var nak *nclient4.ErrNak
	switch {
	case errors.As(err, &nak):
		return errNak
	case errors.Is(err, nclient4.ErrNoResponse), errors.Is(err, context.DeadlineExceeded):
		return errNoAnswer
	}
	return fmt.Errorf("DHCP: %w", err)
}

// prefixOfLease is the address that the server gave, with its netmask (/24 for a server that says none:
// class-full guesses would be worse).
func prefixOfLease(ack *dhcpv4.DHCPv4) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() {
		return netip.Prefix{}, fmt.Errorf("the DHCP server gave the unusable address %s", ack.YourIPAddr)
	}
	bits := 24
	if mask := ack.SubnetMask(); mask != nil {
		ones, size := mask.Size()
		if size != 32 || ones < 1 {
			return netip.Prefix{}, fmt.Errorf("the DHCP server gave the unusable netmask %s", mask)
		}
		bits = ones
	}
	return netip.PrefixFrom(addr, bits), nil
}

// times of a lease after RFC 2131, 4.4.5: T1 (ask the server that gave it), T2 (ask anyone), end. A lease
// of less than a second is stretched to it, so that a broken server cannot make us spin.
func times(ack *dhcpv4.DHCPv4) (t1, t2, end time.Duration) {
	end = max(ack.IPAddressLeaseTime(time.Hour), time.Second)
	t1 = ack.IPAddressRenewalTime(end / 2)
	t2 = ack.IPAddressRebindingTime(end * 7 / 8)
	if t1 <= 0 || t2 < t1 || end < t2 {
		t1, t2 = end/2, end*7/8
	}
	return t1, t2, end
}

// keep installs the lease and keeps it until it is refused or has expired, which is the error, or ctx
// ends.
func (p *port) keep(ctx context.Context, lease *nclient4.Lease) error {
	for {
		addr, err := prefixOfLease(lease.ACK)
		if err != nil {
			wait(ctx, longestWait) // it will say the same again
			return err
		}
		if err := p.install(addr); err != nil {
			wait(ctx, firstAnswer)
			return err
		}
		if err := p.setDefaultRoute(lease.ACK); err != nil {
			p.links.cfg.Log.Warn("cannot set the default route", "link", p.name, "err", err)
		}
		p.setAddress(addr, addrs(lease.ACK.DNS()))
		p.waitFor("")
		if lease, err = p.renew(ctx, lease); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if ierr := p.install(netip.Prefix{}); ierr != nil {
				p.links.cfg.Log.Error("cannot remove an address that is not ours any more", "link", p.name, "err", ierr)
			}
			p.setAddress(netip.Prefix{}, nil)
			return err
		}
	}
}

// renew sleeps until the lease is half over, or the carrier comes back (the port may be in another switch
// now), and then asks until it is renewed, refused or over.
func (p *port) renew(ctx context.Context, lease *nclient4.Lease) (*nclient4.Lease, error) {
	t1, t2, length := times(lease.ACK)
	rebind, end := lease.CreationTime.Add(t2), lease.CreationTime.Add(length)
	moved := p.sleepUntil(ctx, lease.CreationTime.Add(t1))
	for ctx.Err() == nil && time.Now().Before(end) {
		up, flip := p.carrierState()
		if !up {
			p.waitFor(waitCarrier)
			t := time.NewTimer(time.Until(end))
			select {
			case <-ctx.Done():
			case <-flip:
			case <-t.C:
			}
			t.Stop()
			moved = true
			continue
		}
		p.waitFor(waitRenewal)
		next, err := p.renewOnce(ctx, lease, moved || time.Now().After(rebind))
		switch {
		case err == nil:
			return next, nil
		case errors.Is(err, errNak):
			return nil, err
		}
		// RFC 2131: half of the time that is left, at least a minute. Leases of seconds exist in labs.
		wait(ctx, min(max(time.Until(end)/8, 200*time.Millisecond), time.Minute))
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("the lease has expired after %s without an answer from a DHCP server", length)
}

// sleepUntil t, or until the carrier has gone and come back, which is what it returns.
func (p *port) sleepUntil(ctx context.Context, t time.Time) (carrierBack bool) {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	for {
		up, flip := p.carrierState()
		if up {
			p.waitFor("")
		} else {
			p.waitFor(waitCarrier)
		}
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return false
		case <-flip:
			if now, _ := p.carrierState(); now {
				return true
			}
		}
	}
}

// renewOnce asks once. Rebinding asks any server, by broadcast.
func (p *port) renewOnce(ctx context.Context, lease *nclient4.Lease, rebind bool) (*nclient4.Lease, error) {
	// An ordinary socket, since we have an address: a server drops a question to itself that comes from
	// 0.0.0.0, as the packet socket would send it.
	conn, err := server4.NewIPv4UDPConn(p.name, &net.UDPAddr{IP: net.IPv4zero, Port: nclient4.ClientPort})
	if err != nil {
		return nil, fmt.Errorf("open %s for a DHCP renewal: %w", p.name, err)
	}
	c, err := nclient4.NewWithConn(conn, p.link.Attrs().HardwareAddr, nclient4.WithTimeout(firstAnswer), nclient4.WithRetry(1))
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open %s for a DHCP renewal: %w", p.name, err)
	}
	defer func() { _ = c.Close() }()
	req, err := dhcpv4.NewRenewFromAck(lease.ACK)
	if err != nil {
		return nil, fmt.Errorf("make a DHCP renewal: %w", err)
	}
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: nclient4.ServerPort}
	match := nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)
	if id := lease.ACK.ServerIdentifier(); !rebind && id != nil {
		to.IP = id
		match = nclient4.IsAll(match, nclient4.IsCorrectServer(id))
	}
	ack, err := c.SendAndRead(ctx, to, req, match)
	if err != nil {
		return nil, dhcpError(err)
	}
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		return nil, errNak
	}
	return &nclient4.Lease{Offer: lease.Offer, ACK: ack, CreationTime: time.Now()}, nil
}

// setDefaultRoute follows the router that the server named, if any.
func (p *port) setDefaultRoute(ack *dhcpv4.DHCPv4) error {
	routers := addrs(ack.Router())
	if len(routers) == 0 {
		return nil
	}
	index := p.link.Attrs().Index
	return netlink.RouteReplace(&netlink.Route{
		LinkIndex: index, Gw: routers[0].AsSlice(), Protocol: unix.RTPROT_DHCP, Priority: defaultMetric + index,
		Dst: ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)),
	})
}

func addrs(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && !a.IsUnspecified() {
			out = append(out, a)
		}
	}
	return out
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP.To4())
	ones, size := n.Mask.Size()
	return netip.PrefixFrom(a, ones), ok && size == 32
}
