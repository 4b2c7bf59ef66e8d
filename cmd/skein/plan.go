package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/whatif"
)

// planned is what the coordinator is about to do.
type planned struct {
	Moves   []plannedMove `json:"moves"`
	Pending []string      `json:"pending"`
}

type plannedMove struct {
	Subject string `json:"subject"`
	Text    string `json:"text"`
	Reason  string `json:"reason"`
}

func planCommand() *cobra.Command {
	var question string
	cmd := &cobra.Command{
		Use: "plan", Short: "What is about to move, and what would happen if", Args: cobra.NoArgs,
		Long: `Without a flag: what the cluster is about to move, and what it cannot do and why.
With --what-if: a simulation, on this computer, of the cluster as it is now, under the fault that is named: off
(power lost), on, or drain, and one node or several, or "coordinator". Nothing is changed in the cluster.`,
		Example: "  skein plan\n  skein plan --what-if \"off n2\"\n  skein plan --what-if \"off n1,n2\"\n  skein plan --what-if \"off coordinator\"\n  skein plan --what-if \"drain n3\" -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			snap, err := c.Snapshot(cmd.Context())
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("what-if") {
				return answer(cmd, snap, question)
			}
			p := planNow(snap)
			return show(cmd, p, func(t *table) {
				if len(p.Moves)+len(p.Pending) == 0 {
					t.row("Nothing is about to move, and everything is where it should be.")
				}
				for _, m := range p.Moves {
					t.row(m.Text + ": " + m.Reason)
				}
				for _, w := range p.Pending {
					t.row("Waits: " + w)
				}
			})
		},
	}
	cmd.Flags().StringVar(&question, "what-if", "", `a fault to simulate: "off n2", "off n1,n2", "off coordinator", "on n3", "drain n3"`)
	_ = cmd.RegisterFlagCompletionFunc("what-if", completeFaults)
	addOutputFlag(cmd)
	return cmd
}

func planNow(snap api.Snapshot) planned {
	d := plan.Plan(snap.Input.Snapshot())
	p := planned{Moves: []plannedMove{}, Pending: []string{}}
	for _, a := range d.Actions {
		text := a.Subject
		for _, e := range a.Txn.Events {
			text = e.Text
		}
		p.Moves = append(p.Moves, plannedMove{a.Subject, text, a.Reason})
	}
	for _, w := range d.Pending {
		p.Pending = append(p.Pending, w.String())
	}
	return p
}

func answer(cmd *cobra.Command, snap api.Snapshot, question string) error {
	now := snap.Input.Snapshot()
	c := whatif.Cluster{
		State: now.State, Silent: now.Silent, Coordinator: snap.Coordinator,
		Member: member.Config{Interval: snap.Interval, Silent: snap.Silent, Lease: snap.Lease},
	}
	f, err := whatif.Parse(question, c)
	if err != nil {
		return &usageError{err}
	}
	r, err := whatif.Ask(c, f)
	if err != nil {
		return err
	}
	return show(cmd, r, func(t *table) {
		for _, s := range r.Sentences {
			t.row(s)
		}
		t.row(fmt.Sprintf("(simulated; a service is taken to start in %v: one that needs longer is out for that much longer)", whatif.StartTime))
	})
}

// completeFaults are all faults of one node that make sense now.
func completeFaults(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
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
	out := []string{"off coordinator"}
	for _, n := range st.Nodes {
		switch n.State {
		case cluster.NodeLost:
			out = append(out, "on "+n.Name)
		case cluster.NodeOnline:
			out = append(out, "off "+n.Name, "drain "+n.Name)
		default:
			out = append(out, "off "+n.Name)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
