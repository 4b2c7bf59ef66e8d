package node

import (
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
)

// TestNewsOfLinksSayWhere: news of a link name the ports of the switches at both ends, if the nodes have told them.
func TestNewsOfLinksSayWhere(t *testing.T) {
	s, st := newStage(t, 3)
	on := func(node, port, at string, carrier bool) cluster.NodePorts {
		return cluster.NodePorts{Node: node, BootID: st.Node(node).BootID, Ports: []cluster.EthernetPort{{Name: port, Carrier: carrier,
			Neighbours: []cluster.Neighbour{{Chassis: "c", System: "sw-a", Port: at, Bridge: true, Heard: carrier}}}}}
	}
	next := *st
	next.Revision++
	next.Ports = []cluster.NodePorts{on("n1", "eth0", "swp1", true), on("n2", "eth0", "swp2", false)}
	s.brain.Ledger(&next, false)
	tell := func(kind member.LinkKind, peers ...string) string {
		s.events = nil
		var list []member.LinkEvent
		for _, p := range peers {
			list = append(list, member.LinkEvent{Peer: p, Link: "eth0", Kind: kind, Text: "eth0: it happened"})
		}
		s.brain.tellOfLinks(s.now, list)
		s.now += gatherNews
		s.brain.tellOfLinks(s.now, nil)
		if len(s.events) != 1 {
			t.Fatalf("got %+v, want one event", s.events)
		}
		return s.events[0].Text
	}
	if got, want := tell(member.LinkSilent, "n2"), "eth0: it happened (eth0 of n1 is on switch sw-a port swp1; eth0 of n2 has no carrier, on switch sw-a port swp2 when last heard)"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want it to end in %q", got, want)
	}
	if got, want := tell(member.LinkSilent, "n3"), "it happened (eth0 of n1 is on switch sw-a port swp1)"; !strings.HasSuffix(got, want) {
		t.Errorf("of a peer that tells nothing: got %q, want it to end in %q", got, want)
	}
	if got, want := tell(member.LinkLossy, "n2", "n3"), "it happened (eth0 of n1 is on switch sw-a port swp1)"; !strings.HasSuffix(got, want) {
		t.Errorf("of several: got %q, want it to end in %q", got, want)
	}
	if got := tell(member.LinkBack, "n2"); strings.Contains(got, "switch") {
		t.Errorf("good news: got %q, want it short", got)
	}
}
