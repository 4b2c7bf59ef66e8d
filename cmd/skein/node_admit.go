package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// admitCommands are about machines that ask to join.
func admitCommands() []*cobra.Command {
	pending := &cobra.Command{
		Use: "pending", Short: "List the machines that ask to join and wait for you", Args: cobra.NoArgs,
		Long: `pending lists machines that were started with nothing but the fingerprint of the cluster's CA ('skein cluster ca').
What is listed of a machine is what it says of itself. Only its code is proof: compare it with the machine's
console, and approve it.`,
		Example: "  skein node pending\n  skein node approve 7K2QM-4XN0V",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			p, err := c.Pending(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, p, func(t *table) { drawPending(t, p) })
		},
	}
	addOutputFlag(pending)
	var name string
	approve := &cobra.Command{
		Use: "approve NODE|CODE", Short: "Admit a machine that asks to join", Args: cobra.ExactArgs(1),
		Long: `approve admits the machine with this code, once. Compare the code with the one on the machine's console: another
machine, or somebody in between, has another one. By a name it works if one machine asks by that name.`,
		Example: "  skein node approve 7K2QM-4XN0V\n  skein node approve 7K2QM-4XN0V --name n4",
		RunE: func(cmd *cobra.Command, args []string) error {
			return decide(cmd, api.Decision{Machine: args[0], Approve: true, Name: name})
		},
	}
	approve.Flags().StringVar(&name, "name", "", "what to call the node (default: as it asks)")
	deny := &cobra.Command{
		Use: "deny NODE|CODE", Short: "Turn down a machine that asks to join, or take back an approval", Args: cobra.ExactArgs(1),
		Example: "  skein node deny 7K2QM-4XN0V",
		RunE: func(cmd *cobra.Command, args []string) error {
			return decide(cmd, api.Decision{Machine: args[0]})
		},
	}
	return []*cobra.Command{pending, approve, deny, allowCommand()}
}

func drawPending(t *table, p api.Pending) {
	t.row("CODE", "NAME", "WAITING", "FROM", "MAC", "UUID", "SERIAL", "MODEL")
	for _, a := range p.Applicants {
		var macs []string
		for _, l := range a.Links {
			macs = append(macs, l.MAC)
		}
		t.row(a.Code, a.Name, a.Waiting.Round(time.Second), a.From, joined(macs), a.MachineID, orDash(a.Serial), orDash(a.Model))
	}
	for _, a := range p.Applicants {
		if a.Note != "" {
			t.row("  note: " + a.Code + " " + a.Note)
		}
	}
	if len(p.Verdicts) > 0 {
		t.blank()
		t.row("CODE", "DECIDED", "BY", "AT", "TO BE")
		for _, v := range p.Verdicts {
			what := "denied"
			if v.Approved {
				what = "approved, has not come since"
			}
			t.row(v.Code, what, v.By, v.At.Format(time.DateTime), orDash(v.Name))
		}
	}
	for _, u := range p.Unasked {
		t.row("  not asked: " + u)
	}
}

func decide(cmd *cobra.Command, d api.Decision) error {
	c, err := client(cmd)
	if err != nil {
		return err
	}
	a, err := c.Decide(cmd.Context(), d)
	if err != nil {
		return err
	}
	what := "denied"
	if d.Approve {
		what = "approved"
	}
	if a.Name == "" {
		fmt.Fprintf(cmd.OutOrStdout(), "the code %s is %s; no machine with it is known to wait now: it counts when one asks\n", a.Code, what)
		return nil
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s (%s, %s) is %s\n", a.Name, a.Code, a.From, what)
	if d.Approve {
		if a.Note != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "note: it %s\n", a.Note)
		}
		fmt.Fprintln(cmd.OutOrStdout(), "'skein node ls' shows when it has joined")
	}
	return nil
}

const allowLong = `A machine on this list is admitted without being asked about when it says that it has the MAC address, serial number
or UUID. That proves nothing: whoever is on the wire can say the same, and is a member then, with all that a member
can read. It is for closed networks where nobody else can plug in a machine, and for machines that reboot unattended
and keep no key. Elsewhere approve machines by their code.`

func allowCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "allow", Short: "Machines that are admitted without being asked about (closed networks only)", Long: allowLong,
		Example: "  skein node allow add mac 52:54:00:12:34:56\n  skein node allow ls\n  skein node allow rm mac 52:54:00:12:34:56"}
	ls := &cobra.Command{
		Use: "ls", Short: "Show the list", Args: cobra.NoArgs, Example: "  skein node allow ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Allowed(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("KIND", "VALUE", "BY", "SINCE")
				for _, a := range list {
					t.row(a.Kind, a.Value, a.By, a.At.Format(time.DateTime))
				}
			})
		},
	}
	addOutputFlag(ls)
	change := func(verb, short, done string, on bool) *cobra.Command {
		return &cobra.Command{
			Use: verb + " mac|serial|uuid VALUE", Short: short, Long: allowLong, Args: cobra.ExactArgs(2),
			ValidArgs: []string{cluster.AllowMAC, cluster.AllowSerial, cluster.AllowUUID},
			Example:   "  skein node allow " + verb + " mac 52:54:00:12:34:56\n  skein node allow " + verb + " serial CZJ1234ABC",
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := client(cmd)
				if err != nil {
					return err
				}
				if err := c.Allow(cmd.Context(), args[0], args[1], on); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", args[0], args[1], done)
				return nil
			},
		}
	}
	cmd.AddCommand(change("add", "Put a machine on the list", "is on the list; anybody on the wire can claim it", true), ls,
		change("rm", "Take a machine off the list; a member stays one", "is off the list", false))
	return cmd
}

// clusterCACommand prints what a machine needs to ask.
func clusterCACommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "The words for the kernel's command line of a machine that is to ask to join", Args: cobra.NoArgs,
		Long: `ca prints the fingerprint of the cluster's CA and the members' addresses as words for a kernel's command line
('skein netboot serve --cmdline', or a boot loader's entry). Nothing of it is secret. A machine that is started with
them shows a code on its console and waits for 'skein node approve'. Without skein.join= it listens for members on
its networks.`,
		Example: "  skein cluster ca",
		RunE: func(cmd *cobra.Command, _ []string) error {
			pin, err := clusterPin(cmd)
			if err != nil {
				return err
			}
			return show(cmd, pin, func(t *table) { t.row(pin.Words()) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// clusterPin is the pin of the context's cluster, with the addresses of its nodes.
func clusterPin(cmd *cobra.Command) (admission.Pin, error) {
	var pin admission.Pin
	cc, err := chosenContext(cmd)
	if err != nil {
		return pin, err
	}
	if pin.CA, err = caFingerprint(cc.CA); err != nil {
		return pin, err
	}
	c, err := cc.client()
	if err != nil {
		return pin, err
	}
	st, err := c.Status(cmd.Context())
	if err != nil {
		return pin, err
	}
	for _, n := range st.Nodes {
		if len(n.Addresses) == 0 || n.State == cluster.NodeLost {
			continue
		}
		a, _, _ := strings.Cut(n.Addresses[0], "/")
		if net.ParseIP(a) != nil && len(pin.Join) < 3 {
			pin.Join = append(pin.Join, a)
		}
	}
	return pin, nil
}

func caFingerprint(caPEM string) (string, error) {
	b, _ := pem.Decode([]byte(caPEM))
	if b == nil {
		return "", errors.New("the context holds no readable CA certificate")
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return "", fmt.Errorf("CA of the context: %w", err)
	}
	return pki.KeyHash(cert.PublicKey)
}
