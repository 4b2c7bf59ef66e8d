package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
)

// Interface is a network that machines are booted on.
type Interface struct {
	Name string
	Addr netip.Prefix // our own address there
}

// Config of a Server.
type Config struct {
	Interfaces []Interface
	Folder     Folder
	HTTPPort   uint16
	// Cmdline is what kernels are told, the same for all machines.
	Cmdline string
	// Servers that a machine may fetch from, those that live first; nil: only this one. self is the address it asks.
	Servers func(mac net.HardwareAddr, self netip.Addr) []netip.AddrPort
	// Delay is how long a machine's DHCP questions wait for their answer, so that servers of better rank are first;
	// nil: not at all.
	Delay func(mac net.HardwareAddr) time.Duration
	// Pool, if there is one, makes this the DHCP server of the networks; else it is a proxy.
	Pool   *Pool
	Router netip.Addr
	DNS    []netip.Addr
	// Changed is told of a machine that got somewhere, or that was not answered. It must not call the server.
	Changed func(Machine)
	Log     *slog.Logger
}

// ErrOtherServer: somebody else gives addresses on the network.
var ErrOtherServer = errors.New("another DHCP server answers")

const (
	leaseSeconds = 3600
	// probeTime is how long another DHCP server may take to show itself.
	probeTime = 3 * time.Second
)

// Server boots machines on real networks.
type Server struct {
	cfg   Config
	site  Site
	begin time.Time

	mu      sync.Mutex
	tracker *Tracker
	dropped int
	delayed atomic.Int64 // answers that wait
}

// NewServer makes a server; Run starts it.
func NewServer(cfg Config) (*Server, error) {
	if len(cfg.Interfaces) == 0 {
		return nil, errors.New("no interface to serve")
	}
	for _, i := range cfg.Interfaces {
		if !i.Addr.Addr().Is4() {
			return nil, fmt.Errorf("interface %s has no IPv4 address: PXE needs one", i.Name)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func(Machine) {}
	}
	return &Server{cfg: cfg, site: cfg.Folder.Site(cfg.HTTPPort), begin: time.Now(), tracker: NewTracker()}, nil
}

func (s *Server) now() time.Duration { return time.Since(s.begin) }

// Machines that asked to be booted, and how many messages could not be read. Times count from the server's start.
func (s *Server) Machines() (machines []Machine, dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tracker.Machines(), s.dropped
}

// Run serves until ctx ends or a socket fails. As a DHCP server it first looks for another one.
func (s *Server) Run(ctx context.Context) error {
	if s.cfg.Pool != nil {
		for _, i := range s.cfg.Interfaces {
			if err := probe(ctx, i); err != nil {
				return err
			}
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	serve := func(what string, close func(), f func() error) {
		context.AfterFunc(ctx, close)
		wg.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	files := &Files{Open: s.cfg.Folder.Open, Script: s.script, Reached: s.reached}
	for _, i := range s.cfg.Interfaces {
		self := i.Addr.Addr()
		dhcp, err := server4.NewIPv4UDPConn(i.Name, &net.UDPAddr{IP: net.IPv4zero, Port: dhcpv4.ServerPort})
		if err != nil {
			return fmt.Errorf("listen for DHCP on %s: %w", i.Name, err)
		}
		serve("DHCP on "+i.Name, func() { dhcp.Close() }, func() error { return s.dhcp(dhcp, i) })
		if s.cfg.Pool == nil {
			ask, err := server4.NewIPv4UDPConn(i.Name, &net.UDPAddr{IP: net.IPv4zero, Port: askPort})
			if err != nil {
				return fmt.Errorf("listen on port %d of %s: %w", askPort, i.Name, err)
			}
			serve("port 4011 on "+i.Name, func() { ask.Close() }, func() error { return s.dhcp(ask, i) })
		}
		tftp, err := net.ListenPacket("udp4", netip.AddrPortFrom(self, 69).String())
		if err != nil {
			return fmt.Errorf("listen for TFTP on %s: %w", i.Name, err)
		}
		t := files.TFTP(func() (net.PacketConn, error) { return net.ListenPacket("udp4", netip.AddrPortFrom(self, 0).String()) }, s.transferred)
		serve("TFTP on "+i.Name, func() { tftp.Close(); t.Close() }, func() error { return t.Serve(tftp) })
		l, err := net.Listen("tcp4", netip.AddrPortFrom(self, s.cfg.HTTPPort).String())
		if err != nil {
			return fmt.Errorf("listen for HTTP on %s: %w", i.Name, err)
		}
		h := NewHTTPServer(files)
		serve("HTTP on "+i.Name, func() { h.Close() }, func() error { return h.Serve(l) })
		s.cfg.Log.Info("machines can boot here", "interface", i.Name, "address", self, "addresses given", s.cfg.Pool != nil)
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// NewHTTPServer is a server for the files with bounds on what a slow or hostile client can hold.
func NewHTTPServer(files *Files) *http.Server {
	return &http.Server{Handler: files, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, WriteTimeout: 30 * time.Minute, MaxHeaderBytes: 8 << 10}
}

// askPort is where firmware asks a proxy again (PXE 2.1).
const askPort = 4011

// probe looks whether somebody gives addresses on a network.
func probe(ctx context.Context, i Interface) error {
	c, err := nclient4.New(i.Name, nclient4.WithTimeout(probeTime), nclient4.WithRetry(1))
	if err != nil {
		return fmt.Errorf("look for another DHCP server on %s: %w", i.Name, err)
	}
	defer c.Close()
	offer, err := c.DiscoverOffer(ctx)
	if err == nil {
		return fmt.Errorf("%w on %s: %s offers %s; give no addresses beside it (leave out the pool: as a proxy this server boots machines all the same)",
			ErrOtherServer, i.Name, offer.ServerIdentifier(), offer.YourIPAddr)
	}
	if !errors.Is(err, nclient4.ErrNoResponse) {
		return fmt.Errorf("look for another DHCP server on %s: %w", i.Name, err)
	}
	return nil
}

func (s *Server) transferred(name string, from netip.AddrPort, sent int64, err error) {
	if errors.Is(err, ErrAborted) {
		return // firmware that asked for the size
	}
	s.cfg.Log.Info("TFTP", "file", name, "to", from, "bytes", sent, "err", err)
}

func (s *Server) reached(mac string, from netip.Addr, st Stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, news := s.tracker.Reached(s.now(), mac, from, st); news {
		s.cfg.Changed(m)
	}
}

// asked notes a question, and tells of it if it is the first of an attempt.
func (s *Server) asked(now time.Duration, c Client) Shape {
	shape, m, news := s.tracker.Asked(now, c)
	if news {
		s.cfg.Changed(m)
	}
	return shape
}

func (s *Server) script(mac net.HardwareAddr, _, self netip.Addr) string {
	servers := []netip.AddrPort{netip.AddrPortFrom(self, s.cfg.HTTPPort)}
	if s.cfg.Servers != nil {
		servers = s.cfg.Servers(mac, self)
	}
	return Script(servers, mac, s.cfg.Cmdline)
}

// dhcp answers on one socket until it is closed.
func (s *Server) dhcp(conn net.PacketConn, i Interface) error {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		req, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			s.mu.Lock()
			s.dropped++
			s.mu.Unlock()
			continue
		}
		reply := s.answer(req, i)
		if reply == nil {
			continue
		}
		s.send(conn, i, reply, destination(req, reply, from), s.delay(req))
	}
}

// maxDelayed bounds the answers that wait; who would be one more is answered at once.
const maxDelayed = 256

// delay is how long the answer to a message waits.
func (s *Server) delay(req *dhcpv4.DHCPv4) time.Duration {
	if s.cfg.Delay == nil || req.MessageType() != dhcpv4.MessageTypeDiscover {
		return 0 // a request is for this server alone
	}
	return s.cfg.Delay(req.ClientHWAddr)
}

func (s *Server) send(conn net.PacketConn, i Interface, reply *dhcpv4.DHCPv4, to net.Addr, wait time.Duration) {
	write := func() {
		if _, err := conn.WriteTo(reply.ToBytes(), to); err != nil && !errors.Is(err, net.ErrClosed) {
			s.cfg.Log.Warn("send a DHCP answer", "interface", i.Name, "err", err)
		}
	}
	if wait <= 0 || s.delayed.Add(1) > maxDelayed {
		if wait > 0 {
			s.delayed.Add(-1)
		}
		write()
		return
	}
	time.AfterFunc(wait, func() {
		defer s.delayed.Add(-1)
		write()
	})
}

// destination is where an answer goes: to the relay that brought the question, to the client if it has an address, else to
// all.
func destination(req, reply *dhcpv4.DHCPv4, from net.Addr) net.Addr {
	if udp, ok := from.(*net.UDPAddr); ok && udp.Port != dhcpv4.ClientPort && udp.Port != dhcpv4.ServerPort && !udp.IP.IsUnspecified() {
		return from // port 4011 is asked from any port
	}
	switch {
	case !req.GatewayIPAddr.IsUnspecified():
		return &net.UDPAddr{IP: req.GatewayIPAddr, Port: dhcpv4.ServerPort}
	case !req.ClientIPAddr.IsUnspecified() && reply.MessageType() != dhcpv4.MessageTypeNak:
		return &net.UDPAddr{IP: req.ClientIPAddr, Port: dhcpv4.ClientPort}
	}
	return &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}
}

// answer is the reply to a message; nil: none.
func (s *Server) answer(req *dhcpv4.DHCPv4, i Interface) *dhcpv4.DHCPv4 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, self := s.now(), i.Addr.Addr()
	c, err := Identify(req)
	boots := err == nil
	if err != nil && !errors.Is(err, ErrNoBoot) && len(req.ClientHWAddr) == 6 {
		s.refuse(now, c, err)
	}
	var reply *dhcpv4.DHCPv4
	switch {
	case s.cfg.Pool != nil:
		reply, err = s.lease(now, req, c, boots, i)
	case boots && (req.MessageType() == dhcpv4.MessageTypeDiscover || req.MessageType() == dhcpv4.MessageTypeRequest && forUs(req, self)):
		reply, err = s.site.Offer(req, c, self, s.asked(now, c))
	default:
		return nil
	}
	if err != nil {
		s.refuse(now, c, err)
		return nil
	}
	return reply
}

func (s *Server) refuse(now time.Duration, c Client, err error) {
	if m, news := s.tracker.Refused(now, c, err); news {
		s.cfg.Changed(m)
	}
}

// forUs tells whether a REQUEST to port 4011 is for this server: one on port 67 confirms the address of another.
func forUs(req *dhcpv4.DHCPv4, self netip.Addr) bool {
	id := req.ServerIdentifier()
	return req.RequestedIPAddress() == nil && (id == nil || id.Equal(self.AsSlice()))
}

func (s *Server) lease(now time.Duration, req *dhcpv4.DHCPv4, c Client, boots bool, i Interface) (*dhcpv4.DHCPv4, error) {
	mac, self := req.ClientHWAddr.String(), i.Addr.Addr()
	asked, _ := netip.AddrFromSlice(req.RequestedIPAddress().To4())
	if !asked.IsValid() {
		asked, _ = netip.AddrFromSlice(req.ClientIPAddr.To4())
	}
	var client *Client
	l := Lease{Router: s.cfg.Router, DNS: s.cfg.DNS, Seconds: leaseSeconds}
	switch kind := req.MessageType(); kind {
	case dhcpv4.MessageTypeDiscover:
		addr, err := s.cfg.Pool.Offer(now, mac, asked)
		if err != nil {
			return nil, err
		}
		l.Address = netip.PrefixFrom(addr, i.Addr.Bits())
	case dhcpv4.MessageTypeRequest:
		if id := req.ServerIdentifier(); id != nil && !id.Equal(self.AsSlice()) {
			return nil, nil // it chose another server
		}
		if !s.cfg.Pool.Take(now, mac, asked) {
			return dhcpv4.NewReplyFromRequest(req, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self.AsSlice())))
		}
		l.Address = netip.PrefixFrom(asked, i.Addr.Bits())
	case dhcpv4.MessageTypeDecline:
		s.cfg.Log.Warn("a machine found its address with somebody else", "machine", mac, "address", asked)
		s.cfg.Pool.Decline(now, mac, asked)
		return nil, nil
	case dhcpv4.MessageTypeRelease:
		s.cfg.Pool.Release(now, mac, asked)
		return nil, nil
	default:
		return nil, nil
	}
	if boots {
		client = &c
		if _, err := s.site.BootFile(c, self); err != nil {
			s.refuse(now, c, err)
			client = nil // an address it gets all the same
		} else {
			s.asked(now, c)
		}
	}
	return s.site.Full(req, client, self, l)
}
