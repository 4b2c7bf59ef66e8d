package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/images/secureboot"
	"github.com/skein-os/skein/initramfs"
)

// imageKeysCommand is `skein image keys`.
func imageKeysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "The site's own keys for Secure Boot", Example: "  skein image keys new keys"}
	var site string
	add := &cobra.Command{
		Use: "new FOLDER", Short: "Make the keys PK, KEK and db in a new folder", Args: cobra.ExactArgs(1),
		Long: `Makes the three keys of UEFI Secure Boot for this site, in a new folder that only you can read:

  PK.key KEK.key db.key     private; db.key signs images, the other two belong into a safe
  PK.cer KEK.cer db.cer     what most firmware menus take
  PK.auth KEK.auth db.auth  signed updates of the variables; PK last
  PK.esl KEK.esl db.esl     lists, for efi-updatevar and virtual machines

An image that is built with --sign FOLDER has the public files in loader/keys/skein on its ESP.`,
		Example: "  skein image keys new keys --site 'Example Ltd'\n  skein image build --format raw --sign keys",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := secureboot.Create(args[0], site, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made PK, KEK and db of %s in %s; keep %[2]s/PK.key and %[2]s/KEK.key somewhere safe\n", site, args[0])
			return nil
		},
	}
	add.Flags().StringVar(&site, "site", "Skein", "the site's name in the certificates")
	cmd.AddCommand(add)
	return cmd
}

func formatNames() string {
	var names []string
	for _, f := range initramfs.Formats {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}
