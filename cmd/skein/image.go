package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/cluster"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Container images of the cluster, and the images that machines boot",
		Example: "  skein image ls\n  skein image load web.tar\n  skein image build"}
	ls := &cobra.Command{
		Use: "ls", Short: "List the container images that the cluster has", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			images, err := c.Images(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, images, func(t *table) {
				t.row("IMAGE", "SIZE", "DIGEST", "FROM", "KEPT")
				for _, im := range images {
					kept := "-"
					if im.Kept {
						kept = "cluster disk"
					}
					t.row(im.Ref, bytesText(im.Size), fmt.Sprintf("%.19s", im.Digest), im.Source, kept)
				}
			})
		},
	}
	load := &cobra.Command{
		Use: "load FILE...", Short: "Load container images from OCI archives", Args: cobra.MinimumNArgs(1),
		Example: "  skein image load web.tar media.tar",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			var all []cluster.Image
			for _, name := range args {
				f, err := os.Open(name)
				if err != nil {
					return err
				}
				images, err := c.LoadImage(cmd.Context(), f)
				f.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				all = append(all, images...)
			}
			return showImages(cmd, all)
		},
	}
	pull := &cobra.Command{
		Use: "pull REFERENCE", Short: "Fetch a container image from its registry", Args: cobra.ExactArgs(1),
		Example: "  skein image pull registry.example.com/shop/web:3",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			images, err := c.PullImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showImages(cmd, images)
		},
	}
	for _, c := range []*cobra.Command{ls, load, pull} {
		addOutputFlag(c)
		cmd.AddCommand(c)
	}
	cmd.AddCommand(imageBuildCommands()...)
	cmd.AddCommand(imageRemoveCommands()...)
	return cmd
}

func showImages(cmd *cobra.Command, images []cluster.Image) error {
	return show(cmd, images, func(t *table) {
		t.row("IMAGE", "SIZE", "DIGEST", "FROM")
		for _, im := range images {
			t.row(im.Ref, bytesText(im.Size), fmt.Sprintf("%.19s", im.Digest), im.Source)
		}
	})
}
