package network

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/vishvananda/netlink"
)

// dhcpServer answers on the far end of a wire.
type dhcpServer struct {
	mode  atomic.Int32 // what it does, below
	lease atomic.Int64 // seconds
	offer atomic.Pointer[netip.Addr]
	asked atomic.Int32 // renewals: requests with an address in use
}

const (
	serve = iota
	silent
	refuse
)

func (d *dhcpServer) handle(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
	if !m.ClientIPAddr.IsUnspecified() {
		d.asked.Add(1)
	}
	mode := d.mode.Load()
	if mode == silent {
		return
	}
	kind := dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
		if mode == refuse {
			kind = dhcpv4.MessageTypeNak
		}
	}
	r, err := dhcpv4.NewReplyFromRequest(m,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(net.IPv4(10, 77, 0, 254)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 0, 254))),
		dhcpv4.WithYourIP(d.offer.Load().AsSlice()),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithDNS(net.IPv4(10, 77, 0, 253)),
		dhcpv4.WithLeaseTime(uint32(d.lease.Load())),
	)
	if err == nil {
		_, _ = conn.WriteTo(r.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
	}
}

func startDHCP(t *testing.T, h host, link, offer string) *dhcpServer {
	t.Helper()
	d := &dhcpServer{}
	d.lease.Store(3600)
	a := netip.MustParseAddr(offer)
	d.offer.Store(&a)
	var s *server4.Server
	h.do(t, func() (err error) {
		s, err = server4.NewServer(link, &net.UDPAddr{IP: net.IPv4zero, Port: 67}, d.handle)
		return err
	})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve() }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return d
}

// changes collects what OnChange is told.
type changes struct {
	mu   sync.Mutex
	list [][]cluster.Link
}

func (c *changes) add(l []cluster.Link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, l)
}

func names(links []cluster.Link) string {
	var out []string
	for _, l := range links {
		out = append(out, l.Name+"="+l.Addr.String())
	}
	return strings.Join(out, " ")
}

func watch(t *testing.T, static map[string]netip.Prefix) (*Links, *changes) {
	t.Helper()
	var c changes
	l, err := Watch(t.Context(), Config{
		Log: slog.New(slog.DiscardHandler), Static: static, OnChange: c.add,
		IsPort: func(l netlink.Link) bool { return strings.HasPrefix(l.Attrs().Name, "t") },
	})
	must(t, err)
	t.Cleanup(l.Close)
	return l, &c
}

func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s in vain: %s", what)
		}
	}
}

func TestLinks(t *testing.T) {
	needNamespace(t)
	near := newHost(t, "t0", "p0", netip.MustParsePrefix("10.77.0.254/24"))
	far := newHost(t, "t1", "p1", netip.MustParsePrefix("10.77.1.254/24"))
	_ = newHost(t, "t2", "p2", netip.MustParsePrefix("10.77.2.254/24"))
	startDHCP(t, near, "p0", "10.77.0.1")
	l, c := watch(t, map[string]netip.Prefix{"t2": netip.MustParsePrefix("10.77.2.1/24")})

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := l.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	// One has no server: it delays nobody and says what it waits for.
	await(t, "two ports with an address", func() bool { return names(l.List()) == "t0=10.77.0.1/24 t2=10.77.2.1/24" })
	want := "waiting for an address on t1 (carrier up, no DHCP answer for "
	await(t, "the condition", func() bool {
		got := l.Conditions()
		return len(got) == 1 && strings.HasPrefix(got[0], want)
	})
	startDHCP(t, far, "p1", "10.77.1.1")
	await(t, "the third port", func() bool { return len(l.List()) == 3 })
	if got := l.Conditions(); len(got) != 0 {
		t.Errorf("got conditions %q, want none", got)
	}
	if got := l.Resolvers(); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.77.0.253")}) {
		t.Errorf("got resolvers %v", got)
	}
	c.mu.Lock()
	for i, x := range c.list {
		if i > 0 && slices.Equal(x, c.list[i-1]) {
			t.Errorf("told twice of %s", names(x))
		}
	}
	c.mu.Unlock()

	// The cable out, and in again: the address stays, the condition says it.
	far.do(t, func() error { return setLink("p1", false) })
	await(t, "the condition of a pulled cable", func() bool {
		got := l.Conditions()
		return len(got) == 1 && strings.HasPrefix(got[0], "waiting for carrier on t1")
	})
	if len(l.List()) != 3 {
		t.Errorf("got %s after a pulled cable, want all addresses kept", names(l.List()))
	}
	far.do(t, func() error { return setLink("p1", true) })
	await(t, "the end of the condition", func() bool { return len(l.Conditions()) == 0 })

	// A port that disappears is forgotten.
	gone, err := netlink.LinkByName("t1")
	must(t, err)
	must(t, netlink.LinkDel(gone))
	await(t, "the port to be forgotten", func() bool { return names(l.List()) == "t0=10.77.0.1/24 t2=10.77.2.1/24" })

	// A new agent finds the address without asking.
	l.Close()
	again, _ := watch(t, nil)
	await(t, "the address of the former agent", func() bool { return names(again.List()) == "t0=10.77.0.1/24 t2=10.77.2.1/24" })
}

func setLink(name string, up bool) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return netlink.LinkSetUp(l)
	}
	return netlink.LinkSetDown(l)
}

func TestLease(t *testing.T) {
	needNamespace(t)
	h := newHost(t, "t0", "p0", netip.MustParsePrefix("10.77.0.254/24"))
	d := startDHCP(t, h, "p0", "10.77.0.1")
	d.lease.Store(2)
	l, _ := watch(t, nil)
	has := func(want string) func() bool { return func() bool { return names(l.List()) == want } }
	await(t, "an address", has("t0=10.77.0.1/24"))
	await(t, "two renewals", func() bool { return d.asked.Load() >= 2 })
	if !has("t0=10.77.0.1/24")() {
		t.Errorf("got %s after renewals", names(l.List()))
	}
	// The server falls silent: the address is kept for what is left of the lease, then it goes.
	d.mode.Store(silent)
	await(t, "the end of the lease", has(""))
	if addrs, err := netlink.AddrList(mustLink(t, "t0"), netlink.FAMILY_V4); err != nil || len(addrs) != 0 {
		t.Errorf("got %v, %v on the port after the end of the lease, want none", addrs, err)
	}
	other := netip.MustParseAddr("10.77.0.9")
	d.offer.Store(&other)
	d.mode.Store(serve)
	await(t, "another address", has("t0=10.77.0.9/24"))
	// Refused at the next renewal: it goes at once.
	d.mode.Store(refuse)
	await(t, "the refusal to be obeyed", has(""))
}

func mustLink(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func TestWaitSaysWhat(t *testing.T) {
	needNamespace(t)
	newHost(t, "t0", "p0", netip.MustParsePrefix("10.77.0.254/24"))
	l, _ := watch(t, nil)
	await(t, "a condition", func() bool { return len(l.Conditions()) > 0 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Wait(ctx)
	if err == nil || !strings.Contains(err.Error(), "on t0") {
		t.Errorf("got %v, want what t0 waits for", err)
	}
}

func TestPrefixOfLease(t *testing.T) {
	for _, c := range []struct {
		ip   net.IP
		mask net.IPMask
		want string
	}{
		{net.IPv4(10, 0, 0, 5), net.CIDRMask(16, 32), "10.0.0.5/16"},
		{net.IPv4(10, 0, 0, 5), nil, "10.0.0.5/24"},
		{net.IPv4zero, net.CIDRMask(24, 32), ""},
		{net.IPv4(127, 0, 0, 1), net.CIDRMask(8, 32), ""},
		{net.IPv4(224, 0, 0, 1), net.CIDRMask(8, 32), ""},
		{net.IPv4(10, 0, 0, 5), net.IPv4Mask(0, 0, 0, 0), ""},
		{net.IPv4(10, 0, 0, 5), net.IPv4Mask(255, 0, 255, 0), ""},
	} {
		m, err := dhcpv4.New(dhcpv4.WithYourIP(c.ip))
		must(t, err)
		if c.mask != nil {
			m.UpdateOption(dhcpv4.OptSubnetMask(c.mask))
		}
		got, err := prefixOfLease(m)
		if c.want == "" {
			if err == nil {
				t.Errorf("%v/%v: got %v, want an error", c.ip, c.mask, got)
			}
		} else if err != nil || got.String() != c.want {
			t.Errorf("%v/%v: got %v, %v, want %s", c.ip, c.mask, got, err, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct{ lease, t1, t2, want1, want2, want time.Duration }{
		{60 * time.Second, 0, 0, 30 * time.Second, 52500 * time.Millisecond, 60 * time.Second},
		{60 * time.Second, 10 * time.Second, 20 * time.Second, 10 * time.Second, 20 * time.Second, 60 * time.Second},
		{60 * time.Second, 50 * time.Second, 20 * time.Second, 30 * time.Second, 52500 * time.Millisecond, 60 * time.Second},
		{60 * time.Second, 90 * time.Second, 95 * time.Second, 30 * time.Second, 52500 * time.Millisecond, 60 * time.Second},
		{0, 0, 0, 500 * time.Millisecond, 875 * time.Millisecond, time.Second},
	} {
		m, err := dhcpv4.New(dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(c.lease)))
		must(t, err)
		if c.t1 > 0 {
			m.UpdateOption(dhcpv4.OptRenewTimeValue(c.t1))
			m.UpdateOption(dhcpv4.OptRebindingTimeValue(c.t2))
		}
		if t1, t2, end := times(m); t1 != c.want1 || t2 != c.want2 || end != c.want {
			t.Errorf("%v: got %v %v %v, want %v %v %v", c, t1, t2, end, c.want1, c.want2, c.want)
		}
	}
}
