package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

func nodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Nodes of the cluster",
		Example: "  skein node ls\n  skein node drain n2\n  skein node remove n2\n  skein node release n2\n  skein node restart-agent n2"}
	ls := &cobra.Command{
		Use: "ls", Short: "List nodes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, st.Nodes, func(t *table) {
				drawNodes(t, st)
				for _, n := range st.Nodes {
					if n.Quarantine != "" {
						t.row("  note: " + n.Name + " is " + n.Quarantine)
					}
				}
			})
		},
	}
	addOutputFlag(ls)
	cmd.AddCommand(admitCommands()...)
	cmd.AddCommand(ls, nodeBMCCommand(),
		nodeAction("drain", "Move the services of a node elsewhere and give it no new ones", func(ctx context.Context, c *api.Client, node string) error {
			if err := c.NodeAction(ctx, node, "drain"); err != nil {
				return err
			}
			return waitFor(ctx, c, func(st api.Status) (bool, string) {
				n := findNode(st, node)
				if n == nil {
					return false, "node " + node + " is gone"
				}
				return n.State == cluster.NodeDrained, fmt.Sprintf("%s still has %d instances", node, n.Instances)
			})
		}),
		nodeAction("undrain", "Let a drained node take services again", func(ctx context.Context, c *api.Client, node string) error {
			return c.NodeAction(ctx, node, "undrain")
		}),
		nodeAction("remove", "Take a drained or lost node out of the cluster", func(ctx context.Context, c *api.Client, node string) error {
			return c.RemoveNode(ctx, node)
		}),
		nodeAction("reboot", "Reboot a node in an orderly way", func(ctx context.Context, c *api.Client, node string) error {
			return c.NodeAction(ctx, node, "reboot")
		}),
		nodeAction("poweroff", "Power a node off in an orderly way", func(ctx context.Context, c *api.Client, node string) error {
			return c.NodeAction(ctx, node, "poweroff")
		}),
		nodeAction("release", "Give work again to a node that is in quarantine because it was lost too often", func(ctx context.Context, c *api.Client, node string) error {
			return c.NodeAction(ctx, node, "release")
		}),
		nodeAction("restart-agent", "Restart the cluster part of a node; its services go on", func(ctx context.Context, c *api.Client, node string) error {
			return c.NodeAction(ctx, node, "restart-agent")
		}),
	)
	return cmd
}

func nodeAction(verb, short string, do func(context.Context, *api.Client, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NODE", Short: short, Args: cobra.ExactArgs(1), Example: "  skein node " + verb + " n2",
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return do(cmd.Context(), c, args[0])
		},
	}
}

func findNode(st api.Status, name string) *api.NodeStatus {
	for i := range st.Nodes {
		if st.Nodes[i].Name == name {
			return &st.Nodes[i]
		}
	}
	return nil
}

func completeNodes(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := client(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := c.Status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, n := range st.Nodes {
		names = append(names, n.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
