package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "The cluster at a glance", Args: cobra.NoArgs,
		Example: "  skein status\n  skein status -o json | jq .healthy",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, st, func(t *table) { drawStatus(t, st) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func drawStatus(t *table, st api.Status) {
	health := "healthy"
	if !st.Healthy {
		health = "NOT HEALTHY"
	}
	t.row(fmt.Sprintf("cluster %s: %s, coordinator %s (answered by %s)", st.Cluster, health, orDash(st.Coordinator), st.Answered))
	for _, p := range st.Problems {
		t.row("  ! " + p)
	}
	for _, w := range st.Warnings {
		t.row("  note: " + w)
	}
	t.blank()
	drawNodes(t, st)
	if len(st.Services) > 0 {
		t.blank()
		drawServices(t, st)
	}
}

func drawNodes(t *table, st api.Status) {
	t.row("NODE", "STATE", "VOTER", "SERVICES", "LINKS", "EPOCH")
	for _, n := range st.Nodes {
		var links []string
		for _, l := range n.Links {
			text := l.Name + " " + l.Address
			if l.State != "up" && l.State != "" && l.State != "unknown" {
				text += " (" + l.State + ")"
			}
			links = append(links, text)
		}
		voter := "-"
		if n.Voter {
			voter = "yes"
		}
		state := string(n.State)
		if n.Witness {
			state += " (witness)"
		}
		if n.Restarting {
			state += " (agent restarts)"
		}
		if n.Quarantine != "" {
			state += " (quarantine)"
		}
		t.row(n.Name, state, voter, n.Instances, strings.Join(links, ", "), n.Epoch)
	}
}

func drawServices(t *table, st api.Status) {
	t.row("SERVICE", "RUNNING", "ON", "ADDRESSES", "IMAGE")
	for _, s := range st.Services {
		var on []string
		for _, in := range s.Instances {
			where := in.Node
			if in.State != "running" {
				where += " (" + string(in.State) + ")"
			}
			on = append(on, where)
		}
		t.row(s.Stack+"/"+s.Name, runningText(s), joined(on), joined(s.Addresses), s.Image)
	}
}

// runningText is how many instances run, and how far an update is.
func runningText(s api.ServiceStatus) string {
	text := fmt.Sprintf("%d/%d", s.Running, s.Wanted)
	if u := s.Update; u != nil && (u.State.Going() || u.State == cluster.UpdatePaused) {
		text += fmt.Sprintf(" (%s, %d done)", u.State, u.Done)
	}
	return text
}
