package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/member"
)

func TestNewsOfLinks(t *testing.T) {
	s, _ := newStage(t, 3)
	s.events = nil
	bad := func(peer, link string) member.LinkEvent {
		return member.LinkEvent{Peer: peer, Link: link, Kind: member.LinkSilent, Text: link + ": nothing gets through to " + peer + " or back"}
	}
	tell := func(events ...member.LinkEvent) {
		s.brain.tellOfLinks(s.now, events)
		s.now += gatherNews
		s.brain.tellOfLinks(s.now, nil)
	}
	tell(bad("n2", "eth0"))
	if len(s.events) != 1 || s.events[0].Subject != "n2" || !strings.Contains(s.events[0].Text, "n2, seen from n1: eth0: nothing") {
		t.Fatalf("got %+v, want one event of n2", s.events)
	}
	// A switch that dies, seen from one node of 64.
	s.events = nil
	var all []member.LinkEvent
	for i := range 63 {
		all = append(all, bad(fmt.Sprintf("n%d", i+2), "eth1"))
	}
	s.brain.tellOfLinks(s.now, all[:20]) // not all at the same moment
	s.now += gatherNews / 2
	s.brain.tellOfLinks(s.now, all[20:])
	s.now += gatherNews / 2
	s.brain.tellOfLinks(s.now, nil)
	if len(s.events) != 1 || s.events[0].Subject != "n1" || !strings.Contains(s.events[0].Text, "of 63 nodes (n2, n3, n4, n5, 59 more) alike: eth1: nothing") {
		t.Fatalf("got %d events, the first %+v, want one of n1's own port", len(s.events), s.events[0])
	}
	// However much happens on it, it has an end, and says so; other ports are told of.
	s.events = nil
	for i := range 50 {
		tell(bad(fmt.Sprintf("n%d", i+2), "eth0"))
	}
	if n := len(s.events); n != mostNews-1 || !strings.Contains(s.events[n-1].Text, "no more is told of eth0 for now") {
		t.Errorf("got %d events, the last %q, want %d and that it was the last", n, s.events[n-1].Text, mostNews-1)
	}
	s.events = nil
	if tell(bad("n2", "eth1")); len(s.events) != 1 {
		t.Errorf("got %d events of another port, want 1", len(s.events))
	}
	s.now += newsWindow
	if tell(bad("n2", "eth0")); len(s.events) != 2 {
		t.Errorf("got %d events after a minute, want one more", len(s.events))
	}
}

// TestRoutesAvoidFlapping: a link that flaps is left for one that does not, and not come back to while it is up.
func TestRoutesAvoidFlapping(t *testing.T) {
	s, _ := newStage(t, 2)
	cut := &flappingLink{stage: s, link: "eth0", period: time.Second}
	s.brain.world = cut
	for range 2400 { // a minute
		s.now += 25 * time.Millisecond
		s.brain.Tick()
		for _, g := range s.peers["n2"].Tick(s.now) {
			if g.To.Addr().As4()[3] == 1 && cut.up(g.Link) {
				_ = s.brain.Datagram(g.Link, g.Payload)
			}
		}
	}
	if l := s.brain.View().Peers[0].Links[0]; !l.Flapping {
		t.Fatalf("eth0 is not held: %+v", l)
	}
	if s.routes[0].Link != "eth1" {
		t.Errorf("got %+v, want the link that is steady", s.routes)
	}
	if got := s.told("goes up and down"); got != 1 || len(s.events) > 12 {
		t.Errorf("got %d events that it flaps, and %d in all, want 1 and few", got, len(s.events))
	}
}

type flappingLink struct {
	*stage
	link   string
	period time.Duration
}

func (f *flappingLink) up(link string) bool {
	return link != f.link || f.now%f.period < f.period/2
}

func (f *flappingLink) Send(d member.Datagram) {
	if f.up(d.Link) {
		f.stage.Send(d)
	}
}
