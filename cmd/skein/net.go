package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cabling/diagram"
	"github.com/skein-os/skein/agent/cluster"
)

func netCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "net", Short: "Network ports, links and cables of the nodes",
		Long: `net shows the truth about the nodes' ports: what is plugged in where, as the switches say by LLDP, and what gets
through between the nodes, by their heartbeats. docs/network-links.md has more.`,
		Example: "  skein net ls\n  skein net show n3\n  skein net map\n  skein net map -o svg > cabling.svg",
	}
	cmd.AddCommand(netLsCommand(), netShowCommand(), netMapCommand())
	return cmd
}

func askNet(cmd *cobra.Command) ([]api.NodeNet, error) {
	c, err := client(cmd)
	if err != nil {
		return nil, err
	}
	return c.Net(cmd.Context())
}

func netLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Short: "List the ports of all nodes, and what each is plugged into", Args: cobra.NoArgs,
		Long: `ls lists every Ethernet port of every node. SWITCH and AT are the switch and its port by LLDP; in parentheses, if
they are not heard any more. PEERS is with how many of the other nodes heartbeats pass over the port in both directions.`,
		Example: "  skein net ls\n  skein net ls -o json | jq '.[] | select(.faults != [])'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := askNet(cmd)
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) { drawPorts(t, list) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func drawPorts(t *table, list []api.NodeNet) {
	t.row("NODE", "PORT", "CARRIER", "SPEED", "MTU", "ADDRESS", "SWITCH", "AT", "PEERS")
	for i := range list {
		n := &list[i]
		for j := range n.Ports {
			p := &n.Ports[j]
			sw, at := whereText(p)
			t.row(n.Node, portName(p), carrierText(p), speedText(p.Speed), p.MTU, addrsText(p), sw, at, peersText(n, p))
		}
	}
	for i := range list {
		n := &list[i]
		if n.Error != "" {
			t.row(fmt.Sprintf("  note: %s: as it told last: %s", n.Node, n.Error))
		}
		for _, f := range n.Faults {
			t.row("  note: " + f)
		}
	}
}

func portName(p *cluster.EthernetPort) string {
	if p.Master == "" {
		return p.Name
	}
	return p.Name + " (" + p.Master + ")"
}

func carrierText(p *cluster.EthernetPort) string {
	if p.Carrier {
		return "up"
	}
	return "down"
}

func speedText(mbps int) string {
	switch {
	case mbps == 0:
		return "-"
	case mbps%1000 == 0:
		return fmt.Sprintf("%d Gbit/s", mbps/1000)
	}
	return fmt.Sprintf("%d Mbit/s", mbps)
}

func addrsText(p *cluster.EthernetPort) string {
	var all []string
	for _, a := range p.Addrs {
		all = append(all, a.String())
	}
	return joined(all)
}

// whereText is the switch that a port is plugged into, and the port there.
func whereText(p *cluster.EthernetPort) (sw, at string) {
	n := p.Switch()
	switch {
	case n == nil:
		return "-", "-"
	case !n.Heard:
		return "(" + n.Name() + ")", "(" + n.Port + ")"
	}
	return n.Name(), n.Port
}

// over tells whether a link goes over a port: the link is the port, or a bond that it is part of.
func over(l *api.NetLink, p *cluster.EthernetPort) bool {
	return l.Link == p.Name || p.Master != "" && l.Link == p.Master
}

func peersText(n *api.NodeNet, p *cluster.EthernetPort) string {
	if !n.Live {
		return "?"
	}
	good, all := 0, 0
	for i := range n.Links {
		if l := &n.Links[i]; over(l, p) && !l.Lost {
			all++
			if l.Good() {
				good++
			}
		}
	}
	if all == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d", good, all)
}

func netShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NODE", Short: "All that is known of the ports and links of a node", Args: cobra.ExactArgs(1),
		Example:           "  skein net show n3\n  skein net show n3 -o json",
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := askNet(cmd)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(n api.NodeNet) bool { return n.Node == args[0] })
			if i < 0 {
				return fmt.Errorf("there is no node %q; 'skein node ls' lists them", args[0])
			}
			return show(cmd, list[i], func(t *table) { drawNodeNet(t, &list[i]) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func drawNodeNet(t *table, n *api.NodeNet) {
	for i := range n.Ports {
		p := &n.Ports[i]
		t.row(p.Name, "carrier", carrierText(p))
		t.row("", "address", addrsText(p))
		t.row("", "MAC", p.MAC)
		t.row("", "hardware", strings.TrimSpace(orDash(p.Driver)+" at "+orDash(p.Bus)))
		t.row("", "speed", speedText(p.Speed))
		t.row("", "MTU", p.MTU)
		if p.Master != "" {
			t.row("", "part of", p.Master)
		}
		if len(p.Neighbours) == 0 {
			t.row("", "neighbour", "none is heard by LLDP")
		}
		for j := range p.Neighbours {
			t.row("", "neighbour", neighbourText(&p.Neighbours[j]))
		}
		t.blank()
	}
	if len(n.Links) > 0 {
		t.row("LINK", "PEER", "ITS LINK", "HEARD", "HEARS", "LOSS", "ROUND TRIP", "TROUBLE")
		for i := range n.Links {
			l := &n.Links[i]
			rtt := "-"
			if l.RTTMs > 0 {
				rtt = fmt.Sprintf("%.1f ms", l.RTTMs)
			}
			trouble := l.Trouble()
			if l.Lost {
				trouble = l.Peer + " is not heard on any link"
			}
			t.row(l.Link, l.Peer, orDash(l.PeerLink), yesNo(l.Receiving), yesNo(l.Sending), fmt.Sprintf("%d%%", l.LossPercent), rtt, orDash(trouble))
		}
	}
	if n.Error != "" {
		t.row("note: as " + n.Node + " told last: " + n.Error)
	}
	for _, f := range n.Faults {
		t.row("note: " + f)
	}
}

func neighbourText(n *cluster.Neighbour) string {
	text := n.Name() + " port " + n.Port
	if n.Bridge {
		text = "switch " + text
	}
	if n.Description != "" && n.Description != n.Port {
		text += " (" + n.Description + ")"
	}
	text += ", chassis " + n.Chassis
	if n.VLAN != 0 {
		text += fmt.Sprintf(", VLAN %d", n.VLAN)
	}
	if n.MaxFrame != 0 {
		text += fmt.Sprintf(", frames of up to %d bytes", n.MaxFrame)
	}
	if !n.Heard {
		text += ": not heard any more"
	}
	return text
}

func netMapCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "map", Short: "Draw which port is plugged into which switch", Args: cobra.NoArgs,
		Long: `map draws the cabling as the switches say it by LLDP: as text, as a picture (-o svg), or as data (-o json). A cable
over which something is wrong is marked, with the reason beside it.`,
		Example: "  skein net map\n  skein net map -o svg > cabling.svg\n  skein net map -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			form, _ := cmd.Flags().GetString("output")
			if form != "text" && form != "svg" && form != "json" {
				return &usageError{fmt.Errorf("output %q: must be text, svg or json", form)}
			}
			list, err := askNet(cmd)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch form {
			case "json":
				return show(cmd, list, nil)
			case "svg":
				_, err = out.Write(diagram.SVG("Cabling", mapNodes(list)))
			default:
				_, err = io.WriteString(out, diagram.Text(mapNodes(list)))
			}
			return err
		},
	}
	cmd.Flags().StringP("output", "o", "text", "text, svg or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "svg", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// mapNodes are what is drawn of the nodes.
func mapNodes(list []api.NodeNet) []diagram.Node {
	var out []diagram.Node
	for i := range list {
		n := &list[i]
		d := diagram.Node{Name: n.Node, Faults: n.Faults}
		switch {
		case n.State == cluster.NodeLost:
			d.Note = "it is lost"
		case n.Error != "":
			d.Note = "it does not answer"
		}
		for j := range n.Ports {
			p := &n.Ports[j]
			d.Ports = append(d.Ports, diagram.Port{EthernetPort: *p, Trouble: portTrouble(n, p)})
		}
		out = append(out, d)
	}
	return out
}

// portTrouble is what is wrong with the links over a port, in a clause.
func portTrouble(n *api.NodeNet, p *cluster.EthernetPort) string {
	if !p.Carrier {
		return "" // which says it all
	}
	var silent, other []string
	all := 0
	for i := range n.Links {
		l := &n.Links[i]
		if !over(l, p) || l.Lost {
			continue
		}
		all++
		switch t := l.Trouble(); {
		case t == "":
		case !l.Receiving && !l.Sending && !l.Flapping:
			silent = append(silent, l.Peer)
		default:
			other = append(other, t)
		}
	}
	switch {
	case len(silent) == all && all > 1:
		other = append([]string{"nothing gets through to anybody"}, other...)
	case len(silent) > 0:
		other = append([]string{"nothing gets through to " + strings.Join(silent, ", ")}, other...)
	}
	return strings.Join(other, "; ")
}
