package hostnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/skein-os/skein/qemu/ethernet"
)

func lans() (lan0, lan1 LAN) {
	return LAN{Switch: ethernet.New(), Addr: netip.MustParsePrefix("10.77.0.254/24"), MAC: ethernet.MAC{2, 0, 0, 0, 0, 254}},
		LAN{Switch: ethernet.New(), Addr: netip.MustParsePrefix("10.77.1.254/24"), MAC: ethernet.MAC{2, 0, 0, 0, 1, 254}}
}

func start(t *testing.T, cfg Config) *Host {
	t.Helper()
	if cfg.Lease == nil {
		cfg.Lease = func(int, ethernet.MAC) (netip.Addr, bool) { return netip.Addr{}, false }
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// on makes a second host on the switches: a machine as good as any, with its own addresses.
func on(t *testing.T, cfg Config, addr string, mac byte) *Host {
	t.Helper()
	var other Config
	for i, l := range cfg.LANs {
		p := netip.MustParsePrefix(addr)
		if len(cfg.LANs) > 1 {
			b := p.Addr().As4()
			b[2] = byte(i)
			p = netip.PrefixFrom(netip.AddrFrom4(b), p.Bits())
		}
		other.LANs = append(other.LANs, LAN{Switch: l.Switch, Addr: p, MAC: ethernet.MAC{2, 0, 0, 0, byte(i), mac}})
	}
	return start(t, other)
}

func serve(t *testing.T, h *Host, lan int, text string) {
	t.Helper()
	l, err := h.Listen(lan, 80)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, text)
			c.Close()
		}
	}()
}

func read(ctx context.Context, h *Host, addr string) (string, error) {
	c, err := h.Dial(ctx, netip.MustParseAddrPort(addr))
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	data, err := io.ReadAll(c)
	return string(data), err
}

func TestDialOnEachLAN(t *testing.T) {
	lan0, lan1 := lans()
	cfg := Config{LANs: []LAN{lan0, lan1}}
	h := start(t, cfg)
	m := on(t, cfg, "10.77.0.1/24", 1)
	serve(t, m, 0, "zero")
	serve(t, m, 1, "one")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for addr, want := range map[string]string{"10.77.0.1:80": "zero", "10.77.1.1:80": "one"} {
		got, err := read(ctx, h, addr)
		if err != nil || got != want {
			t.Fatalf("%s: got %q, %v, want %q", addr, got, err, want)
		}
	}
	if _, err := h.Dial(ctx, netip.MustParseAddrPort("192.0.2.1:80")); err == nil {
		t.Fatal("an address outside the lab: got a connection, want an error")
	}
}

// A floating address is reached by the second LAN when the first is silent.
func TestFloatingAddressFallsBack(t *testing.T) {
	lan0, lan1 := lans()
	floating := []netip.Prefix{netip.MustParsePrefix("10.77.9.0/24")}
	h := start(t, Config{LANs: []LAN{lan0, lan1}, Floating: floating})
	lan1.Addr, lan1.MAC = netip.MustParsePrefix("10.77.9.5/16"), ethernet.MAC{2, 0, 0, 0, 1, 5}
	m := start(t, Config{LANs: []LAN{lan1}})
	serve(t, m, 0, "here")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if got, err := read(ctx, h, "10.77.9.5:80"); err != nil || got != "here" {
		t.Fatalf("got %q, %v, want \"here\" by way of lan1", got, err)
	}
}

func TestGratuitousARPMovesAnAddressAtOnce(t *testing.T) {
	for _, form := range []struct {
		name string
		op   byte
	}{{"request", 1}, {"reply", 2}} {
		t.Run(form.name, func(t *testing.T) {
			lan0, _ := lans()
			cfg := Config{LANs: []LAN{lan0}}
			h := start(t, cfg)
			first := on(t, cfg, "10.77.0.9/24", 1)
			serve(t, first, 0, "first")
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if got, err := read(ctx, h, "10.77.0.9:80"); err != nil || got != "first" {
				t.Fatalf("before: got %q, %v, want \"first\"", got, err)
			}
			first.Port(0).SetFault(ethernet.Out, ethernet.Fault{Drop: true})
			first.Port(0).SetFault(ethernet.In, ethernet.Fault{Drop: true})
			second := on(t, cfg, "10.77.0.9/24", 2)
			serve(t, second, 0, "second")
			mac := ethernet.MAC{2, 0, 0, 0, 0, 2}
			arp := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
			arp = append(arp, mac[:]...)
			arp = append(arp, 8, 6, 0, 1, 8, 0, 6, 4, 0, form.op)
			arp = append(arp, mac[:]...)
			arp = append(arp, 10, 77, 0, 9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 10, 77, 0, 9)
			second.Port(0).Receive(arp)
			got, err := read(ctx, h, "10.77.0.9:80")
			if err != nil || got != "second" {
				t.Fatalf("after: got %q, %v, want \"second\"", got, err)
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	lan0, lan1 := lans()
	known := ethernet.MAC{2, 0, 0, 0, 0, 7}
	h := start(t, Config{LANs: []LAN{lan0, lan1}, Lease: func(lan int, mac ethernet.MAC) (netip.Addr, bool) {
		return netip.AddrFrom4([4]byte{10, 77, byte(lan), 7}), mac == known
	}})
	ask := func(mac ethernet.MAC, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		m, err := dhcpv4.New(append(mods, dhcpv4.WithHwAddr(mac[:]))...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	kind := dhcpv4.WithMessageType
	wish := func(ip string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
	}
	tests := []struct {
		name string
		req  *dhcpv4.DHCPv4
		want dhcpv4.MessageType // MessageTypeNone: no reply
	}{
		{"discover", ask(known, kind(dhcpv4.MessageTypeDiscover)), dhcpv4.MessageTypeOffer},
		{"stranger", ask(ethernet.MAC{2, 9}, kind(dhcpv4.MessageTypeDiscover)), dhcpv4.MessageTypeNone},
		{"request", ask(known, kind(dhcpv4.MessageTypeRequest), wish("10.77.1.7")), dhcpv4.MessageTypeAck},
		{"renewal", ask(known, kind(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(net.IPv4(10, 77, 1, 7))), dhcpv4.MessageTypeAck},
		{"wrong address", ask(known, kind(dhcpv4.MessageTypeRequest), wish("10.77.1.8")), dhcpv4.MessageTypeNak},
		{"no address", ask(known, kind(dhcpv4.MessageTypeRequest)), dhcpv4.MessageTypeNak},
		{"other server", ask(known, kind(dhcpv4.MessageTypeRequest), wish("10.77.1.7"),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 1, 9)))), dhcpv4.MessageTypeNone},
		{"release", ask(known, kind(dhcpv4.MessageTypeRelease)), dhcpv4.MessageTypeNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reply := h.answer(1, tt.req)
			got := dhcpv4.MessageTypeNone
			if reply != nil {
				got = reply.MessageType()
			}
			if got != tt.want {
				t.Fatalf("got %v, want %v", got, tt.want)
			}
			if got == dhcpv4.MessageTypeOffer || got == dhcpv4.MessageTypeAck {
				if reply.YourIPAddr.String() != "10.77.1.7" || reply.SubnetMask().String() != "ffffff00" || reply.IPAddressLeaseTime(0) != leaseTime {
					t.Fatalf("got %v", reply.Summary())
				}
			}
		})
	}
}

func TestRaceReportsEveryFailure(t *testing.T) {
	one, two := errors.New("one"), errors.New("two")
	fail := func(err error) func(context.Context) (net.Conn, error) {
		return func(context.Context) (net.Conn, error) { return nil, err }
	}
	_, err := race(t.Context(), []func(context.Context) (net.Conn, error){fail(one), fail(two)})
	if !errors.Is(err, one) || !errors.Is(err, two) {
		t.Fatalf("got %v, want both failures", err)
	}
}
