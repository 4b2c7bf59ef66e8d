package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// KeyPorts begins the records of nodes' ports: ports/<node> -> NodePorts.
const KeyPorts = KeyRoot + "ports/"

// PortPathMTU is the UDP port, on every link, of probes of how large packets may be (package pathmtu).
const PortPathMTU = 7702

// NodePorts is what a node sees of its Ethernet ports, the newest that it has told. Only the node writes it.
type NodePorts struct {
	Node   string         `json:"node"`
	BootID string         `json:"boot_id"`
	Ports  []EthernetPort `json:"ports"` // sorted by name
	// Faults of the cabling of this node, in sentences (package cabling); empty if it is in order.
	Faults []string `json:"faults,omitempty"`

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the record.
func (p *NodePorts) Key() string { return KeyPorts + p.Node }

// EthernetPort is one Ethernet port of a node.
type EthernetPort struct {
	Name    string         `json:"name"` // eth0; a hint for people, not an identity
	MAC     string         `json:"mac"`
	Driver  string         `json:"driver,omitempty"`
	Bus     string         `json:"bus,omitempty"`        // where it is in the machine, 0000:00:10.0
	Speed   int            `json:"speed_mbps,omitempty"` // Mbit/s; 0: not known, as of most virtual ports
	MTU     int            `json:"mtu"`                  // bytes
	Carrier bool           `json:"carrier"`
	Master  string         `json:"master,omitempty"` // the bond or bridge that it is part of
	Addrs   []netip.Prefix `json:"addrs,omitempty"`  // its own, or its master's
	// Neighbours are who is heard on it by LLDP, sorted. If nobody is, those that were heard last in this boot.
	Neighbours []Neighbour `json:"neighbours,omitempty"`
}

// Neighbour is the other end of a cable, by its own word.
type Neighbour struct {
	Chassis     string `json:"chassis"` // what tells it from others
	System      string `json:"system,omitempty"`
	Port        string `json:"port"`
	Description string `json:"description,omitempty"`     // of that port
	Bridge      bool   `json:"bridge,omitempty"`          // it is a switch
	VLAN        uint16 `json:"vlan,omitempty"`            // of untagged frames; 0: not said
	MaxFrame    int    `json:"max_frame_bytes,omitempty"` // with header and check sum; 0: not said
	Heard       bool   `json:"heard"`                     // false: not any more
}

// Name is what people call it.
func (n *Neighbour) Name() string {
	if n.System != "" {
		return n.System
	}
	return n.Chassis
}

// Switch is the switch that the port is plugged into, nil if it is not known: none has been heard, or several are,
// as behind a switch that forwards LLDP.
func (p *EthernetPort) Switch() *Neighbour {
	var found *Neighbour
	for i := range p.Neighbours {
		if n := &p.Neighbours[i]; n.Bridge {
			if found != nil {
				return nil
			}
			found = n
		}
	}
	return found
}

// Where is a clause that says what the port is plugged into, empty if that is not known.
func (p *EthernetPort) Where() string {
	n := p.Switch()
	if n == nil {
		return ""
	}
	where := fmt.Sprintf("on switch %s port %s", n.Name(), n.Port)
	if !n.Heard {
		where += " when last heard"
	}
	return where
}

// PortsOf finds what a node has told of its ports in its boot, nil if nothing.
func (s *State) PortsOf(node string) *NodePorts {
	n := s.Node(node)
	if n == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(s.Ports, node, func(p NodePorts, name string) int { return strings.Compare(p.Node, name) })
	if !ok || s.Ports[i].BootID != n.BootID {
		return nil
	}
	return &s.Ports[i]
}

// Port finds a port by name, nil if there is none; p may be nil.
func (p *NodePorts) Port(name string) *EthernetPort {
	if p == nil {
		return nil
	}
	for i := range p.Ports {
		if p.Ports[i].Name == name {
			return &p.Ports[i]
		}
	}
	return nil
}

// On are the ports that a link with an address is made of: the port of that name, or the members of a bond.
func (p *NodePorts) On(link string) []*EthernetPort {
	if p == nil {
		return nil
	}
	var out []*EthernetPort
	for i := range p.Ports {
		if p.Ports[i].Name == link || p.Ports[i].Master == link {
			out = append(out, &p.Ports[i])
		}
	}
	return out
}
