package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/pki"
)

const userLong = `A person has one of three roles. A reader sees everything that holds no passwords, and changes nothing. An operator
also deploys, drains and reboots, runs commands in containers and says that a machine is off. An administrator also
adds people, admits and removes nodes, and sets what has a password: power controllers, storage networks.

The ledger decides, not the certificate: who is removed is refused at once, on every node.`

func userCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "People who may use the cluster, and what they may do", Long: userLong,
		Example: "  skein user add ann --role reader\n  skein user ls\n  skein user rm ann"}
	cmd.AddCommand(userAddCommand(), userListCommand(), userRenewCommand(), &cobra.Command{
		Use: "rm NAME", Short: "Take a person's certificates back, at once and on every node", Args: cobra.ExactArgs(1),
		Example: "  skein user rm ann",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			if err := c.RemoveUser(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is no user any more\n", args[0])
			return nil
		},
	})
	return cmd
}

func userListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List people", Args: cobra.NoArgs, Example: "  skein user ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Users(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("NAME", "ROLE", "KEYS", "BY", "SINCE")
				for _, u := range list {
					keys := make([]string, len(u.Keys))
					for i, k := range u.Keys {
						keys[i] = k[:min(len(k), 16)]
					}
					t.row(u.Name, u.Role, joined(keys), u.By, u.Since.Format(time.DateTime))
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func userAddCommand() *cobra.Command {
	var role, out string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Make a certificate for a person, in a file to be given to that person", Args: cobra.ExactArgs(1),
		Long: userLong + `

add writes a file of contexts, which holds the person's private key: hand it over as you would a password. The person
saves it and sets SKEIN_CONFIG to its name. The key is made here and never sent.`,
		Example: "  skein user add ann --role reader\n  skein user add bob --role operator --file bob.json\n  SKEIN_CONFIG=bob.json skein status",
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if out == "" {
				out = name + ".json"
			}
			if !slices.Contains([]string{api.RoleReader, api.RoleOperator, api.RoleAdmin}, role) {
				return &usageError{fmt.Errorf("role %q: must be reader, operator or admin", role)}
			}
			// Before anybody is added: the file must be a new one, and there must be a place for it.
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s is there already: name another one with --file", out)
			}
			if err != nil {
				return err
			}
			err = addUser(cmd, f, name, role)
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return errors.Join(err, os.Remove(out))
			}
			path, err := filepath.Abs(out)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is a user with the role %s; %s holds the private key:\n  SKEIN_CONFIG=%s skein status\n", name, role, out, path)
			return nil
		},
	}
	cmd.Flags().StringVar(&role, "role", api.RoleReader, "reader, operator or admin")
	cmd.Flags().StringVar(&out, "file", "", "where to write the person's context (default: NAME.json)")
	return cmd
}

// addUser makes a key, has it signed and writes the context.
func addUser(cmd *cobra.Command, f *os.File, name, role string) error {
	own, err := chosenContext(cmd)
	if err != nil {
		return err
	}
	c, err := own.client()
	if err != nil {
		return err
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	csr, err := pki.NewCSR(key, name)
	if err != nil {
		return err
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		return err
	}
	signed, err := c.AddUser(cmd.Context(), name, api.NewUser{Role: role, CSR: csr})
	if err != nil {
		return err
	}
	next := own
	next.CA, next.Cert, next.Key = string(signed.CA), string(signed.Cert), string(keyPEM)
	data, err := json.MarshalIndent(contextFile{Current: name, Contexts: map[string]clusterContext{name: next}}, "", "  ")
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	return err
}

func userRenewCommand() *cobra.Command {
	return &cobra.Command{
		Use: "renew", Short: "Have the certificate of the current context signed anew, for another year", Args: cobra.NoArgs,
		Long: `renew needs a certificate that is good still. A year is one of the cluster's age: time in which the cluster
was off does not count.`,
		Example: "  skein user renew",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cc, err := chosenContext(cmd)
			if err != nil {
				return err
			}
			c, err := cc.client()
			if err != nil {
				return err
			}
			key, err := pki.ParseKey([]byte(cc.Key))
			if err != nil {
				return fmt.Errorf("key of the context: %w", err)
			}
			csr, err := pki.NewCSR(key, "renewal")
			if err != nil {
				return err
			}
			signed, err := c.RenewCertificate(cmd.Context(), csr)
			if err != nil {
				return err
			}
			f, err := readContexts()
			if err != nil {
				return err
			}
			for name, have := range f.Contexts {
				if have.Cert == cc.Cert {
					have.Cert = string(signed.Cert)
					f.Contexts[name] = have
				}
			}
			if err := writeContexts(f); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the certificate is renewed")
			return nil
		},
	}
}
