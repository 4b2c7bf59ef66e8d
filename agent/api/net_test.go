package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

type localNet struct{ NodeNet }

func (l localNet) LocalNet(context.Context) NodeNet { return l.NodeNet }

// TestNet: each node tells of itself; one that does not answer, or is lost, is shown as it told last.
func TestNet(t *testing.T) {
	m := newMemory("n1")
	m.state.Nodes = append(m.state.Nodes, cluster.Node{Name: "n3", Number: 3, BootID: "b3", State: cluster.NodeLost, Reason: "no power"})
	for _, n := range []string{"1", "2", "3"} {
		m.state.Ports = append(m.state.Ports, cluster.NodePorts{Node: "n" + n, BootID: "b" + n, Ports: []cluster.EthernetPort{{Name: "told" + n}}, Faults: []string{"wrong " + n}})
	}
	c, s := serve(t, m, RoleOperator)
	s.HandleNet(localNet{NodeNet{Node: "n1", State: cluster.NodeOnline, Live: true, Ports: []cluster.EthernetPort{{Name: "live1"}}, Links: []NetLink{}}})
	peer := newMemory("n2")
	peer.state.Ports = m.state.Ports
	_, ps := serve(t, peer, RoleNode)
	ps.HandleNet(localNet{NodeNet{Node: "n2", State: cluster.NodeOnline, Live: true, Ports: []cluster.EthernetPort{{Name: "live2"}}, Links: []NetLink{}}})
	asked := 0
	m.peer = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		ps.ServeHTTP(w, r)
	})
	names := func() string {
		t.Helper()
		list, err := c.Net(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, n := range list {
			all = append(all, n.Node+" "+n.Ports[0].Name+" "+strings.Join(n.Faults, ",")+" "+n.Error)
		}
		return strings.Join(all, "; ")
	}
	if got, want := names(), "n1 live1 wrong 1 ; n2 live2 wrong 2 ; n3 told3 wrong 3 it is lost: no power"; got != want || asked != 1 {
		t.Errorf("got  %q, other nodes asked %d times\nwant %q and 1", got, asked, want)
	}
	m.peer = http.NotFoundHandler()
	if got := names(); !strings.Contains(got, "n2 told2 wrong 2 ask node n2: 404") {
		t.Errorf("a node of an older version: got %q, want what it told last", got)
	}
	want := []string{"wrong 1", "wrong 2"}
	if got := s.Status().Warnings; !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) || slices.Contains(got, "wrong 3") {
		t.Errorf("warnings: got %q, want those of nodes that are there, %q", got, want)
	}
}

func TestLinkTrouble(t *testing.T) {
	for want, l := range map[string]NetLink{
		"":                                   {Peer: "n2", Receiving: true, Sending: true, LossPercent: 5},
		"nothing gets through to n2 or back": {Peer: "n2"},
		"n2 does not hear it":                {Peer: "n2", Receiving: true},
		"it does not hear n2":                {Peer: "n2", Sending: true},
		"the link to n2 goes up and down":    {Peer: "n2", Receiving: true, Sending: true, Flapping: true},
		"30% of the heartbeats from or to n2 get lost": {Peer: "n2", Receiving: true, Sending: true, LossPercent: 30},
	} {
		if got := l.Trouble(); got != want {
			t.Errorf("%+v: got %q, want %q", l, got, want)
		}
	}
	if got := (&NetLink{Peer: "n2", Lost: true}).Trouble(); got != "" {
		t.Errorf("of a peer that is lost: got %q, want nothing", got)
	}
}
