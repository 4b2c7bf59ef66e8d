package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pathmtu"
)

// keepPathMTU probes how large packets to the other nodes may be. What it finds is a fault of the cabling.
func (p *parts) keepPathMTU(ctx context.Context) {
	prober := pathmtu.Open(pathmtu.Config{
		Log: p.a.log.With("part", "pathmtu"), Key: p.m.HeartbeatKey, Port: cluster.PortPathMTU,
		Paths: p.paths, OnChange: func() { wake(p.a.ports.changed) },
	})
	p.a.ports.prober.Store(prober)
	<-ctx.Done()
	prober.Close()
}

// paths are the ways to the other nodes, over each link whose MTU is known.
func (p *parts) paths() []pathmtu.Path {
	st := p.state.Load()
	own := &cluster.NodePorts{Ports: p.a.ports.list()}
	var out []pathmtu.Path
	for _, l := range p.a.links.List() {
		mtu := 0
		for _, port := range own.On(l.Name) {
			if mtu == 0 || port.MTU < mtu {
				mtu = port.MTU
			}
		}
		if mtu == 0 {
			continue
		}
		for i := range st.Nodes {
			n := &st.Nodes[i]
			if n.Name == p.a.id.Name || n.State == cluster.NodeLost {
				continue
			}
			if theirs := sameSubnet(n.Links, l.Addr); theirs != nil {
				out = append(out, pathmtu.Path{Link: l.Name, MTU: mtu, Peer: n.Name, Addr: theirs.Addr.Addr()})
			}
		}
	}
	return out
}

// mostPeersNamed in one fault.
const mostPeersNamed = 4

// pathFaults are sentences about paths on which less arrives than the MTU promises, one for each link and limit.
func pathFaults(self string, limits []pathmtu.Limit, own *cluster.NodePorts, st *cluster.State) []string {
	type group struct {
		link    string
		mtu     int
		largest int
	}
	of := map[group][]string{}
	var order []group
	for _, l := range limits {
		g := group{l.Link, l.MTU, l.Largest}
		if of[g] == nil {
			order = append(order, g)
		}
		to := l.Peer
		if n := st.Node(l.Peer); n != nil {
			for _, t := range n.Links {
				if t.Addr.Addr() != l.Addr {
					continue
				}
				to = t.Name + " of " + l.Peer
				for _, port := range st.PortsOf(l.Peer).On(t.Name) {
					to += fmt.Sprintf(" (MTU %d%s)", port.MTU, where(port))
				}
			}
		}
		of[g] = append(of[g], to)
	}
	var out []string
	for _, g := range order {
		from := g.link + " of " + self
		at := ""
		for _, port := range own.On(g.link) {
			at += where(port)
		}
		peers := of[g]
		if n := len(peers) - mostPeersNamed; n > 0 {
			peers = append(slices.Clone(peers[:mostPeersNamed]), fmt.Sprintf("%d more", n))
		}
		out = append(out, fmt.Sprintf("packets of more than %d bytes from %s (MTU %d%s) do not arrive at %s: what is between takes no more",
			g.largest, from, g.mtu, at, strings.Join(peers, ", ")))
	}
	return out
}

// where is a clause about a port's place, to be added to others.
func where(p *cluster.EthernetPort) string {
	if w := p.Where(); w != "" {
		return ", " + w
	}
	return ""
}
