package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/qemu/owners"
)

func labOwnersCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "owners", Short: "Who answers for the floating addresses, as the switches see it", Args: cobra.NoArgs,
		Long: `owners tells which machine answers for each floating address, and every change of it since the lab
started. The lab's switches watch the frames: no machine has a say in it. A double owner is a machine that answers
within 500 ms after another one took the address over, or comes back to it without announcing it.`,
		Example: "  skein lab owners\n  skein lab owners --follow\n  skein lab owners -o json | jq .double_owners",
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := wantsJSON(cmd)
			if err != nil {
				return err
			}
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if follow {
				return c.FollowOwners(cmd.Context(), func(r owners.Record) error {
					if asJSON {
						return writeJSONLine(out, r)
					}
					return printOwners(out, r)
				})
			}
			r, err := c.Owners(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, r, func(t *table) { drawOwners(t, r) })
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print handovers and double owners, and go on with what comes")
	addOutputFlag(cmd)
	return cmd
}

func clock(t time.Time) string { return t.Local().Format("15:04:05.000") }

func printOwners(w io.Writer, r owners.Record) error {
	switch h, v := r.Handover, r.Violation; {
	case v != nil:
		_, err := fmt.Fprintf(w, "%s  %-12s DOUBLE OWNER (%s): %s answers (%s, lan%d), %.1f ms after %s had taken it over\n",
			clock(v.Time), v.Address, v.Fault, v.Node, v.By, v.LAN, v.LateMs, v.Owner)
		return err
	case h != nil && h.From == "":
		_, err := fmt.Fprintf(w, "%s  %-12s %s answers first (%s, lan%d)\n", clock(h.Time), h.Address, h.To, h.By, h.LAN)
		return err
	case h != nil:
		_, err := fmt.Fprintf(w, "%s  %-12s %s answers in place of %s (%s, lan%d), dark for %.0f ms\n", clock(h.Time), h.Address, h.To, h.From, h.By, h.LAN, h.DarkMs)
		return err
	}
	return nil
}

func drawOwners(t *table, r *owners.Report) {
	t.row("ADDRESS", "OWNER", "SINCE", "LAST ANSWER", "ANSWERS", "HANDOVERS")
	for _, a := range r.Addresses {
		t.row(a.Address, a.Owner, clock(a.Since), clock(a.Last), a.Answers, len(a.Handovers)-1)
	}
	t.blank()
	t.row("double owners", r.DoubleOwners)
	for i := range r.Violations {
		t.w.Flush()
		_ = printOwners(t.w, owners.Record{Violation: &r.Violations[i]})
	}
}
