package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

// Domain is the cluster's own: <service>.<stack>.skein. Containers have <stack>.skein in their search list.
const Domain = "skein."

const (
	answerTTL   = 1 // seconds: an instance that moved is found again at once
	maxForwards = 64
	maxTCP      = 64
	forwardTime = 2 * time.Second
)

// DNSConfig of the node's name server.
type DNSConfig struct {
	Log *slog.Logger
	// Listen is the node's own address, port 53; UDP and TCP.
	Listen netip.AddrPort
	// Clients may ask; others are refused, so that the node is no open resolver for its LANs.
	Clients []netip.Prefix
	// Lookup returns the addresses of the running instances, and whether the service exists at all. It is
	// called for each question, concurrently, and must not block.
	Lookup func(service, stack string) (addrs []netip.Addr, exists bool)
	// Resolvers are asked for names outside Domain, in turn; nil or empty: such names fail at once.
	Resolvers func() []netip.AddrPort
}

// DNS answers the names of services to containers. End it with Close.
type DNS struct {
	cfg      DNSConfig
	servers  []*dns.Server
	wg       sync.WaitGroup
	forwards chan struct{} // one token for each question under way
	stop     context.CancelFunc
	ctx      context.Context // of forwarded questions
	addr     netip.AddrPort
	broken   atomic.Pointer[error]
}

// ServeDNS starts the name server; it listens when it returns.
func ServeDNS(cfg DNSConfig) (*DNS, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	d := &DNS{cfg: cfg, forwards: make(chan struct{}, maxForwards)}
	d.ctx, d.stop = context.WithCancel(context.Background())
	pc, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(cfg.Listen))
	if err != nil {
		return nil, fmt.Errorf("listen for DNS on %s: %w", cfg.Listen, err)
	}
	d.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(d.addr))
	if err != nil {
		_ = pc.Close()
		return nil, fmt.Errorf("listen for DNS on %s: %w", d.addr, err)
	}
	started := make(chan struct{}, 2)
	for _, s := range []*dns.Server{
		{PacketConn: pc, UDPSize: dns.DefaultMsgSize},
		{
			Listener:    netutil.LimitListener(l, maxTCP),
			IdleTimeout: func() time.Duration { return 5 * time.Second }, MaxTCPQueries: 128,
		},
	} {
		s.Handler, s.ReadTimeout, s.WriteTimeout = d, 5*time.Second, 5*time.Second
		s.NotifyStartedFunc = func() { started <- struct{}{} }
		d.servers = append(d.servers, s)
		d.wg.Go(func() {
			if err := s.ActivateAndServe(); err != nil && d.ctx.Err() == nil {
				err = fmt.Errorf("DNS server on %s ended: %w", d.addr, err)
				d.broken.CompareAndSwap(nil, &err)
				cfg.Log.Error("name server", "err", err)
				select {
				case started <- struct{}{}: // ServeDNS may still wait
				default:
				}
			}
		})
	}
	<-started
	<-started
	if err := d.Err(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Addr is where it listens.
func (d *DNS) Addr() netip.AddrPort { return d.addr }

// Err is not nil if the server ended by itself: close it and start another.
func (d *DNS) Err() error {
	if e := d.broken.Load(); e != nil {
		return *e
	}
	return nil
}

// Close ends the server and all questions under way.
func (d *DNS) Close() {
	d.stop()
	for _, s := range d.servers {
		if err := s.Shutdown(); err != nil {
			d.cfg.Log.Debug("name server", "err", err)
		}
	}
	d.wg.Wait()
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	reply := new(dns.Msg)
	switch {
	case !d.mayAsk(w.RemoteAddr()):
		reply.SetRcode(req, dns.RcodeRefused)
	case req.Opcode != dns.OpcodeQuery:
		reply.SetRcode(req, dns.RcodeNotImplemented)
	case len(req.Question) != 1:
		reply.SetRcode(req, dns.RcodeFormatError)
	case dns.IsSubDomain(Domain, req.Question[0].Name):
		d.answer(reply, req)
	default:
		reply = d.forward(req, w.LocalAddr().Network())
	}
	size := dns.MinMsgSize
	if w.RemoteAddr().Network() == "tcp" {
		size = dns.MaxMsgSize
	} else if opt := req.IsEdns0(); opt != nil {
		size = max(size, min(int(opt.UDPSize()), dns.DefaultMsgSize))
	}
	reply.Truncate(size)
	if err := w.WriteMsg(reply); err != nil {
		d.cfg.Log.Debug("cannot answer a DNS question", "to", w.RemoteAddr(), "err", err)
	}
}

func (d *DNS) mayAsk(from net.Addr) bool {
	ap, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return false
	}
	for _, p := range d.cfg.Clients {
		if p.Contains(ap.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// answer a question about a name in Domain: here we are the only authority.
func (d *DNS) answer(reply, req *dns.Msg) {
	q := req.Question[0]
	reply.SetReply(req)
	reply.Authoritative = true
	reply.RecursionAvailable = true
	soa := &dns.SOA{
		Hdr: dns.RR_Header{Name: Domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: answerTTL},
		Ns:  "ns." + Domain, Mbox: "root." + Domain, Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: answerTTL,
	}
	if q.Qclass != dns.ClassINET && q.Qclass != dns.ClassANY {
		reply.Rcode = dns.RcodeRefused
		return
	}
	name := strings.ToLower(q.Name)
	if name == Domain {
		if q.Qtype == dns.TypeSOA || q.Qtype == dns.TypeANY {
			reply.Answer = []dns.RR{soa}
		} else {
			reply.Ns = []dns.RR{soa}
		}
		return
	}
	labels := dns.SplitDomainName(name)
	if len(labels) != 3 {
		// <stack>.skein itself has no records, and whether it exists is nobody's question.
		reply.Rcode = dns.RcodeNameError
		reply.Ns = []dns.RR{soa}
		return
	}
	addrs, exists := d.cfg.Lookup(labels[0], labels[1])
	if !exists {
		reply.Rcode = dns.RcodeNameError
		reply.Ns = []dns.RR{soa}
		return
	}
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY {
		for _, a := range addrs {
			if a.Is4() {
				reply.Answer = append(reply.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: answerTTL},
					A:   a.AsSlice(),
				})
			}
		}
		// Clients take the first: spread them.
		rand.Shuffle(len(reply.Answer), func(i, j int) {
			reply.Answer[i], reply.Answer[j] = reply.Answer[j], reply.Answer[i]
		})
	}
	if len(reply.Answer) == 0 {
		reply.Ns = []dns.RR{soa} // it exists, but has no such record (no IPv6), or no instance runs now
	}
}

// forward asks the resolvers of the outside world, one after the other, within forwardTime in all.
func (d *DNS) forward(req *dns.Msg, network string) *dns.Msg {
	fail := func(code int) *dns.Msg { return new(dns.Msg).SetRcode(req, code) }
	var resolvers []netip.AddrPort
	if d.cfg.Resolvers != nil {
		resolvers = d.cfg.Resolvers()
	}
	if len(resolvers) == 0 {
		return fail(dns.RcodeRefused)
	}
	select {
	case d.forwards <- struct{}{}:
		defer func() { <-d.forwards }()
	default: // a bound for memory and sockets: the client asks again
		return fail(dns.RcodeServerFailure)
	}
	ctx, cancel := context.WithTimeout(d.ctx, forwardTime)
	defer cancel()
	share := forwardTime / time.Duration(len(resolvers))
	var errs []error
	for _, r := range resolvers {
		if r == d.addr {
			continue // a circle
		}
		one, done := context.WithTimeout(ctx, share)
		c := &dns.Client{Net: strings.TrimSuffix(network, "4"), Timeout: share, UDPSize: dns.DefaultMsgSize}
		out := req.Copy()
		out.Id = dns.Id()
		answer, _, err := c.ExchangeContext(one, out, r.String())
		done()
		if err == nil && (len(answer.Question) != 1 || !strings.EqualFold(answer.Question[0].Name, req.Question[0].Name)) {
			err = errors.New("answers another question")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("resolver %s: %w", r, err))
			continue
		}
		answer.Id = req.Id
		return answer
	}
	d.cfg.Log.Debug("cannot resolve", "name", req.Question[0].Name, "err", errors.Join(errs...))
	return fail(dns.RcodeServerFailure)
}
