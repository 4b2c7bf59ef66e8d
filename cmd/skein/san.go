package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/iscsi"
)

// sanView is a target as the ledger has it and as nodes see it. One that only kernel command lines name has no name.
type sanView struct {
	cluster.SAN
	Nodes []sanNode `json:"nodes"`
}

// sanNode is a node's side of a target.
type sanNode struct {
	Node      string         `json:"node"`
	Initiator string         `json:"initiator,omitempty"`
	Portals   []iscsi.Status `json:"portals"`
	Err       string         `json:"error,omitempty"` // the node was asked and did not answer
}

// askLimit bounds the question to one node: one that is dead must not hold up the answer of the others.
const askLimit = 5 * time.Second

// askSANs asks all nodes at once what they have of the storage network, in their order. A witness is not asked: it has
// no services that need a disk.
func askSANs(ctx context.Context, c *api.Client) ([]api.NodeSAN, []error, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var nodes []api.NodeSAN
	for _, n := range st.Nodes {
		if !n.Witness {
			nodes = append(nodes, api.NodeSAN{Node: n.Name})
		}
	}
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for k := range nodes {
		wg.Go(func() {
			if n, err := c.NodeSAN(ctx, nodes[k].Node); err != nil {
				errs[k] = err
			} else {
				nodes[k] = n
			}
		})
	}
	wg.Wait()
	return nodes, errs, nil
}

// viewSANs puts together what the ledger wants and what nodes have.
func viewSANs(sans []cluster.SAN, nodes []api.NodeSAN, errs []error) []sanView {
	out := []sanView{}
	at := map[string]int{}
	for _, s := range sans {
		at[s.IQN] = len(out)
		out = append(out, sanView{SAN: s, Nodes: []sanNode{}})
	}
	for _, n := range nodes { // targets that only the kernel's command line names
		for _, p := range n.Portals {
			if _, ok := at[p.Target]; !ok {
				at[p.Target] = len(out)
				out = append(out, sanView{SAN: cluster.SAN{IQN: p.Target}, Nodes: []sanNode{}})
			}
			if s := &out[at[p.Target]]; s.Name == "" && !slices.Contains(s.Portals, p.Portal) {
				s.Portals = append(s.Portals, p.Portal)
			}
		}
	}
	for k := range out {
		s := &out[k]
		for i, n := range nodes {
			one := sanNode{Node: n.Node, Initiator: n.Initiator, Portals: []iscsi.Status{}}
			if errs[i] != nil {
				one.Err = errs[i].Error()
			}
			for _, p := range n.Portals {
				if p.Target == s.IQN {
					one.Portals = append(one.Portals, p)
				}
			}
			s.Nodes = append(s.Nodes, one)
		}
	}
	slices.SortStableFunc(out, func(a, b sanView) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.IQN, b.IQN)) })
	return out
}

// sanRow is a line of 'skein san ls': a portal, how many nodes are logged in, and what is wrong on one of the others.
type sanRow struct{ portal, nodes, trouble string }

func (s *sanView) rows(now time.Time) []sanRow {
	portals := slices.Clone(s.Portals)
	for _, n := range s.Nodes {
		for _, p := range n.Portals {
			if !slices.Contains(portals, p.Portal) {
				portals = append(portals, p.Portal) // of the command line, or about to be logged out
			}
		}
	}
	var out []sanRow
	for _, portal := range portals {
		ready := 0
		var troubles []string
		for _, n := range s.Nodes {
			i := slices.IndexFunc(n.Portals, func(p iscsi.Status) bool { return p.Portal == portal })
			switch {
			case n.Err != "":
				troubles = append(troubles, fmt.Sprintf("%s does not answer: %s", n.Node, n.Err))
			case i < 0:
				troubles = append(troubles, n.Node+": not logged in")
			case n.Portals[i].State == iscsi.Ready:
				ready++
			default:
				p := n.Portals[i]
				text := fmt.Sprintf("%s: %s for %s", n.Node, p.State, max(now.Sub(p.Since), 0).Round(time.Second))
				if p.Err != "" {
					text += ": " + p.Err
				}
				troubles = append(troubles, text)
			}
		}
		row := sanRow{portal.String(), fmt.Sprintf("%d of %d", ready, len(s.Nodes)), "-"}
		if len(troubles) > 0 {
			row.trouble = troubles[0]
		}
		out = append(out, row)
		for _, t := range troubles[min(1, len(troubles)):] {
			out = append(out, sanRow{trouble: t})
		}
	}
	return out
}

func sanLsCommand() *cobra.Command {
	ls := &cobra.Command{Use: "ls", Short: "The targets, and how nodes are logged in to each portal", Args: cobra.NoArgs, Example: "  skein san ls\n  skein san ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.SANs(cmd.Context())
			if err != nil {
				return err
			}
			nodes, errs, err := askSANs(cmd.Context(), c)
			if err != nil {
				return err
			}
			views := viewSANs(list, nodes, errs)
			return show(cmd, views, func(t *table) {
				t.row("NAME", "IQN", "CHAP USER", "PORTAL", "LOGGED IN", "TROUBLE")
				for k := range views {
					s := &views[k]
					name, iqn, user := orDash(s.Name), s.IQN, orDash(s.User)
					for _, r := range s.rows(time.Now()) {
						t.row(name, iqn, user, r.portal, r.nodes, r.trouble)
						name, iqn, user = "", "", ""
					}
				}
			})
		}}
	addOutputFlag(ls)
	return ls
}

func sanInitiatorsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "initiators", Short: "The iSCSI names of the nodes, for an array's list of who may log in", Args: cobra.NoArgs, Example: "  skein san initiators",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			nodes, errs, err := askSANs(cmd.Context(), c)
			if err != nil {
				return err
			}
			for k := range nodes {
				if errs[k] != nil {
					nodes[k].Initiator = "does not answer: " + errs[k].Error()
				}
			}
			return show(cmd, nodes, func(t *table) {
				t.row("NODE", "INITIATOR")
				for _, n := range nodes {
					t.row(n.Node, n.Initiator)
				}
			})
		}}
	addOutputFlag(cmd)
	return cmd
}

func sanDiscoverCommand() *cobra.Command {
	var node string
	cmd := &cobra.Command{Use: "discover ADDRESS[:PORT]", Short: "Ask a portal which targets there are", Args: cobra.ExactArgs(1),
		Long: `discover has a node ask a portal for its targets and their portals (SendTargets). A target may name fewer portals than it
has. It stays logged in to nothing.`,
		Example: "  skein san discover 192.0.2.10\n  skein san discover [2001:db8::10]:3260 --node n2",
		RunE: func(cmd *cobra.Command, args []string) error {
			portal, err := parsePortal(args[0])
			if err != nil {
				return &usageError{err}
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			if node == "" {
				if node, err = anyNode(cmd.Context(), c); err != nil {
					return err
				}
			}
			found, err := c.DiscoverSAN(cmd.Context(), node, portal)
			if err != nil {
				return err
			}
			return show(cmd, found, func(t *table) {
				t.row("IQN", "PORTAL")
				for _, f := range found {
					t.row(f.IQN, f.Portal.String())
				}
			})
		}}
	addOutputFlag(cmd)
	cmd.Flags().StringVar(&node, "node", "", "the node that asks (default: one that is online)")
	_ = cmd.RegisterFlagCompletionFunc("node", completeNodes)
	return cmd
}

// anyNode is a node that can be asked to do something.
func anyNode(ctx context.Context, c *api.Client) (string, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	var states []string
	for _, n := range st.Nodes {
		if n.State == cluster.NodeOnline && !n.Witness {
			return n.Name, nil
		}
		states = append(states, fmt.Sprintf("%s is %s", n.Name, n.State))
	}
	return "", fmt.Errorf("no node is online: %s", strings.Join(states, ", "))
}

// parsePortal reads an address, or ADDRESS:PORT.
func parsePortal(text string) (netip.AddrPort, error) {
	if p, err := netip.ParseAddrPort(text); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("portal %q: write an address, or ADDRESS:PORT", text)
	}
	return netip.AddrPortFrom(a, cluster.DefaultISCSIPort), nil
}
