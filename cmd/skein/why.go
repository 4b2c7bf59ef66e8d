package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

func whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "why SERVICE|NODE", Short: "Why a service is where it is, or a node in its state", Args: cobra.ExactArgs(1),
		Long: `Tells where a service runs, since when, which nodes were considered and why the others were not taken,
how it came over from a node that was lost, and what it waits for. Of a node: its state, who confirmed its
silence, what moved away from it and where to, and when it gets work again.`,
		Example:           "  skein why web\n  skein why demo/web\n  skein why n2 -o json",
		ValidArgsFunction: completeSubjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			a, err := c.Why(cmd.Context(), args[0], time.Local)
			if err != nil {
				return err
			}
			return show(cmd, a, func(t *table) {
				for _, s := range a.Sentences {
					t.row(s)
				}
				for i, id := range a.Decisions {
					if i == 0 {
						t.blank()
						t.row("Decide it again with:")
					}
					t.row("  skein replay " + id)
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// completeSubjects are nodes and services.
func completeSubjects(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, directive := completeNodes(cmd, args, typed)
	c, err := client(cmd)
	if err != nil {
		return names, directive
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := c.Status(ctx)
	if err != nil {
		return names, directive
	}
	for _, s := range st.Services {
		names = append(names, s.Stack+"/"+s.Name)
	}
	return names, directive
}
