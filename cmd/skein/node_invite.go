package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/seed"
)

const inviteLong = `An invitation is a secret that admits one machine, once, without anybody being asked: for virtual machines that are
started by a program. It is given to the machine in its firmware configuration (fw_cfg ` + seed.FwCfgInvitation + `),
beside the words of 'skein cluster ca' on its kernel's command line. The machine shows it only to a member of the
cluster whose CA it was told. A second machine with the same one waits to be approved, and that is an event.`

func inviteCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "invite", Short: "Admit one machine, once, that shows a secret", Long: inviteLong,
		Example: "  skein node invite add --name n4 --file n4.invitation\n  skein node invite ls\n  skein node invite rm 3f0a"}
	var name, file string
	var life time.Duration
	add := &cobra.Command{
		Use: "add", Short: "Invite a machine; the secret is written into a file", Args: cobra.NoArgs, Long: inviteLong,
		Example: "  skein node invite add --name n4 --for 24h --file n4.invitation\n  qemu-system-x86_64 ... -fw_cfg name=" + seed.FwCfgInvitation + ",file=n4.invitation",
		RunE: func(cmd *cobra.Command, _ []string) error {
			hours := int64((life + time.Hour - 1) / time.Hour)
			c, err := client(cmd)
			if err != nil {
				return err
			}
			raw := make([]byte, 32)
			_, _ = rand.Read(raw) // never fails (crypto/rand)
			secret := hex.EncodeToString(raw)
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = f.WriteString(secret + "\n")
			if err = errors.Join(err, f.Close()); err == nil {
				_, err = c.Invite(cmd.Context(), cluster.HashInvitation(secret), api.NewInvitation{Name: name, Hours: hours})
			}
			if err != nil {
				return errors.Join(err, os.Remove(file))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s holds a secret that admits one machine within %d hours\n", file, hours)
			return nil
		},
	}
	add.Flags().StringVar(&name, "name", "", "what to call the node (default: as it asks)")
	add.Flags().StringVar(&file, "file", "invitation", "where to write the secret; a new file")
	add.Flags().DurationVar(&life, "for", 24*time.Hour, "how long it is good, in whole hours in which the cluster runs")
	ls := &cobra.Command{
		Use: "ls", Short: "List invitations that were not used", Args: cobra.NoArgs, Example: "  skein node invite ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Invitations(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("ID", "NAME", "BY", "SINCE", "UNTIL THE CLUSTER IS")
				for _, i := range list {
					t.row(i.Hash[:min(len(i.Hash), 16)], orDash(i.Name), i.By, i.At.Format(time.DateTime), fmt.Sprintf("%d hours old", i.Until))
				}
			})
		},
	}
	addOutputFlag(ls)
	rm := &cobra.Command{
		Use: "rm ID", Short: "Take an invitation back", Args: cobra.ExactArgs(1), Example: "  skein node invite rm 3f0a9c",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Invitations(cmd.Context())
			if err != nil {
				return err
			}
			var found []string
			for _, i := range list {
				if strings.HasPrefix(i.Hash, args[0]) {
					found = append(found, i.Hash)
				}
			}
			if len(found) != 1 {
				return fmt.Errorf("%d invitations begin with %q; 'skein node invite ls' shows them", len(found), args[0])
			}
			return c.Uninvite(cmd.Context(), found[0])
		},
	}
	cmd.AddCommand(add, ls, rm)
	return cmd
}
