package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/replay"
)

func decisionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "decisions", Short: "What the coordinator decided, newest first", Args: cobra.NoArgs,
		Example: "  skein decisions\n  skein decisions -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Decisions(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("ID", "TIME", "BY", "DECIDED")
				for _, r := range list {
					for i, a := range r.Actions {
						if i == 0 {
							t.row(r.ID, r.Time.Local().Format("15:04:05.000"), r.Node, a)
						} else {
							t.row("", "", "", a)
						}
					}
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// replayed is the outcome of skein replay.
type replayed struct {
	Then replay.Record `json:"then"`
	Now  replay.Record `json:"now"`
	Same bool          `json:"same"`
	Diff []string      `json:"differs"`
}

func replayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "replay ID", Short: "Decide again what was decided, with the code of this program", Args: cobra.ExactArgs(1),
		Long: `Takes the stored input of a decision and decides again, on this computer. Says whether the outcome is the
same, and else what differs: after an upgrade that is what the new version does otherwise.`,
		Example:           "  skein replay 1042.1",
		ValidArgsFunction: completeDecisions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			r, err := c.Decision(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			again, diff, err := replay.Replay(r)
			if err != nil {
				return err
			}
			out := replayed{Then: r, Now: again, Same: len(diff) == 0, Diff: diff}
			out.Then.Input, out.Now.Input = nil, nil
			return show(cmd, out, func(t *table) {
				t.row(fmt.Sprintf("Decision %s of %s at %s, from revision %d of the ledger:", r.ID, r.Node, r.Time.Local().Format("15:04:05.000"), r.Revision))
				for _, a := range r.Actions {
					t.row("  " + a.String())
				}
				for _, p := range r.Pending {
					t.row("  not possible: " + p)
				}
				if out.Same {
					t.row("Decided again from the same input: the same.")
					return
				}
				t.row("Decided again from the same input, it differs:")
				for _, d := range diff {
					t.row("  " + d)
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func completeDecisions(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := client(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	list, err := c.Decisions(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, r := range list {
		var what []string
		for _, a := range r.Actions {
			what = append(what, a.Kind+" "+a.Subject)
		}
		out = append(out, r.ID+"\t"+strings.Join(what, ", "))
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
