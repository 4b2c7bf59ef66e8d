package main

import (
	"bytes"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

func testNet() []api.NodeNet {
	sw := []cluster.Neighbour{{Chassis: "c", System: "sw-a", Port: "swp1", Bridge: true, Heard: true}}
	lost := []cluster.Neighbour{{Chassis: "c", System: "sw-a", Port: "swp2", Bridge: true}}
	return []api.NodeNet{
		{Node: "n1", State: cluster.NodeOnline, Live: true, Faults: []string{"both ports are wrong"},
			Ports: []cluster.EthernetPort{{Name: "eth0", Carrier: true, MTU: 1500, Speed: 10000, Neighbours: sw}, {Name: "eth1", Master: "bond0", Carrier: true, MTU: 1500, Speed: 100}},
			Links: []api.NetLink{{Link: "bond0", Peer: "n2", Receiving: true, LossPercent: 0}, {Link: "bond0", Peer: "n3", Lost: true},
				{Link: "eth0", Peer: "n2"}, {Link: "eth0", Peer: "n4", Receiving: true, Sending: true}}},
		{Node: "n3", State: cluster.NodeLost, Error: "it is lost: no power", Ports: []cluster.EthernetPort{{Name: "eth0", MTU: 9000, Neighbours: lost}}},
	}
}

func TestNetLs(t *testing.T) {
	var out bytes.Buffer
	tab := &table{w: tabwriter.NewWriter(&out, 0, 4, 2, ' ', 0)}
	drawPorts(tab, testNet())
	tab.w.Flush()
	want := `NODE  PORT          CARRIER  SPEED       MTU   ADDRESS  SWITCH  AT      PEERS
n1    eth0          up       10 Gbit/s   1500  -        sw-a    swp1    1 of 2
n1    eth1 (bond0)  up       100 Mbit/s  1500  -        -       -       0 of 1
n3    eth0          down     -           9000  -        (sw-a)  (swp2)  ?
  note: both ports are wrong
  note: n3: as it told last: it is lost: no power
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestPortTrouble(t *testing.T) {
	n := testNet()[0]
	if got, want := portTrouble(&n, &n.Ports[0]), "nothing gets through to n2"; got != want {
		t.Errorf("eth0: got %q, want %q", got, want)
	}
	if got, want := portTrouble(&n, &n.Ports[1]), "n2 does not hear it"; got != want {
		t.Errorf("eth1: got %q, want %q", got, want)
	}
	if nodes := mapNodes(testNet()); nodes[1].Note != "it is lost" || !strings.Contains(nodes[0].Faults[0], "wrong") {
		t.Errorf("got %+v", nodes)
	}
}
