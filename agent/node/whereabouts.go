package node

import (
	"strings"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
)

// whereabouts is a clause that says which ports of which switches are concerned by news of a link, as far as the nodes
// have told: who walks to the rack should know where to look. Good news need none.
func (b *Brain) whereabouts(group []member.LinkEvent) string {
	if b.state == nil || group[0].Kind == member.LinkBack {
		return ""
	}
	list := places(b.self.Name, b.state.PortsOf(b.self.Name), group[0].Link)
	if len(group) == 1 { // of several peers it is rather the own end
		peer := group[0].Peer
		list = append(list, places(peer, b.state.PortsOf(peer), b.linkOf(peer, group[0].Link))...)
	}
	if len(list) == 0 {
		return ""
	}
	return " (" + strings.Join(list, "; ") + ")"
}

// linkOf is what a peer calls its end of one of our links, empty if it has none.
func (b *Brain) linkOf(peer, own string) string {
	n := b.state.Node(peer)
	if n == nil {
		return ""
	}
	for _, l := range b.self.Links {
		for _, t := range n.Links {
			if l.Name == own && l.Addr.IsValid() && l.Addr.Masked() == t.Addr.Masked() {
				return t.Name
			}
		}
	}
	return ""
}

// places says where the ports of a link are, and which of them have no carrier.
func places(node string, ports *cluster.NodePorts, link string) []string {
	var out []string
	for _, p := range ports.On(link) {
		switch where := p.Where(); {
		case !p.Carrier && where != "":
			out = append(out, p.Name+" of "+node+" has no carrier, "+where)
		case !p.Carrier:
			out = append(out, p.Name+" of "+node+" has no carrier")
		case where != "":
			out = append(out, p.Name+" of "+node+" is "+where)
		}
	}
	return out
}
