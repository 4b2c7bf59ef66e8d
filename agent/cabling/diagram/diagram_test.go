package diagram

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func port(name, addr, sw, at string) Port {
	p := Port{EthernetPort: cluster.EthernetPort{Name: name, Carrier: true, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}}
	if sw != "" {
		p.Neighbours = []cluster.Neighbour{{Chassis: "chassis of " + sw, System: sw, Port: at, Bridge: true, Heard: true}}
	}
	return p
}

func sample() []Node {
	nodes := []Node{
		{Name: "n1", Ports: []Port{port("eth0", "10.77.0.1/24", "sw-a", "swp2"), port("eth1", "10.77.1.1/24", "sw-b", "swp2")}},
		{Name: "n2", Ports: []Port{port("eth0", "10.77.0.2/24", "sw-a", "swp10"), port("eth1", "10.77.1.2/24", "sw-b", "swp3")}},
		{Name: "n3", Ports: []Port{port("eth0", "10.77.0.3/24", "sw-a", "swp4"), port("eth1", "10.77.1.3/24", "sw-a", "swp5")},
			Faults: []string{"both 'redundant' ports of n3 are on switch sw-a <&>"}},
		{Name: "n4", Note: "it is lost", Ports: []Port{port("eth0", "10.77.0.4/24", "", "")}},
	}
	nodes[1].Ports[1].Carrier = false
	nodes[1].Ports[1].Neighbours[0].Heard = false
	nodes[2].Ports[1].Trouble = "nothing gets through to n1 or back"
	return nodes
}

func TestText(t *testing.T) {
	want := `switch sw-a
├─ swp2  ──── n1 eth0
├─ swp4  ──── n3 eth0
├─ swp5  ─!!─ n3 eth1  nothing gets through to n1 or back
└─ swp10 ──── n2 eth0

switch sw-b
├─ swp2 ──── n1 eth1
└─ swp3 ─  ─ n2 eth1  no carrier

no switch is heard by LLDP
└─  ─??─ n4 eth0

! both 'redundant' ports of n3 are on switch sw-a <&>
! n4: it is lost
`
	if got := Text(sample()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSVG(t *testing.T) {
	got := SVG("cabling of lab", sample())
	if path := os.Getenv("SKEIN_SVG"); path != "" { // to look at
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := xml.NewDecoder(bytes.NewReader(got))
	lines, dots := 0, 0
	var texts []string
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			switch e.Name.Local {
			case "path":
				lines++
			case "circle":
				dots++
			}
		case xml.CharData:
			texts = append(texts, string(e))
		}
	}
	if lines != 7+4 || dots != 7+6 { // cables and the key; both ends but one
		t.Errorf("got %d lines and %d dots, want 11 and 13", lines, dots)
	}
	for _, want := range []string{"sw-a", "sw-b", "n4", "no carrier", "! both 'redundant' ports of n3 are on switch sw-a <&>", "no switch is heard", "swp10", "10.77.1.3"} {
		if !slices.Contains(texts, want) {
			t.Errorf("%q is not in it", want)
		}
	}
	mixed := sample()
	slices.Reverse(mixed)
	if !bytes.Equal(got, SVG("cabling of lab", mixed)) {
		t.Error("the order of the nodes changes the picture")
	}
}

func TestNatural(t *testing.T) {
	list := strings.Fields("swp10 swp9 Gi1/0/10 Gi1/0/2 swp09 swp")
	slices.SortFunc(list, natural)
	if got, want := strings.Join(list, " "), "Gi1/0/2 Gi1/0/10 swp swp9 swp09 swp10"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
