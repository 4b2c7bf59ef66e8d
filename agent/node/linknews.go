package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
)

const (
	// gatherNews is for how long news of links wait for more of the same: a switch that dies is one event of
	// each node and not one for each pair of nodes.
	gatherNews = 300 * time.Millisecond
	// mostNews are told of one own link within newsWindow. What flaps is held by package member after some four
	// times; this bounds what many peers together can bring about.
	mostNews   = 12
	newsWindow = time.Minute
	// mostNamed peers are named in one event.
	mostNamed = 4
)

// linkNews are what is still to be told of own links.
type linkNews struct {
	waiting []member.LinkEvent
	since   time.Duration
	told    map[string][]time.Duration // own link -> when something was told of it, within newsWindow
}

// tellOfLinks tells of links, several peers in one event and within bounds.
func (b *Brain) tellOfLinks(now time.Duration, events []member.LinkEvent) {
	n := &b.news
	if len(n.waiting) == 0 {
		n.since = now
	}
	if n.waiting = append(n.waiting, events...); len(n.waiting) == 0 || now-n.since < gatherNews {
		return
	}
	waiting := n.waiting
	n.waiting = nil
	for len(waiting) > 0 {
		first := waiting[0]
		same := func(e member.LinkEvent) bool { return e.Link == first.Link && e.Kind == first.Kind }
		var group, rest []member.LinkEvent
		for _, e := range waiting {
			if same(e) {
				group = append(group, e)
			} else {
				rest = append(rest, e)
			}
		}
		waiting = rest
		if text, ok := n.allow(now, first.Link); ok {
			b.tellOfLink(group, text)
		}
	}
}

// allow tells whether something more may be told of an own link, and what to say besides.
func (n *linkNews) allow(now time.Duration, link string) (text string, ok bool) {
	if n.told == nil {
		n.told = map[string][]time.Duration{}
	}
	told := slices.DeleteFunc(n.told[link], func(at time.Duration) bool { return now-at >= newsWindow })
	n.told[link] = told
	switch {
	case len(told) >= mostNews:
		return "", false
	case len(told) == mostNews-1:
		text = fmt.Sprintf("; no more is told of %s for now", link)
	}
	n.told[link] = append(told, now)
	return text, true
}

func (b *Brain) tellOfLink(group []member.LinkEvent, more string) {
	e := group[0]
	subject, text := e.Peer, fmt.Sprintf("%s, seen from %s: %s", e.Peer, b.self.Name, e.Text)
	if len(group) > 1 {
		var names []string
		for _, g := range group[:min(len(group), mostNamed)] {
			names = append(names, g.Peer)
		}
		if n := len(group) - mostNamed; n > 0 {
			names = append(names, fmt.Sprintf("%d more", n))
		}
		// Of several at once it is rather our own port, or a switch.
		subject = b.self.Name
		text = fmt.Sprintf("%s, seen from there, of %d nodes (%s) alike: %s", b.self.Name, len(group), strings.Join(names, ", "), e.Text)
	}
	b.world.Explain(cluster.Event{
		Node: b.self.Name, Time: b.world.Wall(), Kind: cluster.EventLink,
		Subject: subject, Text: text + b.whereabouts(group) + more, Why: "heartbeats on that link",
	})
}
