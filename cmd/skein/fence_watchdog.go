package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
)

func fenceWatchdogCommand() *cobra.Command {
	var all bool
	var req api.WatchdogRequest
	cmd := &cobra.Command{
		Use: "watchdog NODE|--all on|off", Short: "Whether nodes reset themselves when they lose the majority", Args: cobra.RangeArgs(1, 2),
		Long: `watchdog on lets a node's hardware watchdog give proof (L3) that its machine is off, where there is no power
controller: while the node runs services whose safety is power, the watchdog is fed only as long as a majority
of the voters hears the node. The price: a node that is cut off from the majority for some 15 seconds is reset,
even if it was well; and if the majority is lost, so are all such nodes. Without it they would go on.

A watchdog in software (softdog) is a timer of the kernel, which does not reset a kernel that hangs: it is taken
for proof only with --softdog-too. A virtual machine that is paused with its clock standing is not covered.
Try it once: 'skein fence ls' shows what is bound.`,
		Example: "  skein fence watchdog n2 on\n  skein fence watchdog --all on\n  skein fence watchdog --all off",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, complete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 && !all {
				return completeNodes(cmd, args, complete)
			}
			return []string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			how := args[len(args)-1]
			if all == (len(args) == 2) || how != "on" && how != "off" {
				return &usageError{errors.New("say which node, or --all, and then on or off")}
			}
			req.On = how == "on"
			c, err := client(cmd)
			if err != nil {
				return err
			}
			nodes := args[:1]
			if all {
				list, err := c.Fences(cmd.Context())
				if err != nil {
					return err
				}
				nodes = nil
				for _, f := range list {
					nodes = append(nodes, f.Node)
				}
			}
			var errs []error
			for _, n := range nodes {
				p, err := c.SetWatchdog(cmd.Context(), n, req)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: watchdog %s\n", p.Node, how)
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all nodes of the cluster")
	cmd.Flags().BoolVar(&req.SoftdogToo, "softdog-too", false, "take a watchdog in software for proof as well")
	return cmd
}
