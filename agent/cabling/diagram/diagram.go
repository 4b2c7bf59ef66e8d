// Package diagram draws which port of which node is plugged into which port of which switch: as text for a terminal
// and as SVG. It is pure; the same cabling gives the same bytes, and order of the input does not matter.
package diagram

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
)

// Node is what is drawn of a node.
type Node struct {
	Name   string
	Note   string // why it says nothing now, beside its name; empty if it does
	Ports  []Port
	Faults []string // of its cabling, in sentences
}

// Port is one port, and what is wrong with it in a clause; empty if nothing is.
type Port struct {
	cluster.EthernetPort
	Trouble string
}

// State of a cable, which is how it is drawn.
type State int

const (
	Good    State = iota
	Bad           // it has a carrier, and something is wrong
	Down          // no carrier
	Unknown       // its node does not say
)

func (n *Node) state(p *Port) State {
	switch {
	case n.Note != "":
		return Unknown
	case !p.Carrier:
		return Down
	case p.Trouble != "":
		return Bad
	}
	return Good
}

// label of the port: its name, and what is known of it.
func (p *Port) label() string {
	text := p.Name
	if p.Master != "" {
		text += " (" + p.Master + ")"
	}
	return text
}

// trouble is what to write beside the cable.
func (p *Port) trouble() string {
	var all []string
	if !p.Carrier {
		all = append(all, "no carrier")
	}
	if n := p.Switch(); p.Carrier && n != nil && !n.Heard {
		all = append(all, "the switch is not heard any more")
	}
	if p.Trouble != "" {
		all = append(all, p.Trouble)
	}
	return strings.Join(all, "; ")
}

// cable is one port and where it is plugged in.
type cable struct {
	node *Node
	port *Port
	at   string // port of the switch
}

// hub is a switch and its cables, sorted by its ports; name is empty for the cables of which no switch is heard.
type hub struct {
	chassis, name string
	cables        []cable
}

// hubs groups the cables by switch, sorted by name; those of no known switch come last.
func hubs(nodes []Node) []hub {
	of := map[string]*hub{}
	for i := range nodes {
		for j := range nodes[i].Ports {
			p := &nodes[i].Ports[j]
			c := cable{node: &nodes[i], port: p}
			key, name := "", ""
			if n := p.Switch(); n != nil {
				key, name, c.at = n.Chassis, n.Name(), n.Port
			}
			if of[key] == nil {
				of[key] = &hub{chassis: key, name: name}
			}
			of[key].cables = append(of[key].cables, c)
		}
	}
	var out []hub
	for _, h := range of {
		slices.SortFunc(h.cables, func(a, b cable) int {
			return cmp.Or(natural(a.at, b.at), natural(a.node.Name, b.node.Name), natural(a.port.Name, b.port.Name))
		})
		out = append(out, *h)
	}
	slices.SortFunc(out, func(a, b hub) int {
		last := func(h hub) int {
			if h.name == "" {
				return 1
			}
			return 0
		}
		return cmp.Or(last(a)-last(b), natural(a.name, b.name), strings.Compare(a.chassis, b.chassis))
	})
	return out
}

// natural compares names as people sort them: swp9 comes before swp10.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, restA := piece(a)
		y, restB := piece(b)
		c := strings.Compare(x, y)
		if digit(x[0]) && digit(y[0]) {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			c = cmp.Or(len(x)-len(y), strings.Compare(x, y))
		}
		if c != 0 {
			return c
		}
		a, b = restA, restB
	}
	return len(a) - len(b)
}

// piece splits off the first digits, or what is before the first digit.
func piece(s string) (first, rest string) {
	n := 1
	for n < len(s) && digit(s[n]) == digit(s[0]) {
		n++
	}
	return s[:n], s[n:]
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// Text draws the cabling as a tree of switches.
func Text(nodes []Node) string {
	var b strings.Builder
	for i, h := range hubs(nodes) {
		if i > 0 {
			b.WriteByte('\n')
		}
		if h.name == "" {
			b.WriteString("no switch is heard by LLDP\n")
		} else {
			fmt.Fprintf(&b, "switch %s\n", h.name)
		}
		at, names := 0, 0
		for _, c := range h.cables {
			at, names = max(at, len(c.at)), max(names, len(c.node.Name)+1+len(c.port.label()))
		}
		for j, c := range h.cables {
			branch := "├─"
			if j == len(h.cables)-1 {
				branch = "└─"
			}
			wire := map[State]string{Good: "────", Bad: "─!!─", Down: "─  ─", Unknown: "─??─"}[c.node.state(c.port)]
			line := fmt.Sprintf("%s %-*s %s %-*s", branch, at, c.at, wire, names, c.node.Name+" "+c.port.label())
			if t := c.port.trouble(); t != "" {
				line += "  " + t
			}
			b.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	first := true
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b Node) int { return natural(a.Name, b.Name) })
	for _, n := range nodes {
		var say []string
		if n.Note != "" {
			say = append(say, n.Name+": "+n.Note)
		}
		for _, s := range append(say, n.Faults...) {
			if first {
				b.WriteByte('\n')
				first = false
			}
			b.WriteString("! " + s + "\n")
		}
	}
	return b.String()
}
