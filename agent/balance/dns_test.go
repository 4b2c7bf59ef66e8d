package balance

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func serveDNS(t *testing.T, cfg DNSConfig) *DNS {
	t.Helper()
	needLoopback(t)
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Listen = netip.MustParseAddrPort("127.0.0.1:0")
	if cfg.Clients == nil {
		cfg.Clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	d, err := ServeDNS(cfg)
	must(t, err)
	t.Cleanup(d.Close)
	return d
}

func testLookup(service, stack string) ([]netip.Addr, bool) {
	switch service + "." + stack {
	case "web.demo":
		return []netip.Addr{netip.MustParseAddr("10.80.1.2"), netip.MustParseAddr("10.80.2.2")}, true
	case "many.demo":
		var out []netip.Addr
		for i := range 200 {
			out = append(out, netip.AddrFrom4([4]byte{10, 80, 1, byte(i)}))
		}
		return out, true
	case "idle.demo":
		return nil, true
	}
	return nil, false
}

func TestDNS(t *testing.T) {
	outside := serveDNS(t, DNSConfig{Lookup: func(_, _ string) ([]netip.Addr, bool) { return nil, false }})
	d := serveDNS(t, DNSConfig{
		Lookup:    testLookup,
		Resolvers: func() []netip.AddrPort { return []netip.AddrPort{} },
	})
	for _, c := range []struct {
		name    string
		qtype   uint16
		rcode   int
		answers int
	}{
		{"web.demo.skein.", dns.TypeA, dns.RcodeSuccess, 2},
		{"WEB.Demo.SKEIN.", dns.TypeA, dns.RcodeSuccess, 2},
		{"web.demo.skein.", dns.TypeAAAA, dns.RcodeSuccess, 0},
		{"idle.demo.skein.", dns.TypeA, dns.RcodeSuccess, 0},
		{"nosuch.demo.skein.", dns.TypeA, dns.RcodeNameError, 0},
		{"demo.skein.", dns.TypeA, dns.RcodeNameError, 0},
		{"a.web.demo.skein.", dns.TypeA, dns.RcodeNameError, 0},
		{"skein.", dns.TypeSOA, dns.RcodeSuccess, 1},
		{"skein.", dns.TypeA, dns.RcodeSuccess, 0},
		{"*.demo.skein.", dns.TypeA, dns.RcodeNameError, 0},
		{`we\000b.demo.skein.`, dns.TypeA, dns.RcodeNameError, 0},
		{`..\/etc.demo.skein.`, dns.TypeA, -1, 0},
		{`\.\.\/etc.demo.skein.`, dns.TypeA, dns.RcodeNameError, 0},
		{strings.Repeat("a.", 120) + "skein.", dns.TypeA, dns.RcodeNameError, 0},
		{"notskein.", dns.TypeA, dns.RcodeRefused, 0},
		{"example.org.", dns.TypeA, dns.RcodeRefused, 0},
		{".", dns.TypeNS, dns.RcodeRefused, 0},
	} {
		for _, network := range []string{"udp", "tcp"} {
			q := new(dns.Msg).SetQuestion(c.name, c.qtype)
			r, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, d.Addr().String())
			if c.rcode < 0 { // cannot even be asked
				if err == nil {
					t.Errorf("%s %s: got %v, want an error", network, c.name, r)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s %s: %v", network, c.name, err)
				continue
			}
			if r.Rcode != c.rcode || len(r.Answer) != c.answers {
				t.Errorf("%s %s %s: got %s with %d answers, want %s with %d", network, c.name, dns.TypeToString[c.qtype],
					dns.RcodeToString[r.Rcode], len(r.Answer), dns.RcodeToString[c.rcode], c.answers)
			}
			for _, a := range r.Answer {
				if a.Header().Ttl != answerTTL {
					t.Errorf("%s: got TTL %d, want %d", c.name, a.Header().Ttl, answerTTL)
				}
			}
		}
	}
	// A long answer is cut on UDP and whole on TCP.
	q := new(dns.Msg).SetQuestion("many.demo.skein.", dns.TypeA)
	if r, _, err := (&dns.Client{}).Exchange(q, d.Addr().String()); err != nil || !r.Truncated {
		t.Errorf("got %v (%v), want a truncated answer", r, err)
	}
	if r, _, err := (&dns.Client{Net: "tcp"}).Exchange(q, d.Addr().String()); err != nil || len(r.Answer) != 200 {
		t.Errorf("got %v, want 200 answers", err)
	}
	// Forwarding: the answer of a resolver comes through, whatever it is; a dead one is passed over.
	dead, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer func() { _ = dead.Close() }()
	f := serveDNS(t, DNSConfig{Lookup: testLookup, Resolvers: func() []netip.AddrPort {
		return []netip.AddrPort{dead.LocalAddr().(*net.UDPAddr).AddrPort(), outside.Addr()}
	}})
	r, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeA), f.Addr().String())
	if err != nil || r.Rcode != dns.RcodeRefused {
		t.Errorf("forwarded: got %v, %v, want the second resolver's refusal", r, err)
	}
	// Strangers.
	s := serveDNS(t, DNSConfig{Lookup: testLookup, Clients: []netip.Prefix{netip.MustParsePrefix("10.80.0.0/16")}})
	r, _, err = new(dns.Client).Exchange(new(dns.Msg).SetQuestion("web.demo.skein.", dns.TypeA), s.Addr().String())
	if err != nil || r.Rcode != dns.RcodeRefused {
		t.Errorf("a stranger got %v, %v, want a refusal", r, err)
	}
}

type fakeWriter struct {
	dns.ResponseWriter
	sent *dns.Msg
}

func (w *fakeWriter) RemoteAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (w *fakeWriter) LocalAddr() net.Addr  { return w.RemoteAddr() }
func (w *fakeWriter) WriteMsg(m *dns.Msg) error {
	w.sent = m
	return nil
}

// Whatever a stranger sends, the answer can be packed and fits.
func FuzzDNS(f *testing.F) {
	for _, name := range []string{"web.demo.skein.", "x.", "."} {
		b, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	d := &DNS{forwards: make(chan struct{}, 1), cfg: DNSConfig{
		Log: slog.New(slog.DiscardHandler), Lookup: testLookup, Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}}
	f.Fuzz(func(t *testing.T, data []byte) {
		req := new(dns.Msg)
		if req.Unpack(data) != nil {
			return
		}
		w := &fakeWriter{}
		d.ServeDNS(w, req)
		if w.sent == nil {
			t.Fatal("no answer")
		}
		if b, err := w.sent.Pack(); err == nil && len(b) > dns.DefaultMsgSize {
			t.Fatalf("the answer has %d bytes", len(b))
		}
		_ = fmt.Sprint(w.sent)
	})
}
