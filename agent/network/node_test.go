package network

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"
)

func setup(t *testing.T) *Node {
	t.Helper()
	needNamespace(t)
	n, err := Setup(cluster.DefaultNetwork, 1)
	must(t, err)
	t.Cleanup(func() {
		_, _ = n.SetRoutes(nil)
		_ = netlink.LinkDel(mustLink(t, Bridge))
		c, err := nftables.New()
		must(t, err)
		c.DelTable(&nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4})
		must(t, c.Flush())
	})
	return n
}

func TestSetup(t *testing.T) {
	n := setup(t)
	index := mustLink(t, Bridge).Attrs().Index
	// A wrong address is corrected, nothing else is touched by doing it again.
	wrong := &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.80.9.1/24"))}
	must(t, netlink.AddrAdd(mustLink(t, Bridge), wrong))
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0o644))
	if _, err := Setup(cluster.DefaultNetwork, 1); err != nil {
		t.Fatal(err)
	}
	l := mustLink(t, Bridge)
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	must(t, err)
	if len(addrs) != 1 || addrs[0].IPNet.String() != "10.80.1.1/24" || l.Attrs().Index != index {
		t.Errorf("got %v on bridge %d, want 10.80.1.1/24 on %d", addrs, l.Attrs().Index, index)
	}
	if b, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); strings.TrimSpace(string(b)) != "1" {
		t.Errorf("ip_forward is %q, want 1", b)
	}
	if n.Addr().String() != "10.80.1.1" || n.Subnet().String() != "10.80.1.0/24" {
		t.Errorf("got %s in %s", n.Addr(), n.Subnet())
	}
}

// From any routes to the wanted ones, in one pass, and other people's routes are left alone.
func TestSetRoutesAlways(t *testing.T) {
	n := setup(t)
	lans := []string{"t0", "t1"}
	for i, name := range lans {
		newHost(t, name, "p"+name, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i), 254}), 24))
		must(t, addAddr(name, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i), 1}), 24)))
	}
	foreign := &netlink.Route{LinkIndex: mustLink(t, "t0").Attrs().Index, Dst: ipNet(netip.MustParsePrefix("10.80.200.0/24")), Protocol: 4}
	must(t, netlink.RouteAdd(foreign))
	gen := rapid.Custom(func(t *rapid.T) []Route {
		var out []Route
		for _, p := range rapid.SliceOfNDistinct(rapid.ByteRange(2, 8), 0, 5, rapid.ID).Draw(t, "peers") {
			lan := rapid.IntRange(0, 1).Draw(t, "lan")
			out = append(out, Route{
				Peer: p, Subnet: cluster.DefaultNetwork.Subnet(p), Link: lans[lan],
				Via: netip.AddrFrom4([4]byte{10, 77, byte(lan), rapid.ByteRange(2, 8).Draw(t, "via")}),
			})
		}
		return out
	})
	rapid.Check(t, func(rt *rapid.T) {
		if _, err := n.SetRoutes(gen.Draw(rt, "before")); err != nil {
			rt.Fatal(err)
		}
		if rapid.Bool().Draw(rt, "twin") { // with another metric, as somebody may leave it
			twin := n.route(Route{Subnet: cluster.DefaultNetwork.Subnet(2), Via: netip.MustParseAddr("10.77.0.9")}, mustLink(t, "t0").Attrs().Index)
			twin.Priority = 7
			if err := netlink.RouteReplace(twin); err != nil {
				rt.Fatal(err)
			}
		}
		want := gen.Draw(rt, "want")
		if _, err := n.SetRoutes(want); err != nil {
			rt.Fatal(err)
		}
		if again, err := n.SetRoutes(want); err != nil || again != 0 {
			rt.Fatalf("the second pass made %d changes (%v), want none", again, err)
		}
		list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			rt.Fatal(err)
		}
		got, wanted := map[string]int{}, map[string]int{}
		for _, r := range list {
			got[fmt.Sprintf("%s via %s dev %d src %s", r.Dst, r.Gw, r.LinkIndex, r.Src)]++
		}
		for _, r := range want {
			wanted[fmt.Sprintf("%s via %s dev %d src %s", r.Subnet, r.Via, mustLink(t, r.Link).Attrs().Index, n.addr)]++
		}
		if !maps.Equal(got, wanted) {
			rt.Fatalf("got %v, want %v", got, wanted)
		}
	})
	_, err := n.SetRoutes(nil)
	must(t, err)
	// One that cannot be set does not stop the other.
	changes, err := n.SetRoutes([]Route{
		{Peer: 2, Subnet: cluster.DefaultNetwork.Subnet(2), Via: netip.MustParseAddr("10.77.0.2"), Link: "nosuch0"},
		{Peer: 3, Subnet: cluster.DefaultNetwork.Subnet(3), Via: netip.MustParseAddr("10.77.0.3"), Link: "t0"},
	})
	if err == nil || !strings.Contains(err.Error(), "node 2") {
		t.Errorf("got %v, want an error that names node 2", err)
	}
	list, _ := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
	if len(list) != 1 || list[0].Dst.String() != "10.80.3.0/24" {
		t.Errorf("got %v after %d changes, want the route to node 3", list, changes)
	}
	if routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: 4}, netlink.RT_FILTER_PROTOCOL); err != nil || len(routes) != 1 {
		t.Errorf("got %v, %v, want the foreign route untouched", routes, err)
	}
}

func TestMasquerade(t *testing.T) {
	setup(t)
	outside := newHost(t, "t0", "p0", netip.MustParsePrefix("10.77.0.254/24"))
	must(t, addAddr("t0", netip.MustParsePrefix("10.77.0.1/24")))
	cont := newHost(t, "v0", "e0", netip.MustParsePrefix("10.80.1.2/24"))
	must(t, netlink.LinkSetMaster(mustLink(t, "v0"), mustLink(t, Bridge)))
	cont.do(t, func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: net.IPv4(10, 80, 1, 1)})
	})
	outside.do(t, func() error { return addAddr("p0", netip.MustParsePrefix("10.80.7.1/24")) })
	outside.do(t, func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.80.1.0/24")), Gw: net.IPv4(10, 77, 0, 1)})
	})
	must(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.80.7.0/24")), Gw: net.IPv4(10, 77, 0, 254)}))
	var pc net.PacketConn
	outside.do(t, func() (err error) { pc, err = net.ListenPacket("udp4", ":9"); return err })
	defer func() { _ = pc.Close() }()
	for _, c := range []struct{ to, want string }{
		{"10.77.0.254:9", "10.77.0.1"}, // outside: the port's address
		{"10.80.7.1:9", "10.80.1.2"},   // inside the cluster: its own
	} {
		cont.do(t, func() error {
			s, err := net.Dial("udp4", c.to)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			_, err = s.Write([]byte("x"))
			return err
		})
		_ = pc.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, from, err := pc.ReadFrom(make([]byte, 8))
		must(t, err)
		if got := from.(*net.UDPAddr).IP.String(); got != c.want {
			t.Errorf("to %s: came from %s, want %s", c.to, got, c.want)
		}
	}
}

func TestHeartbeats(t *testing.T) {
	needNamespace(t)
	type got struct {
		link, from, payload string
	}
	var mu sync.Mutex
	var near, far []got
	into := func(list *[]got) func(string, netip.AddrPort, []byte) {
		return func(link string, from netip.AddrPort, payload []byte) {
			mu.Lock()
			defer mu.Unlock()
			*list = append(*list, got{link, from.String(), string(payload)})
		}
	}
	has := func(list *[]got, want got) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return slices.Contains(*list, want) }
	}
	// Two wires between the same two machines.
	other := newHost(t, "t0", "p0", netip.MustParsePrefix("10.77.0.2/24"))
	must(t, addAddr("t0", netip.MustParsePrefix("10.77.0.1/24")))
	second := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "t1"}, PeerName: "p1"}
	must(t, netlink.LinkAdd(second))
	t.Cleanup(func() { _ = netlink.LinkDel(second) })
	must(t, netlink.LinkSetNsFd(mustLink(t, "p1"), int(other.ns)))
	must(t, netlink.LinkSetUp(second))
	must(t, addAddr("t1", netip.MustParsePrefix("10.77.1.1/24")))
	log := slog.New(slog.DiscardHandler)
	var theirs *Heartbeats
	other.do(t, func() (err error) {
		if err = setLink("p1", true); err != nil {
			return err
		}
		if err = addAddr("p1", netip.MustParsePrefix("10.77.1.2/24")); err != nil {
			return err
		}
		theirs, err = OpenHeartbeats(log, []string{"p0", "p1"}, cluster.PortHeartbeat, into(&far))
		return err
	})
	defer theirs.Close()
	ours, err := OpenHeartbeats(log, []string{"t0"}, cluster.PortHeartbeat, into(&near))
	must(t, err)
	defer ours.Close()

	must(t, ours.Broadcast("t0", []byte("hello")))
	await(t, "the broadcast", has(&far, got{"p0", "10.77.0.1:7700", "hello"}))
	must(t, theirs.Send("p0", netip.MustParseAddrPort("10.77.0.1:7700"), []byte("back")))
	await(t, "the answer", has(&near, got{"t0", "10.77.0.2:7700", "back"}))
	if err := ours.Broadcast("t1", []byte("x")); err == nil {
		t.Error("got nil, want an error on a link without a socket")
	}
	must(t, ours.SetLinks([]string{"t0", "t1"}))
	must(t, ours.Broadcast("t1", []byte("two")))
	await(t, "the broadcast on the second link", has(&far, got{"p1", "10.77.1.1:7700", "two"}))
	must(t, ours.SetLinks([]string{"t1"}))
	must(t, theirs.Send("p1", netip.MustParseAddrPort("10.77.1.1:7700"), []byte("still")))
	await(t, "a datagram on the link that stayed", has(&near, got{"t1", "10.77.1.2:7700", "still"}))
	// Too long, and empty.
	must(t, theirs.Send("p1", netip.MustParseAddrPort("10.77.1.1:7700"), make([]byte, MaxDatagram+1)))
	must(t, theirs.Send("p1", netip.MustParseAddrPort("10.77.1.1:7700"), nil))
	await(t, "an empty datagram", has(&near, got{"t1", "10.77.1.2:7700", ""}))
	mu.Lock()
	defer mu.Unlock()
	if len(near) != 5 { // two of them are its own broadcasts
		t.Errorf("got %q, want 5 datagrams: the long one is dropped", near)
	}
}

func TestRealTime(t *testing.T) {
	done := make(chan error)
	go func() {
		undo, err := Urgent()
		undo()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Log("refused here:", err) // needs a privilege that tests may not have
	}
}
