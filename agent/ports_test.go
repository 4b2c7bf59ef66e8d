package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cabling"
	"github.com/skein-os/skein/agent/cluster"
)

// TestFaultsSettle: what is wrong for a moment only is not told, and what was told by the agent before stays told.
func TestFaultsSettle(t *testing.T) {
	k := portsKeeper{since: map[string]time.Time{}, told: map[string][]time.Time{}}
	start := time.Now()
	if got, pending := k.settled([]string{"a"}, nil, start); len(got) != 0 || !pending {
		t.Errorf("at once: got %v %v, want it to wait", got, pending)
	}
	if got, pending := k.settled(nil, nil, start.Add(faultSettle/2)); len(got) != 0 || pending {
		t.Errorf("gone: got %v %v, want nothing", got, pending)
	}
	if got, _ := k.settled([]string{"a"}, nil, start.Add(faultSettle)); len(got) != 0 {
		t.Errorf("there again: got %v, want it to wait anew", got)
	}
	if got, pending := k.settled([]string{"a"}, nil, start.Add(2*faultSettle)); len(got) != 1 || pending {
		t.Errorf("still there: got %v %v, want it told", got, pending)
	}
	restarted := portsKeeper{since: map[string]time.Time{}}
	if got, pending := restarted.settled([]string{"a"}, &cluster.NodePorts{Faults: []string{"a"}}, start); len(got) != 1 || pending {
		t.Errorf("after a restart: got %v %v, want it to stay", got, pending)
	}
}

// TestPortNewsAreBounded: a loose cable is told of a few times, and others are told of all the same.
func TestPortNewsAreBounded(t *testing.T) {
	k := portsKeeper{since: map[string]time.Time{}, told: map[string][]time.Time{}}
	at := time.Now()
	var told []cabling.Piece
	tell := func(port string) {
		for _, n := range k.allow([]cabling.Piece{{Port: port, Text: "down"}}, at) {
			k.told[n.Port] = append(k.told[n.Port], at)
			told = append(told, n)
		}
		at = at.Add(time.Second)
	}
	for range 30 {
		tell("eth0")
	}
	if len(told) != mostPortNews || !strings.Contains(told[mostPortNews-1].Text, "no more is told of eth0 for now") {
		t.Errorf("got %d events, %+v, want %d and that it was the last", len(told), told, mostPortNews)
	}
	told = nil
	if tell("eth1"); len(told) != 1 {
		t.Errorf("got %d events of another port, want 1", len(told))
	}
	at = at.Add(portNewsWindow)
	if tell("eth0"); len(told) != 2 {
		t.Errorf("got %d events after a while, want one more", len(told))
	}
}
