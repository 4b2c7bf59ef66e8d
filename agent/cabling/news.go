package cabling

import (
	"fmt"
	"slices"

	"github.com/skein-os/skein/agent/cluster"
)

// Piece is one piece of news.
type Piece struct {
	Port string // empty: of the node's cabling as a whole
	Text string
	Why  string
}

// News tells what has happened to the cables of a node between two records of one boot. Before is nil for the first:
// then only faults are news.
func News(before, now *cluster.NodePorts) []Piece {
	var out []Piece
	var faults []string
	if before != nil {
		faults = before.Faults
		for i := range now.Ports {
			if p := &now.Ports[i]; before.Port(p.Name) != nil {
				out = append(out, ofPort(now.Node, before.Port(p.Name), p)...)
			}
		}
		for i := range before.Ports {
			if p := &before.Ports[i]; now.Port(p.Name) == nil {
				out = append(out, Piece{p.Name, fmt.Sprintf("port %s of %s (%s, %s) is gone", p.Name, now.Node, p.MAC, p.Bus), "the kernel does not have it any more"})
			}
		}
	}
	for _, f := range now.Faults {
		if !slices.Contains(faults, f) {
			out = append(out, Piece{Text: f, Why: "as switches and nodes say, and probes find"})
		}
	}
	for _, f := range faults {
		if !slices.Contains(now.Faults, f) {
			out = append(out, Piece{Text: "put right: " + f, Why: "as switches and nodes say, and probes find"})
		}
	}
	return out
}

func ofPort(node string, before, now *cluster.EthernetPort) []Piece {
	name := now.Name + " of " + node
	switch {
	case before.Carrier && !now.Carrier:
		text := name + " has no carrier"
		if sw := before.Switch(); sw != nil {
			text += fmt.Sprintf(": its cable is out, or switch %s or its port %s is down", sw.Name(), sw.Port)
		} else {
			text += ": its cable is out, or what it is plugged into is down"
		}
		return []Piece{{now.Name, text, "the port says so"}}
	case !before.Carrier && now.Carrier:
		text := name + " has carrier again"
		if w := now.Where(); w != "" {
			text += ", " + w
		}
		if from := moved(before, now); from != nil {
			text += fmt.Sprintf("; it was on switch %s port %s", from.Name(), from.Port)
		}
		return []Piece{{now.Name, text, "the port says so"}}
	}
	if from := moved(before, now); from != nil {
		return []Piece{{now.Name, fmt.Sprintf("%s is %s now; it was on switch %s port %s", name, now.Where(), from.Name(), from.Port), "as the switch says by LLDP"}}
	}
	return nil
}

// moved is where a port was before, if another switch, or another port of it, is heard now; else nil.
func moved(before, now *cluster.EthernetPort) *cluster.Neighbour {
	from, to := before.Switch(), now.Switch()
	if from == nil || to == nil || !to.Heard || from.Chassis == to.Chassis && from.Port == to.Port {
		return nil
	}
	return from
}
