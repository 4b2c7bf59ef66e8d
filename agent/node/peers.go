package node

import (
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
)

// lossy is from which loss, in percent, a link is left for one below a quarter of it.
const lossy = member.LossHigh

// setPeers tells member who the others are, if that has changed.
func (b *Brain) setPeers(now time.Duration) {
	if !b.seen {
		return // not admitted yet, as far as we have read: nobody would know us
	}
	var peers []member.Peer
	for i := range b.state.Nodes {
		n := &b.state.Nodes[i]
		if n.Name != b.self.Name {
			peers = append(peers, member.Peer{Name: n.Name, BootID: n.BootID, Voter: n.Voter, Links: matchLinks(b.self.Links, n.Links)})
		}
	}
	if b.peersSet && b.voter == b.self.Voter && reflect.DeepEqual(peers, b.peers) {
		return
	}
	b.peersSet, b.voter, b.peers = true, b.self.Voter, peers
	b.core.SetPeers(now, b.voter, peers)
	b.willAt = now // the old one does not reach them all
}

// matchLinks pairs each of our links with the peer's link on the same subnet, whatever it is called
// there.
func matchLinks(own, theirs []cluster.Link) []member.PeerLink {
	var out []member.PeerLink
	for _, l := range own {
		for _, t := range theirs {
			if l.Addr.IsValid() && l.Addr.Masked() == t.Addr.Masked() && l.Addr != t.Addr {
				out = append(out, member.PeerLink{Link: l.Name, Addr: netip.AddrPortFrom(t.Addr.Addr(), cluster.PortHeartbeat)})
				break
			}
		}
	}
	return out
}

// quietPause is the least time between two calls of World.Quiet for one peer: what was got ready is kept for
// about as long, and a lossy network must not keep the machine busy with starts for nothing.
const quietPause = 10 * time.Second

// noteQuiet tells the world of peers that begin to be silent. If it is all of them, it is us.
func (b *Brain) noteQuiet(now time.Duration) {
	quiet := 0
	for i := range b.view.Peers {
		if b.isQuiet(now, &b.view.Peers[i]) {
			quiet++
		}
	}
	if quiet == 0 || quiet == len(b.view.Peers) && quiet > 1 {
		return
	}
	for i := range b.view.Peers {
		p := &b.view.Peers[i]
		if at, ok := b.quietAt[p.Name]; b.isQuiet(now, p) && (!ok || now-at >= quietPause) {
			b.quietAt[p.Name] = now
			b.world.Quiet(p.Name)
		}
	}
}

func (b *Brain) isQuiet(now time.Duration, p *member.PeerView) bool {
	return p.Alive && p.SilentFor > b.core.Silent()/2 && now >= p.RestartingUntil
}

// route keeps each peer on a link that works in both directions. It stays on one that does.
func (b *Brain) route() {
	var out []Route
	for i := range b.peers {
		p := &b.peers[i]
		n := b.state.Node(p.Name)
		if n == nil || len(p.Links) == 0 {
			continue
		}
		r := Route{Number: n.Number, Name: p.Name}
		link := b.bestLink(p, b.routeTo(p.Name))
		r.Link, r.Via = link.Link, link.Addr.Addr()
		out = append(out, r)
	}
	if slices.Equal(out, b.routes) {
		return
	}
	b.routes = out
	b.world.Routes(slices.Clone(out))
}

func (b *Brain) routeTo(peer string) string {
	for _, r := range b.routes {
		if r.Name == peer {
			return r.Link
		}
	}
	return ""
}

func (b *Brain) bestLink(p *member.Peer, current string) member.PeerLink {
	quality := func(l member.PeerLink) int { // higher is better
		for i := range b.view.Peers {
			if b.view.Peers[i].Name != p.Name {
				continue
			}
			for _, v := range b.view.Peers[i].Links {
				switch {
				case v.Link != l.Link:
				case !v.Receiving || !v.Sending:
					return 0
				case v.LossPercent >= lossy, v.Flapping:
					return 1
				case v.LossPercent >= lossy/4:
					return 2
				default:
					return 3
				}
			}
		}
		return 0
	}
	best, bestQ := p.Links[0], -1
	for _, l := range p.Links {
		q := quality(l)
		if q == 2 && l.Link == current {
			q = 3 // a little loss is no reason to leave, but one not to come
		}
		if q > bestQ || q == bestQ && l.Link == current {
			best, bestQ = l, q
		}
	}
	return best
}
