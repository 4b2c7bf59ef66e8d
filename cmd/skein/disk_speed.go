package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/storage/speed"
)

func diskSpeedCommand() *cobra.Command {
	var node string
	var during time.Duration
	cmd := &cobra.Command{Use: "speed DISK", Short: "How fast a node reads a disk, by each of its paths", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeDisks,
		Long: `speed reads the disk on one node: pieces of 4 KiB at random places, one after the other, for the latency, and pieces of
1 MiB, four at once, for the throughput. The paths take turns, and so does the map over them if the node has a volume of
the disk mounted. Nothing is written. The disk may be in use, and is slower meanwhile.`,
		Example: "  skein disk speed db\n  skein disk speed naa.600140500000000000000000000000a1 --node n2 --for 10s",
		RunE: func(cmd *cobra.Command, args []string) error {
			if during <= 0 || during > speed.MaxTime {
				return &usageError{fmt.Errorf("--for %s: measure for up to %s", during, speed.MaxTime)}
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			d, err := findDisk(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if node, err = seer(&d, cmp.Or(node, d.Owner)); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "reading disk %s on %s for %s\n", args[0], node, during)
			list, err := c.DiskSpeed(cmd.Context(), node, d.WWN, during)
			if err != nil {
				return err
			}
			if err := show(cmd, list, func(t *table) { drawSpeed(t, list) }); err != nil {
				return err
			}
			for _, r := range list {
				if r.Error != "" {
					return errors.New("not every path could be read")
				}
			}
			return nil
		}}
	addOutputFlag(cmd)
	addNodeFlag(cmd, &node)
	cmd.Flags().DurationVar(&during, "for", 4*time.Second, "how long to measure")
	return cmd
}

func drawSpeed(t *table, list []speed.Result) {
	t.row("DEVICE", "4 KIB READ", "P99", "THROUGHPUT", "")
	for _, r := range list {
		t.row(r.Device, r.Median.Round(time.Microsecond).String(), r.P99.Round(time.Microsecond).String(), bytesText(int64(r.Throughput))+"/s", r.Error)
	}
}
