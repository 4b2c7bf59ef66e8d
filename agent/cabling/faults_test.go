package cabling

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

// port makes a port: name, address, switch and its port, empty if none was heard.
func port(name, addr, sw, at string) cluster.EthernetPort {
	p := cluster.EthernetPort{Name: name, MAC: "52:54:00:00:00:01", MTU: 1500, Carrier: true, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}
	if sw != "" {
		p.Neighbours = []cluster.Neighbour{{Chassis: "chassis of " + sw, System: sw, Port: at, Bridge: true, Heard: true}}
	}
	return p
}

// three nodes as they should be: eth0 on sw-a, eth1 on sw-b.
func three() *cluster.State {
	st := &cluster.State{}
	for i, n := range []string{"n1", "n2", "n3"} {
		k := string(rune('1' + i))
		st.Nodes = append(st.Nodes, cluster.Node{Name: n, BootID: "boot", State: cluster.NodeOnline})
		st.Ports = append(st.Ports, cluster.NodePorts{Node: n, BootID: "boot", Ports: []cluster.EthernetPort{
			port("eth0", "10.77.0."+k+"/24", "sw-a", "swp"+k), port("eth1", "10.77.1."+k+"/24", "sw-b", "swp"+k)}})
	}
	return st
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name   string
		change func(st *cluster.State, own []cluster.EthernetPort)
		want   []string
	}{
		{"in order", func(*cluster.State, []cluster.EthernetPort) {}, nil},
		{"both on one switch", func(_ *cluster.State, own []cluster.EthernetPort) {
			own[1] = port("eth1", "10.77.1.3/24", "sw-a", "swp4")
		},
			[]string{"both 'redundant' ports of n3 are on switch sw-a (eth0 at port swp3, eth1 at port swp4): its loss cuts n3 off"}},
		{"and it stays so when one cable is pulled", func(_ *cluster.State, own []cluster.EthernetPort) {
			own[1] = port("eth1", "10.77.1.3/24", "sw-a", "swp4")
			own[1].Carrier, own[1].Neighbours[0].Heard = false, false
		}, []string{"both 'redundant' ports of n3 are on switch sw-a (eth0 at port swp3, eth1 at port swp4): its loss cuts n3 off"}},
		{"one port is not known", func(_ *cluster.State, own []cluster.EthernetPort) { own[1] = port("eth1", "10.77.1.3/24", "", "") }, nil},
		{"one port never had a cable", func(_ *cluster.State, own []cluster.EthernetPort) {
			own[1] = cluster.EthernetPort{Name: "eth1", MTU: 1500}
		}, nil},
		{"two switches are heard on a port", func(_ *cluster.State, own []cluster.EthernetPort) {
			own[1].Neighbours = append(own[1].Neighbours, own[0].Neighbours...)
		}, nil},
		{"swapped", func(_ *cluster.State, own []cluster.EthernetPort) {
			own[0], own[1] = port("eth0", "10.77.0.3/24", "sw-b", "swp3"), port("eth1", "10.77.1.3/24", "sw-a", "swp3")
		}, []string{
			"eth0 of n3 is in 10.77.0.0/24 and on switch sw-b port swp3, where n1, n2 have other networks; theirs in 10.77.0.0/24 are on switch sw-a: cables may be swapped",
			"eth1 of n3 is in 10.77.1.0/24 and on switch sw-a port swp3, where n1, n2 have other networks; theirs in 10.77.1.0/24 are on switch sw-b: cables may be swapped"}},
		{"swapped, and nobody to ask", func(st *cluster.State, own []cluster.EthernetPort) {
			own[0], own[1] = port("eth0", "10.77.0.3/24", "sw-b", "swp3"), port("eth1", "10.77.1.3/24", "sw-a", "swp3")
			st.Nodes[0].State = cluster.NodeLost
		}, nil},
		{"MTU", func(st *cluster.State, _ []cluster.EthernetPort) {
			st.Ports[0].Ports[1].MTU, st.Ports[1].Ports[1].MTU = 9000, 9000
		}, []string{"eth1 of n3, on switch sw-b port swp3, has MTU 1500, and eth1 of n1, eth1 of n2 in the same network 9000: large packets between them get lost"}},
		{"the switch takes less", func(st *cluster.State, own []cluster.EthernetPort) { own[0].Neighbours[0].MaxFrame = 1500 },
			[]string{"eth0 of n3 sends frames of up to 1518 bytes (MTU 1500), and switch sw-a port swp3 says that it takes at most 1500"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := three()
			tt.change(st, st.Ports[2].Ports)
			if got := Faults(&st.Ports[2], st); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestNews(t *testing.T) {
	record := func(change func(p []cluster.EthernetPort), faults ...string) *cluster.NodePorts {
		r := &cluster.NodePorts{Node: "n3", Faults: faults, Ports: []cluster.EthernetPort{port("eth0", "10.77.0.3/24", "sw-a", "swp3"), port("eth1", "10.77.1.3/24", "sw-b", "swp3")}}
		if change != nil {
			change(r.Ports)
		}
		return r
	}
	out := func(p []cluster.EthernetPort) { p[1].Carrier, p[1].Neighbours[0].Heard = false, false }
	tests := []struct {
		name        string
		before, now *cluster.NodePorts
		want        string
	}{
		{"the first record", nil, record(out), ""},
		{"the first record, with a fault", nil, record(nil, "wrong"), "wrong"},
		{"nothing", record(nil, "wrong"), record(nil, "wrong"), ""},
		{"a cable is pulled", record(nil), record(out), "eth1 of n3 has no carrier: its cable is out, or switch sw-b or its port swp3 is down"},
		{"and nobody knows where it was", record(func(p []cluster.EthernetPort) { p[1].Neighbours = nil }),
			record(func(p []cluster.EthernetPort) { out(p); p[1].Neighbours = nil }), "eth1 of n3 has no carrier: its cable is out, or what it is plugged into is down"},
		{"and put in again", record(out), record(nil), "eth1 of n3 has carrier again, on switch sw-b port swp3"},
		{"into another switch", record(out), record(func(p []cluster.EthernetPort) { p[1] = port("eth1", "10.77.1.3/24", "sw-a", "swp4") }, "wrong"),
			"eth1 of n3 has carrier again, on switch sw-a port swp4; it was on switch sw-b port swp3; wrong"},
		{"heard in another switch after a while", record(func(p []cluster.EthernetPort) { p[1].Neighbours[0].Heard = false }),
			record(func(p []cluster.EthernetPort) { p[1] = port("eth1", "10.77.1.3/24", "sw-a", "swp4") }),
			"eth1 of n3 is on switch sw-a port swp4 now; it was on switch sw-b port swp3"},
		{"put right", record(nil, "wrong", "worse"), record(nil, "worse"), "put right: wrong"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, p := range News(tt.before, tt.now) {
				got = append(got, p.Text)
			}
			if text := strings.Join(got, "; "); text != tt.want {
				t.Errorf("got  %q\nwant %q", text, tt.want)
			}
		})
	}
}

func TestBus(t *testing.T) {
	for path, want := range map[string]string{
		"/sys/devices/pci0000:00/0000:00:10.0/virtio3":                          "0000:00:10.0",
		"/sys/devices/pci0000:00/0000:00:1c.0/0000:02:00.1":                     "0000:02:00.1",
		"/sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0":                 "0000:00:14.0/usb1/1-1/1-1:1.0",
		"/sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/f8b3781a-1e": "f8b3781a-1e",
	} {
		if got := busOf(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}
