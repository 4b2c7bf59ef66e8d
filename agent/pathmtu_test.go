package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pathmtu"
)

// TestPathFaults: a limit names both ports and the figure, and many peers behind one limit are one sentence.
func TestPathFaults(t *testing.T) {
	ports := func(node string) cluster.NodePorts {
		return cluster.NodePorts{Node: node, BootID: "b", Ports: []cluster.EthernetPort{{Name: "eth0", MTU: 9000,
			Neighbours: []cluster.Neighbour{{Chassis: "c", System: "sw-a", Port: "swp" + node[1:], Bridge: true, Heard: true}}}}}
	}
	st := &cluster.State{}
	var limits []pathmtu.Limit
	for n := 1; n <= 7; n++ {
		name, addr := fmt.Sprintf("n%d", n), netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
		st.Nodes = append(st.Nodes, cluster.Node{Name: name, BootID: "b", Links: []cluster.Link{{Name: "eth0", Addr: netip.PrefixFrom(addr, 24)}}})
		st.Ports = append(st.Ports, ports(name))
		if n > 1 {
			limits = append(limits, pathmtu.Limit{Path: pathmtu.Path{Link: "eth0", MTU: 9000, Peer: name, Addr: addr}, Largest: 1500})
		}
	}
	limits[0].Largest = 1400
	want := []string{
		"packets of more than 1400 bytes from eth0 of n1 (MTU 9000, on switch sw-a port swp1) do not arrive at eth0 of n2 (MTU 9000, on switch sw-a port swp2): what is between takes no more",
		"packets of more than 1500 bytes from eth0 of n1 (MTU 9000, on switch sw-a port swp1) do not arrive at eth0 of n3 (MTU 9000, on switch sw-a port swp3), " +
			"eth0 of n4 (MTU 9000, on switch sw-a port swp4), eth0 of n5 (MTU 9000, on switch sw-a port swp5), eth0 of n6 (MTU 9000, on switch sw-a port swp6), 1 more: what is between takes no more",
	}
	if got := pathFaults("n1", limits, &st.Ports[0], st); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := pathFaults("n1", nil, &st.Ports[0], st); len(got) != 0 {
		t.Errorf("without limits: got %q", got)
	}
}
