package balance

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// A node with two containers behind its bridge and a client on its LAN.
func TestApply(t *testing.T) {
	l := newLAN(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "skein0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	must(t, addAddr("skein0", netip.MustParsePrefix("10.80.1.1/24")))
	must(t, netlink.LinkSetUp(bridge))
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))

	var targets []netip.Addr
	conts := map[string]host{}
	for i, name := range []string{"a", "b"} {
		addr := netip.AddrFrom4([4]byte{10, 80, 1, byte(2 + i)})
		cont := newHost(t, "v"+name, "e"+name, netip.PrefixFrom(addr, 24))
		link, err := netlink.LinkByName("v" + name)
		must(t, err)
		must(t, netlink.LinkSetMaster(link, bridge))
		// Where br_netfilter is in the kernel, a translated packet may go back to the port it came from.
		must(t, netlink.LinkSetHairpin(link, true))
		cont.do(t, func() error { return addRoute("e"+name, netip.MustParsePrefix("0.0.0.0/0"), nodeIP) })
		var ln net.Listener
		cont.do(t, func() (err error) { ln, err = net.Listen("tcp4", ":8080"); return err })
		t.Cleanup(func() { _ = ln.Close() })
		go func() { // ends with the listener
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { // says its name and who asks, then a line for each line
					defer func() { _ = c.Close() }()
					from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
					r := bufio.NewReader(c)
					for {
						if _, err := fmt.Fprintf(c, "%s %s\n", name, from); err != nil {
							return
						}
						if _, err := r.ReadString('\n'); err != nil {
							return
						}
					}
				}()
			}
		}()
		targets = append(targets, addr)
		conts[name] = cont
	}
	l.client.do(t, func() error {
		return addRoute("c0", netip.MustParsePrefix("10.80.0.0/16"), netip.MustParseAddr("10.77.0.1"))
	})
	web := Service{Name: "demo/web", Floating: []netip.Addr{vip}, Ports: []Port{{8080, 80, "tcp"}}, Targets: targets}
	admin := Service{Name: "demo/admin", Ports: []Port{{8080, 81, "tcp"}}, Targets: targets[:1]}

	connect := func(from host, to string) (string, net.Conn, *bufio.Reader) {
		var c net.Conn
		dial := func() (err error) {
			c, err = net.DialTimeout("tcp4", to, 500*time.Millisecond)
			return err
		}
		if from.ns == 0 {
			if dial() != nil {
				return "", nil, nil
			}
		} else {
			from.do(t, func() error { _ = dial(); return nil })
		}
		if c == nil {
			return "", nil, nil
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		r := bufio.NewReader(c)
		line, _ := r.ReadString('\n')
		return line, c, r
	}
	vipPort := vip.String() + ":80"

	must(t, l.Apply([]Service{web, admin}))
	if got, _, _ := connect(l.client, vipPort); got != "" {
		t.Errorf("the address answered %q before it was held", got)
	}
	if got, _, _ := connect(conts["b"], vipPort); got != "" {
		t.Errorf("the address answered its neighbour %q before it was held", got)
	}
	must(t, l.Hold([]netip.Addr{vip}, Now()+time.Minute))
	got := map[string]int{}
	for range 60 {
		line, _, _ := connect(l.client, vipPort)
		got[line]++
	}
	// The client's address arrives unchanged, and both instances have work.
	if got["a 10.77.0.254\n"] == 0 || got["b 10.77.0.254\n"] == 0 || len(got) != 2 {
		t.Errorf("got answers %v, want only from a and b, both", got)
	}
	for _, c := range []struct {
		name, to, want string
		from           host
	}{
		{"published on the node", "10.77.0.1:81", "a 10.77.0.254\n", l.client},
		{"on the node's own address", "10.80.1.1:81", "a 10.77.0.254\n", l.client},
		{"from the node itself", "10.77.0.1:81", "a 10.80.1.1\n", host{}},
		{"from a container", "10.80.1.1:81", "a 10.80.1.1\n", conts["b"]},
		{"from the instance itself", "10.80.1.1:81", "a 10.80.1.1\n", conts["a"]},
		{"not published", "10.77.0.1:82", "", l.client},
	} {
		if got, _, _ := connect(c.from, c.to); got != c.want {
			// The source of the node itself may be any of its own addresses.
			if c.from.ns != 0 || len(got) == 0 || got[0] != 'a' {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			}
		}
	}

	// Nothing is changed if nothing differs, and one instance less is one batch.
	gen := generation(t)
	must(t, l.Apply([]Service{admin, web}))
	must(t, l.Hold([]netip.Addr{vip}, l.until))
	must(t, l.SetFloating([]netip.Addr{vip2, vip}))
	must(t, l.SetLinks(l.links, []netip.Addr{netip.MustParseAddr("10.77.0.1")}))
	if now := generation(t); now != gen {
		t.Errorf("the same again changed the kernel's tables: generation %d, want %d", now, gen)
	}
	line, conn, r := "", net.Conn(nil), (*bufio.Reader)(nil)
	for line != "b 10.77.0.254\n" {
		line, conn, r = connect(l.client, vipPort)
	}
	web.Targets = targets[:1]
	must(t, l.Apply([]Service{web, admin}))
	if now := generation(t); now != gen+1 {
		t.Errorf("got generation %d after one change, want %d", now, gen+1)
	}
	await(t, "the end of a connection to an instance that is gone", func() bool {
		_ = conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := conn.Write([]byte("\n")); err != nil {
			return true
		}
		_, err := r.ReadString('\n')
		ne, ok := err.(net.Error)
		return err != nil && !(ok && ne.Timeout())
	})
	for range 20 {
		if line, _, _ := connect(l.client, vipPort); line != "a 10.77.0.254\n" {
			t.Errorf("got %q, want only a", line)
		}
	}
	// An established connection has no way around the guard either.
	_, conn, r = connect(l.client, vipPort)
	must(t, l.renew.renew(Now()-time.Millisecond))
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
	_, _ = conn.Write([]byte("\n"))
	if line, err := r.ReadString('\n'); err == nil {
		t.Errorf("an established connection answered %q after the end of the lease", line)
	}
}

func TestBuildModelRefuses(t *testing.T) {
	ok := Service{Name: "s/ok", Ports: []Port{{80, 80, ""}}, Targets: []netip.Addr{netip.MustParseAddr("10.80.1.2")}}
	for name, change := range map[string]func(*Service){
		"protocol":      func(s *Service) { s.Ports[0].Protocol = "sctp" },
		"port zero":     func(s *Service) { s.Ports[0].Target = 0 },
		"IPv6":          func(s *Service) { s.Floating = []netip.Addr{netip.IPv6Loopback()} },
		"endpoint used": func(s *Service) {},
	} {
		bad := ok
		bad.Name = "s/zz"
		bad.Ports = []Port{{80, 80, "tcp"}}
		change(&bad)
		m, err := buildModel([]Service{bad, ok})
		if err == nil {
			t.Errorf("%s: got nil, want an error", name)
		}
		if len(m.chains) != 1 || len(m.endpoints) != 1 {
			t.Errorf("%s: got %v, want the good service published all the same", name, m.endpoints)
		}
	}
}

// Whatever was published before, by this agent or another, Apply ends with exactly what is wanted.
func TestApplyAlways(t *testing.T) {
	b := open(t)
	gen := rapid.Custom(func(t *rapid.T) []Service {
		var out []Service
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a/x", "a/y", "b/x", "b/y"}), 0, 4, rapid.ID).Draw(t, "names") {
			s := Service{Name: name}
			if rapid.Bool().Draw(t, "floating") {
				s.Floating = []netip.Addr{rapid.SampledFrom([]netip.Addr{vip, vip2}).Draw(t, "address")}
			}
			for _, p := range rapid.SliceOfNDistinct(rapid.Uint16Range(80, 83), 0, 3, rapid.ID).Draw(t, "ports") {
				s.Ports = append(s.Ports, Port{p + 8000, p, rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "protocol")})
			}
			for _, x := range rapid.SliceOfNDistinct(rapid.ByteRange(2, 6), 0, 4, rapid.ID).Draw(t, "targets") {
				s.Targets = append(s.Targets, netip.AddrFrom4([4]byte{10, 80, 1, x}))
			}
			out = append(out, s)
		}
		return out
	})
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 4).Draw(rt, "steps") {
			services := gen.Draw(rt, "services")
			want, invalid := buildModel(services)
			if rapid.Bool().Draw(rt, "restarted") {
				b.mu.Lock()
				b.applied = nil
				b.mu.Unlock()
			}
			if err := b.Apply(services); (err == nil) != (invalid == nil) {
				rt.Fatalf("got %v, want %v", err, invalid)
			}
			c, err := nftables.New()
			if err != nil {
				rt.Fatal(err)
			}
			have, err := b.readModel(c)
			if err != nil {
				rt.Fatal(err)
			}
			if !maps.EqualFunc(have.chains, want.chains, func(a, b []netip.AddrPort) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
				rt.Fatalf("got chains %v, want %v", have.chains, want.chains)
			}
			for e := range want.endpoints {
				if _, ok := have.endpoints[e]; !ok {
					rt.Fatalf("%v is missing", e)
				}
			}
			if len(have.endpoints) != len(want.endpoints) {
				rt.Fatalf("got endpoints %v, want %v", have.endpoints, want.endpoints)
			}
		}
	})
}

// A hundred services, and one change among them.
func BenchmarkApplyOneChange(b *testing.B) {
	bal := open(b)
	var services []Service
	for i := range 100 {
		services = append(services, Service{
			Name: fmt.Sprintf("stack/s%d", i), Floating: []netip.Addr{vip}, Ports: []Port{{80, uint16(1000 + i), "tcp"}},
			Targets: []netip.Addr{netip.MustParseAddr("10.80.1.2"), netip.MustParseAddr("10.80.1.3")},
		})
	}
	must(b, bal.Apply(services))
	for i := 0; b.Loop(); i++ {
		services[50].Targets = []netip.Addr{netip.AddrFrom4([4]byte{10, 80, 1, byte(2 + i%200)})}
		must(b, bal.Apply(services))
	}
}

func TestMatchConntrackFlow(t *testing.T) {
	flow := func(proto uint8, to, from string) *netlink.ConntrackFlow {
		dst, src := netip.MustParseAddrPort(to), netip.MustParseAddrPort(from)
		return &netlink.ConntrackFlow{
			Forward: netlink.IPTuple{DstIP: dst.Addr().AsSlice(), DstPort: dst.Port(), Protocol: proto},
			Reverse: netlink.IPTuple{SrcIP: src.Addr().AsSlice(), SrcPort: src.Port(), Protocol: proto},
		}
	}
	instance := flowFilter{instance: netip.MustParseAddrPort("10.80.1.2:8080"), proto: unix.IPPROTO_TCP}
	for _, c := range []struct {
		name string
		f    flowFilter
		flow *netlink.ConntrackFlow
		want bool
	}{
		{"sent there by us", instance, flow(unix.IPPROTO_TCP, "10.77.9.1:80", "10.80.1.2:8080"), true},
		{"asked directly", instance, flow(unix.IPPROTO_TCP, "10.80.1.2:8080", "10.80.1.2:8080"), false},
		{"another port", instance, flow(unix.IPPROTO_TCP, "10.77.9.1:80", "10.80.1.2:8081"), false},
		{"another protocol", instance, flow(unix.IPPROTO_UDP, "10.77.9.1:80", "10.80.1.2:8080"), false},
		{"to an address", flowFilter{dst: vip}, flow(unix.IPPROTO_TCP, "10.77.9.1:80", "10.80.1.2:8080"), true},
		{"to another", flowFilter{dst: vip2}, flow(unix.IPPROTO_TCP, "10.77.9.1:80", "10.80.1.2:8080"), false},
	} {
		if got := c.f.MatchConntrackFlow(c.flow); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestDraining: an instance that is about to stop gets no new connections and keeps those that it has.
func TestDraining(t *testing.T) {
	a, b := netip.MustParseAddr("10.80.1.2"), netip.MustParseAddr("10.80.2.2")
	port := []Port{{Target: 80, Published: 8080, Protocol: "tcp"}}
	steps := []struct {
		targets, draining []netip.Addr
		forgotten         int
	}{
		{targets: []netip.Addr{a, b}},
		{targets: []netip.Addr{b}, draining: []netip.Addr{a}},
		{targets: []netip.Addr{b}, forgotten: 1},
		{draining: []netip.Addr{b}},
		{forgotten: 1},
	}
	bal := &Balancer{flows: make(chan flowFilter, 10)}
	before := &model{}
	for i, s := range steps {
		now, err := buildModel([]Service{{Name: "demo/web", Ports: port, Targets: s.targets, Draining: s.draining}})
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range now.chains {
			for _, at := range to {
				if slices.Contains(s.draining, at.Addr()) {
					t.Errorf("step %d: %v gets new connections", i, at)
				}
			}
		}
		bal.forgetChanges(before, now)
		if got := len(bal.flows); got != s.forgotten {
			t.Errorf("step %d: connections to %d instances are forgotten, want %d", i, got, s.forgotten)
		}
		for len(bal.flows) > 0 {
			<-bal.flows
		}
		before = now
	}
}
