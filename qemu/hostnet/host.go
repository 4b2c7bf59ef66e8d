package hostnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	ethernetlink "gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/skein-os/skein/qemu/ethernet"
)

// channelMTU is 1514, not 1500: gVisor's ethernet wrapper subtracts the 14 bytes of the header from
// it, and with 1500 it would fragment full-size datagrams.
const channelMTU = 1514

// fallback is how long the first LAN may take to connect before the next is tried beside it.
const fallback = 150 * time.Millisecond

// LAN is one network the host is on.
type LAN struct {
	Switch *ethernet.Switch
	Addr   netip.Prefix // the host's own address and the network's length
	MAC    ethernet.MAC // the host's
}

// Config of a host.
type Config struct {
	LANs []LAN
	// Floating are networks that are on-link on every LAN.
	Floating []netip.Prefix
	// Lease says which address a machine gets on a LAN; ok false: none, the machine is not ours.
	Lease func(lan int, mac ethernet.MAC) (addr netip.Addr, ok bool)
	// Boot, if not nil, adds to each reply what a machine that boots from the network is to start.
	Boot func(lan int, req, reply *dhcpv4.DHCPv4)
	// OnLease is told each acknowledged lease. It must not block.
	OnLease func(lan int, mac ethernet.MAC, addr netip.Addr)
	Log     *slog.Logger
}

// Host is the lab's host on its LANs. Close ends it.
type Host struct {
	cfg   Config
	stack *stack.Stack
	cards []*card
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// card is a network card between the stack and a switch.
type card struct {
	id   tcpip.NICID
	lan  LAN
	link *channel.Endpoint
	port *ethernet.Port
	dhcp *gonet.UDPConn
}

// New makes a host and plugs it into its LANs.
func New(cfg Config) (*Host, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	h := &Host{cfg: cfg, stop: stop, stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})}
	sack := tcpip.TCPSACKEnabled(true)
	h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)
	var routes []tcpip.Route
	for i, lan := range cfg.LANs {
		c, err := h.plug(ctx, tcpip.NICID(i+1), lan)
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("plug the host into LAN %d: %w", i, err)
		}
		for _, p := range append([]netip.Prefix{lan.Addr}, cfg.Floating...) {
			subnet, err := tcpip.NewSubnet(tcpip.AddrFrom4(p.Masked().Addr().As4()), tcpip.MaskFromBytes(net.CIDRMask(p.Bits(), 32)))
			if err != nil {
				h.Close()
				return nil, fmt.Errorf("route to %s: %w", p, err)
			}
			routes = append(routes, tcpip.Route{Destination: subnet, NIC: c.id})
		}
	}
	h.stack.SetRouteTable(routes)
	for i := range h.cards {
		if err := h.startDHCP(i); err != nil {
			h.Close()
			return nil, err
		}
	}
	return h, nil
}

func (h *Host) plug(ctx context.Context, id tcpip.NICID, lan LAN) (*card, error) {
	c := &card{id: id, lan: lan, link: channel.New(ethernet.QueueFrames, channelMTU, tcpip.LinkAddress(lan.MAC[:]))}
	if err := h.stack.CreateNIC(id, ethernetlink.New(c.link)); err != nil {
		return nil, errors.New(err.String())
	}
	addr := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
		Address: tcpip.AddrFrom4(lan.Addr.Addr().As4()), PrefixLen: lan.Addr.Bits()}}
	if err := h.stack.AddProtocolAddress(id, addr, stack.AddressProperties{}); err != nil {
		return nil, errors.New(err.String())
	}
	c.port = lan.Switch.Attach("host", c)
	h.cards = append(h.cards, c)
	h.wg.Go(func() { c.send(ctx) })
	return c, nil
}

// WriteFrames implements ethernet.Sink: frames from the switch go into the stack.
func (c *card) WriteFrames(frames [][]byte) error {
	for _, f := range frames {
		if dst := ethernet.MAC(f[0:6]); dst[0]&1 == 0 && dst != c.lan.MAC {
			continue // flooded, for somebody else
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(asProbe(f, c.lan))})
		c.link.InjectInbound(0, pkt)
		pkt.DecRef()
	}
	return nil
}

// send hands the stack's frames to the switch.
func (c *card) send(ctx context.Context) {
	for {
		pkt := c.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		frame := append([]byte(nil), view.AsSlice()...)
		view.Release()
		pkt.DecRef()
		c.port.Receive(frame)
	}
}

// Port is the host's port on a LAN, for counters.
func (h *Host) Port(lan int) *ethernet.Port { return h.cards[lan].port }

// Close unplugs the host and ends its connections.
func (h *Host) Close() {
	h.stop()
	for _, c := range h.cards {
		if c.dhcp != nil {
			c.dhcp.Close()
		}
	}
	h.wg.Wait()
	for _, c := range h.cards {
		c.port.Detach()
	}
	h.stack.Destroy()
}

// Dial connects by TCP to an address on a LAN, or to one that is on all of them. The LANs are tried in
// order; the next one is added when the one before has failed or has not answered in 150 ms.
func (h *Host) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	cards := h.reaching(addr.Addr())
	if len(cards) == 0 {
		return nil, fmt.Errorf("dial %s: not an address of the lab", addr)
	}
	var attempts []func(context.Context) (net.Conn, error)
	for _, c := range cards {
		attempts = append(attempts, func(ctx context.Context) (net.Conn, error) { return h.dialCard(ctx, c, addr) })
	}
	return race(ctx, attempts)
}

// DialAny connects to the first of several addresses of one machine that answers, in the same way.
func (h *Host) DialAny(ctx context.Context, addrs []netip.AddrPort) (net.Conn, error) {
	var attempts []func(context.Context) (net.Conn, error)
	for _, a := range addrs {
		attempts = append(attempts, func(ctx context.Context) (net.Conn, error) { return h.Dial(ctx, a) })
	}
	return race(ctx, attempts)
}

func (h *Host) reaching(a netip.Addr) []*card {
	for _, c := range h.cards {
		if c.lan.Addr.Contains(a) {
			return []*card{c}
		}
	}
	for _, p := range h.cfg.Floating {
		if p.Contains(a) {
			return h.cards
		}
	}
	return nil
}

func (h *Host) dialCard(ctx context.Context, c *card, addr netip.AddrPort) (net.Conn, error) {
	to := tcpip.FullAddress{NIC: c.id, Addr: tcpip.AddrFrom4(addr.Addr().Unmap().As4()), Port: addr.Port()}
	from := tcpip.FullAddress{NIC: c.id, Addr: tcpip.AddrFrom4(c.lan.Addr.Addr().As4())}
	conn, err := gonet.DialTCPWithBind(ctx, h.stack, from, to, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("dial %s on lan%d: %w", addr, c.id-1, err)
	}
	return conn, nil
}

// Listen accepts TCP connections from the machines on the host's address of a LAN.
func (h *Host) Listen(lan int, port uint16) (net.Listener, error) {
	c := h.cards[lan]
	l, err := gonet.ListenTCP(h.stack, tcpip.FullAddress{NIC: c.id, Addr: tcpip.AddrFrom4(c.lan.Addr.Addr().As4()), Port: port}, header.IPv4ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen on %s port %d: %w", c.lan.Addr.Addr(), port, err)
	}
	return l, nil
}

// ListenPacket takes UDP packets from the machines on the host's address of a LAN; port 0: any that is free.
func (h *Host) ListenPacket(lan int, port uint16) (net.PacketConn, error) {
	c := h.cards[lan]
	laddr := tcpip.FullAddress{NIC: c.id, Addr: tcpip.AddrFrom4(c.lan.Addr.Addr().As4()), Port: port}
	conn, err := gonet.DialUDP(h.stack, &laddr, nil, header.IPv4ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen on %s, UDP port %d: %w", c.lan.Addr.Addr(), port, err)
	}
	return conn, nil
}

// race runs attempts one after another, each started when the one before failed or took longer than
// fallback, and returns the first connection; later ones are closed.
func race(ctx context.Context, attempts []func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if len(attempts) == 0 {
		return nil, errors.New("no address to dial")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, len(attempts))
	start := func(i int) {
		go func() {
			conn, err := attempts[i](ctx)
			results <- result{conn, err}
		}()
	}
	timer := time.NewTimer(fallback)
	defer timer.Stop()
	start(0)
	started, ended := 1, 0
	var errs []error
	for {
		select {
		case r := <-results:
			ended++
			if r.err == nil {
				left := started - ended
				cancel()
				if left > 0 {
					go func() { // ends as soon as the cancelled attempts return
						for range left {
							if late := <-results; late.conn != nil {
								late.conn.Close()
							}
						}
					}()
				}
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if started == len(attempts) {
				if ended == started {
					return nil, errors.Join(errs...)
				}
				continue
			}
		case <-timer.C:
			if started == len(attempts) {
				continue
			}
		}
		start(started)
		started++
		timer.Reset(fallback)
	}
}
