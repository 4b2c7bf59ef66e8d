package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/cluster"
)

func eventsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "events", Short: "What happened, and why", Args: cobra.NoArgs, Example: "  skein events\n  skein events -f\n  skein events -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := wantsJSON(cmd)
			if err != nil {
				return err
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			var after uint64
			for {
				err := c.Events(cmd.Context(), after, follow, func(e cluster.Event) error {
					after = e.Seq
					if asJSON {
						return json.NewEncoder(out).Encode(e)
					}
					return printEvent(out, e)
				})
				// The node that was followed may be the one that died: go on with another from the same place.
				if !follow || cmd.Context().Err() != nil {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(300 * time.Millisecond):
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing what comes")
	addOutputFlag(cmd)
	return cmd
}

func printEvent(w io.Writer, e cluster.Event) error {
	why := ""
	if e.Why != "" {
		why = "  (" + e.Why + ")"
	}
	_, err := fmt.Fprintf(w, "%s  %-4s %-8s %-18s %s%s\n", e.Time.Local().Format("15:04:05.000"), e.Node, e.Kind, e.Subject, e.Text, why)
	return err
}
