package cabling

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
)

// Faults finds what is wrong with the cabling of a node, in sentences, as far as it and the other nodes in st tell.
func Faults(own *cluster.NodePorts, st *cluster.State) []string {
	var out []string
	one := oneSwitch(own)
	if one != "" {
		out = append(out, one)
	}
	others := others(own.Node, st)
	for i := range own.Ports {
		p := &own.Ports[i]
		if one == "" {
			if f := wrongSwitch(own.Node, p, others); f != "" {
				out = append(out, f)
			}
		}
		if f := wrongMTU(own.Node, p, others); f != "" {
			out = append(out, f)
		}
	}
	return out
}

// oneSwitch: all ports that are in use are on one switch, so they are not redundant. A port of which nobody knows where
// it is may be on another.
func oneSwitch(own *cluster.NodePorts) string {
	var at []string
	var sw *cluster.Neighbour
	for i := range own.Ports {
		p := &own.Ports[i]
		n := p.Switch()
		switch {
		case n == nil && !p.Carrier && len(p.Neighbours) == 0:
			continue // nothing was ever plugged in
		case n == nil || sw != nil && n.Chassis != sw.Chassis:
			return ""
		}
		sw = n
		at = append(at, p.Name+" at port "+n.Port)
	}
	if len(at) < 2 {
		return ""
	}
	all := "both"
	if len(at) > 2 {
		all = fmt.Sprintf("all %d", len(at))
	}
	return fmt.Sprintf("%s 'redundant' ports of %s are on switch %s (%s): its loss cuts %s off", all, own.Node, sw.Name(), strings.Join(at, ", "), own.Node)
}

// other is a port of another node.
type other struct {
	node string
	port *cluster.EthernetPort
}

func others(self string, st *cluster.State) []other {
	var out []other
	for i := range st.Ports {
		n := st.Node(st.Ports[i].Node)
		if st.Ports[i].Node == self || n == nil || n.State == cluster.NodeLost || n.BootID != st.Ports[i].BootID {
			continue
		}
		for j := range st.Ports[i].Ports {
			out = append(out, other{st.Ports[i].Node, &st.Ports[i].Ports[j]})
		}
	}
	return out
}

// lanOf is the IPv4 network that a port is in, for comparison with others.
func lanOf(p *cluster.EthernetPort) (netip.Prefix, bool) {
	for _, a := range p.Addrs {
		if a.Addr().Is4() {
			return a.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// fewest nodes must agree with each other for one that differs to be the one that is wrong.
const fewest = 2

// wrongSwitch: a port is on a switch on which the other nodes have another network, and its network is on another one.
func wrongSwitch(self string, p *cluster.EthernetPort, others []other) string {
	net, ok := lanOf(p)
	sw := p.Switch()
	if !ok || sw == nil {
		return ""
	}
	var here []string // nodes with other networks on this switch
	there := ""       // a switch on which others have this network
	for _, o := range others {
		on, okay := lanOf(o.port)
		where := o.port.Switch()
		switch {
		case !okay || where == nil:
		case where.Chassis == sw.Chassis && on == net:
			return ""
		case where.Chassis == sw.Chassis && !slices.Contains(here, o.node):
			here = append(here, o.node)
		case where.Chassis != sw.Chassis && on == net:
			there = where.Name()
		}
	}
	if len(here) < fewest || there == "" {
		return ""
	}
	return fmt.Sprintf("%s of %s is in %s and on switch %s port %s, where %s have other networks; theirs in %s are on switch %s: cables may be swapped",
		p.Name, self, net, sw.Name(), sw.Port, strings.Join(here, ", "), net, there)
}

// headerBytes and the check sum are in a switch's figure, and not in the MTU.
const headerBytes = 18

// wrongMTU: the port's MTU is not that of the others in its network, or more than its switch takes.
func wrongMTU(self string, p *cluster.EthernetPort, others []other) string {
	if n := p.Switch(); n != nil && n.MaxFrame > 0 && p.MTU+headerBytes > n.MaxFrame {
		return fmt.Sprintf("%s of %s sends frames of up to %d bytes (MTU %d), and switch %s port %s says that it takes at most %d",
			p.Name, self, p.MTU+headerBytes, p.MTU, n.Name(), n.Port, n.MaxFrame)
	}
	net, ok := lanOf(p)
	if !ok {
		return ""
	}
	at := map[int][]string{} // ports of others by their MTU
	most := 0
	for _, o := range others {
		if on, okay := lanOf(o.port); !okay || on != net {
			continue
		}
		at[o.port.MTU] = append(at[o.port.MTU], o.port.Name+" of "+o.node)
		if n := len(at[o.port.MTU]); most == 0 || n > len(at[most]) || n == len(at[most]) && o.port.MTU == p.MTU {
			most = o.port.MTU
		}
	}
	if most == 0 || most == p.MTU {
		return ""
	}
	names := at[most]
	if len(names) > 3 {
		names = append(slices.Clone(names[:3]), fmt.Sprintf("%d more", len(names)-3))
	}
	where := ""
	if w := p.Where(); w != "" {
		where = ", " + w + ","
	}
	return fmt.Sprintf("%s of %s%s has MTU %d, and %s in the same network %d: large packets between them get lost",
		p.Name, self, where, p.MTU, strings.Join(names, ", "), most)
}
