package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/qemu/writers"
)

func labWritersCommand() *cobra.Command {
	var follow bool
	var shared []uint
	cmd := &cobra.Command{
		Use: "writers", Short: "Who writes to the disks of the SAN, as the switches see it", Args: cobra.NoArgs,
		Long: `writers tells which node writes to each disk of the lab's SAN, who is registered there, and every move of a disk
since the lab started. The lab's switches decode iSCSI: no machine has a say in it. A second writer is a node whose
write the target took after another node had preempted it. The verdict is "nothing" if no write was seen.`,
		Example: "  skein lab writers\n  skein lab writers --follow\n  skein lab writers --shared 0,4 -o json | jq .verdict",
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := wantsJSON(cmd)
			if err != nil {
				return err
			}
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			luns := make([]uint64, len(shared))
			for i, lun := range shared {
				luns[i] = uint64(lun)
			}
			out := cmd.OutOrStdout()
			if follow {
				return c.FollowWriters(cmd.Context(), luns, func(r writers.Record) error {
					if asJSON {
						return writeJSONLine(out, r)
					}
					return printWriters(out, r)
				})
			}
			r, err := c.Writers(cmd.Context(), luns)
			if err != nil {
				return err
			}
			return show(cmd, r, func(t *table) { drawWriters(t, r) })
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print moves and second writers, and go on with what comes")
	cmd.Flags().UintSliceVar(&shared, "shared", []uint{0}, "LUNs that may have several writers")
	addOutputFlag(cmd)
	return cmd
}

func printWriters(w io.Writer, r writers.Record) (err error) {
	switch m, v, o, g := r.Move, r.Violation, r.Overlap, r.Gap; {
	case v != nil && v.Doubt != "":
		_, err = fmt.Fprintf(w, "%s  LUN %d: perhaps a second writer (%s): %s wrote %.1f ms after the %s by %s; but %s\n",
			clock(v.Time), v.LUN, v.Fault, v.Node, v.LateMs, v.Fence.Command, v.Fence.By, v.Doubt)
	case v != nil:
		_, err = fmt.Fprintf(w, "%s  LUN %d: SECOND WRITER (%s): %s wrote %.1f ms after the %s by %s\n",
			clock(v.Time), v.LUN, v.Fault, v.Node, v.LateMs, v.Fence.Command, v.Fence.By)
	case o != nil && o.Reserved:
		_, err = fmt.Fprintf(w, "%s  LUN %d: %s writes, and %s has it reserved\n", clock(o.Time), o.LUN, o.Node, o.Over)
	case o != nil:
		_, err = fmt.Fprintf(w, "%s  LUN %d: %s writes after %s, and nobody has it reserved\n", clock(o.Time), o.LUN, o.Node, o.Over)
	case m != nil:
		_, err = fmt.Fprintf(w, "%s  LUN %d: %s from %s to %s\n", clock(m.Time), m.LUN, m.Command, orNobody(m.From), orNobody(m.To))
	case g != nil:
		_, err = fmt.Fprintf(w, "%s  not judged until %s: %d bytes of %s (%s to %s, lan%d)\n", clock(g.Time), clock(g.Until), g.Bytes, g.Node, g.Client, g.Server, g.LAN)
	}
	return err
}

func orNobody(node string) string {
	if node == "" {
		return "nobody"
	}
	return node
}

func drawWriters(t *table, r *writers.Report) {
	t.row("DISK", "OWNER", "MOVES", "WRITER", "WRITES", "MIB", "REFUSED", "LAST WRITE")
	for _, d := range r.Disks {
		disk := fmt.Sprintf("%s LUN %d", d.Target, d.LUN)
		owner := orNobody(d.Owner)
		if d.Shared {
			owner = "shared"
		}
		if len(d.Writers) == 0 {
			t.row(disk, owner, d.MoveCount, "", "", "", "", "")
		}
		for _, w := range d.Writers {
			last := ""
			if !w.Last.IsZero() {
				last = clock(w.Last)
			}
			t.row(disk, owner, d.MoveCount, w.Node, w.Writes, fmt.Sprintf("%.1f", float64(w.Bytes)/(1<<20)), w.Conflicts, last)
		}
	}
	t.blank()
	t.row("verdict", string(r.Verdict))
	t.row("second writers", r.TwoWriters)
	t.row("in doubt", r.Doubtful)
	t.row("overlaps", r.Overlapping)
	t.row("judged", fmt.Sprintf("%d writes, %d of %d commands", r.Writes, r.Judged, r.Commands))
	t.row("gaps", fmt.Sprintf("%d, %d bytes not judged", r.GapCount, r.Unjudged))
	t.w.Flush()
	for i := range r.Violations {
		_ = printWriters(t.w, writers.Record{Violation: &r.Violations[i]})
	}
	for i := range r.Overlaps {
		_ = printWriters(t.w, writers.Record{Overlap: &r.Overlaps[i]})
	}
}
