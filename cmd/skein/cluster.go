package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func clusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "What concerns the cluster as a whole"}
	disk := &cobra.Command{Use: "disk", Short: "The LUN on which the ledger outlasts a loss of power of all nodes",
		Long: `Voters keep the ledger in memory. With a cluster disk, a LUN of 64 MiB or more that all of them see, no commit is
acknowledged before it is on that disk, and a cluster of which all nodes have lost power forms again with
everything it knew. The disk must know persistent reservations ('skein disk test').`}
	use := &cobra.Command{
		Use: "use WWN", Short: "Keep the ledger on this disk", Args: cobra.ExactArgs(1),
		Long: `use makes a LUN the cluster disk. Its beginning and its end must be zeros, or it must be this cluster's
already: anything else is left alone, and the nodes say what is there ('skein events').`,
		Example: "  skein cluster disk use naa.60014051f5a8c4b0d0e4a5b8e1f2a3b4",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			d, err := c.SetClusterDisk(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is the cluster disk, with %d slots\n", d.WWN, len(d.Slots))
			return nil
		},
	}
	show := &cobra.Command{
		Use: "show", Short: "Which disk it is, and whose copies are on it", Args: cobra.NoArgs,
		Example: "  skein cluster disk show",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			d, err := c.ClusterDisk(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "disk %s\n", d.WWN)
			for i, node := range d.Slots {
				if node == "" {
					node = "(free)"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "slot %d  %s\n", i, node)
			}
			return nil
		},
	}
	disk.AddCommand(use, show)
	cmd.AddCommand(disk, clusterCACommand())
	return cmd
}
