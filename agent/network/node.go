package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Bridge carries the node's own address and its containers.
	Bridge = "skein0"
	// Protocol marks the routes that are Skein's: nothing else is ever removed.
	Protocol = 83
)

// Node is the node's own network after its admission.
type Node struct {
	bridge  string
	addr    netip.Addr
	subnet  netip.Prefix
	cluster netip.Prefix
}

// Setup makes the network of node number n: the bridge with the node's address, forwarding, and the
// masquerade of what containers send to the outside. It may be called again at any time and changes only
// what differs.
func Setup(w cluster.Network, n uint8) (*Node, error) {
	node := &Node{bridge: Bridge, addr: w.NodeAddr(n), subnet: w.Subnet(n), cluster: w.Prefix}
	if err := node.setupBridge(); err != nil {
		return nil, err
	}
	if err := setSysctls(nodeSysctls(node.bridge)); err != nil {
		return nil, err
	}
	if err := node.setupMasquerade(); err != nil {
		return nil, err
	}
	return node, nil
}

// Addr is the node's own address.
func (n *Node) Addr() netip.Addr { return n.addr }

// Subnet is what the node's containers get their addresses from.
func (n *Node) Subnet() netip.Prefix { return n.subnet }

func (n *Node) setupBridge() error {
	link, err := netlink.LinkByName(n.bridge)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.bridge
		// A fixed MAC: else the bridge takes the lowest of its ports and changes it when a container
		// comes or goes, and the others' ARP caches are wrong for a while. 02: locally administered.
		a := n.addr.As4()
		attrs.HardwareAddr = net.HardwareAddr{0x02, 0x53, a[0], a[1], a[2], a[3]}
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make bridge %s (is the bridge module loaded?): %w", n.bridge, err)
		}
		if link, err = netlink.LinkByName(n.bridge); err != nil {
			return fmt.Errorf("find bridge %s: %w", n.bridge, err)
		}
	case err != nil:
		return fmt.Errorf("find bridge %s: %w", n.bridge, err)
	case link.Type() != "bridge":
		return fmt.Errorf("link %s is a %s, not a bridge: rename it", n.bridge, link.Type())
	}
	want := netip.PrefixFrom(n.addr, n.subnet.Bits())
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", n.bridge, err)
	}
	found := false
	for _, a := range have {
		pfx, _ := prefixOf(a.IPNet)
		if pfx == want {
			found = true
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove %s from %s: %w", pfx, n.bridge, err)
		}
	}
	if !found {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(want)}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("set %s on %s: %w", want, n.bridge, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring %s up: %w", n.bridge, err)
		}
	}
	return nil
}

type sysctl struct{ key, value string }

// nodeSysctls are the kernel settings that a node relies on.
func nodeSysctls(bridge string) []sysctl {
	return []sysctl{
		{"net/ipv4/ip_forward", "1"},
		// Answers may leave by another port than the question came in: floating addresses and node
		// addresses are reached over both LANs.
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/default/rp_filter", "0"},
		// Ask for a neighbour with the port's own address, never with a floating one: a question also
		// announces its sender.
		{"net/ipv4/conf/all/arp_announce", "2"},
		// Answer for every local address on each port: floating addresses are on the loopback.
		{"net/ipv4/conf/all/arp_ignore", "0"},
		{"net/ipv4/conf/all/arp_filter", "0"},
		// Nobody on the LAN redirects our routes, and we redirect nobody.
		{"net/ipv4/conf/all/accept_redirects", "0"},
		{"net/ipv4/conf/all/send_redirects", "0"},
		{"net/ipv4/conf/" + bridge + "/rp_filter", "0"},
		{"net/ipv4/conf/" + bridge + "/send_redirects", "0"},
		// An IPv6 link-local address that is not needed is not waited for.
		{"net/ipv6/conf/" + bridge + "/accept_dad", "0"},
		// A connection that was moved by a takeover is picked up in the middle and reset by the new
		// owner at once, instead of hanging.
		{"net/netfilter/nf_conntrack_tcp_loose", "1"},
		// Between nodes little is said at a time, votes and heartbeats of the ledger above all. What a link took
		// with it is sent again at even distances, not at doubled ones: it must be there soon after the route
		// has moved to another link.
		{"net/ipv4/tcp_thin_linear_timeouts", "1"},
	}
}

// setSysctls writes what differs. Settings of parts that the kernel does not have are left out: without
// IPv6 there is nothing to switch off.
func setSysctls(list []sysctl) error {
	var errs []error
	for _, s := range list {
		path := filepath.Join("/proc/sys", s.key)
		have, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", s.key, err))
			continue
		}
		if strings.TrimSpace(string(have)) == s.value {
			continue
		}
		if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("set %s to %s: %w", s.key, s.value, err))
		}
	}
	return errors.Join(errs...)
}

// Route is how to reach a peer and its containers.
type Route struct {
	Peer   uint8        // its number, for messages
	Subnet netip.Prefix // its /24
	Via    netip.Addr   // its address on the LAN of Link
	Link   string
}

// minRTO is the shortest time after which TCP between nodes sends again what was not acknowledged, in ms. The
// kernel's 200 ms are for the Internet; a receiver may hold back its acknowledgement for 40 ms.
const minRTO = 100

// SetRoutes makes exactly these routes: a changed one is replaced in one step, so that there is no moment
// without; those of former peers are removed. It returns how many changes it made. A route that cannot be
// set does not stop the others.
func (n *Node) SetRoutes(want []Route) (int, error) {
	have, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	changes := 0
	index := map[string]int{}
	wanted := map[netip.Prefix]bool{}
	for _, r := range want {
		if wanted[r.Subnet] {
			errs = append(errs, fmt.Errorf("two routes wanted to %s", r.Subnet))
			continue
		}
		wanted[r.Subnet] = true
		if _, ok := index[r.Link]; !ok {
			link, err := netlink.LinkByName(r.Link)
			if err != nil {
				errs = append(errs, fmt.Errorf("route to node %d: find link %s: %w", r.Peer, r.Link, err))
				continue
			}
			index[r.Link] = link.Attrs().Index
		}
		if slices.ContainsFunc(have, func(h netlink.Route) bool { return n.same(h, r, index[r.Link]) }) {
			continue
		}
		changes++
		if err := netlink.RouteReplace(n.route(r, index[r.Link])); err != nil {
			errs = append(errs, fmt.Errorf("route to node %d, %s via %s on %s: %w", r.Peer, r.Subnet, r.Via, r.Link, err))
		}
	}
	for _, h := range have {
		// A second route to a wanted subnet (other metric) would shadow ours or linger.
		dst, _ := prefixOf(h.Dst)
		if wanted[dst] && h.Priority == 0 && h.Table == unix.RT_TABLE_MAIN {
			continue
		}
		changes++
		if err := netlink.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove stale route to %s: %w", h.Dst, err))
		}
	}
	return changes, errors.Join(errs...)
}

func (n *Node) route(r Route, index int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: index, Dst: ipNet(r.Subnet), Gw: r.Via.AsSlice(), Src: n.addr.AsSlice(), Protocol: Protocol,
		Table: unix.RT_TABLE_MAIN,
		// The peer is on this wire by what heartbeats say, even while our own address there is missing.
		Flags:  int(netlink.FLAG_ONLINK),
		RtoMin: minRTO, RtoMinLock: true, // without the lock the kernel takes no notice of it
	}
}

func (n *Node) same(h netlink.Route, r Route, index int) bool {
	dst, _ := prefixOf(h.Dst)
	return dst == r.Subnet && h.LinkIndex == index && h.Gw.Equal(r.Via.AsSlice()) && h.Src.Equal(n.addr.AsSlice()) &&
		h.Priority == 0 && h.Table == unix.RT_TABLE_MAIN && h.RtoMin == minRTO && h.RtoMinLock
}
