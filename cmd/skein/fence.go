package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

func fenceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fence", Short: "Proof that lost nodes are off",
		Long: `A service whose safety is power runs elsewhere only when there is proof that the machine it ran on is off:
its power controller reads off (L2, 'skein node bmc'), its watchdog has reset it (L3, 'skein fence watchdog'), the
machine is back in a new boot, or an operator says so (L4). What is behind a floating address needs the end of a lease only (L1).`,
		Example: "  skein fence ls\n  skein fence confirm n2"}
	ls := &cobra.Command{
		Use: "ls", Short: "What can prove each node's end, and what came of it last", Args: cobra.NoArgs,
		Example: "  skein fence ls\n  skein fence ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Fences(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) { drawFences(t, list) })
		},
	}
	addOutputFlag(ls)
	cmd.AddCommand(ls, fenceConfirmCommand(), fenceWatchdogCommand())
	return cmd
}

func drawFences(t *table, list []api.FenceStatus) {
	t.row("NODE", "STATE", "LEVELS", "LAST", "BY", "WHEN", "WHAT CAME OF IT")
	for _, f := range list {
		if f.Last == nil {
			t.row(f.Node, f.State, joined(f.Levels), "-", "-", "-", "-")
			continue
		}
		last := fmt.Sprintf("%s %s", f.Last.Level, f.Last.State)
		if f.Last.BootID != f.BootID {
			last += " (an earlier boot)"
		}
		t.row(f.Node, f.State, joined(f.Levels), last, f.Last.By, f.Last.Changed.Local().Format(time.DateTime), orDash(f.Last.Text))
	}
}

func fenceConfirmCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "confirm NODE", Short: "Give your word that a lost node is off", Args: cobra.ExactArgs(1),
		Long: `confirm is your word, with your name in the events, that the machine of a lost node is off: its services
run elsewhere at once, those whose safety is power too. Look at the machine first. If it still runs, two
machines may write the same data. It is refused while the node's heartbeats are heard.`,
		Example:           "  skein fence confirm n2\n  skein fence confirm n2 --yes",
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				fmt.Fprintf(cmd.ErrOrStderr(), "If the machine of %s is still on, its services may run twice. Type its name again to confirm that it is off: ", args[0])
				line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
				if strings.TrimSpace(line) != args[0] {
					return errors.Join(fmt.Errorf("nothing was done: %q is not %q", strings.TrimSpace(line), args[0]), ignoreEOF(err))
				}
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			f, err := c.ConfirmOff(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s counts as off (boot %.8s): %s\n", f.Node, f.BootID, f.Text)
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for the name again")
	return cmd
}

func nodeBMCCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bmc", Short: "Power controllers of nodes, by which lost ones are switched off",
		Long: `With a power controller (Redfish or IPMI) a lost node is switched off, and its power read back, before
services whose safety is power run elsewhere. The password is kept among the cluster's secrets: no command
shows it, but every node can read it.`,
		Example: "  skein node bmc set n2 --address 192.0.2.7 --user admin --fingerprint SHA256 --password-file -\n  skein node bmc test n2"}
	var showBMC, test *cobra.Command
	showBMC = &cobra.Command{
		Use: "show NODE", Short: "A node's power controller, without its password", Args: cobra.ExactArgs(1), ValidArgsFunction: completeNodes,
		Example: "  skein node bmc show n2 -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			b, err := c.BMC(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return show(cmd, b, func(t *table) {
				t.row("NODE", "DRIVER", "ADDRESSES", "USER", "AFTER", "FINGERPRINT")
				t.row(b.Node, b.Driver, joined(b.Addresses), b.User, b.After, orDash(b.Fingerprint))
			})
		},
	}
	test = &cobra.Command{
		Use: "test NODE", Short: "Read a node's power by its controller; nothing is changed", Args: cobra.ExactArgs(1), ValidArgsFunction: completeNodes,
		Example: "  skein node bmc test n2",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.TestBMC(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := show(cmd, list, func(t *table) {
				t.row("ADDRESS", "FROM", "POWER", "TOOK", "ERROR")
				for _, r := range list {
					t.row(r.Address, r.From, orDash(r.Power), time.Duration(r.TookMS)*time.Millisecond, orDash(r.Error))
				}
			}); err != nil {
				return err
			}
			for _, r := range list {
				if r.Error == "" {
					return nil
				}
			}
			return fmt.Errorf("the power controller of %s cannot be used", args[0])
		},
	}
	addOutputFlag(showBMC)
	addOutputFlag(test)
	cmd.AddCommand(nodeBMCSetCommand(), showBMC, test, &cobra.Command{
		Use: "rm NODE", Short: "Forget a node's power controller", Args: cobra.ExactArgs(1), ValidArgsFunction: completeNodes,
		Example: "  skein node bmc rm n2",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return c.RemoveBMC(cmd.Context(), args[0])
		},
	})
	return cmd
}

func nodeBMCSetCommand() *cobra.Command {
	var req api.BMCRequest
	var driver, after, passwordFile string
	cmd := &cobra.Command{
		Use: "set NODE", Short: "Tell by which power controller a node is switched off", Args: cobra.ExactArgs(1), ValidArgsFunction: completeNodes,
		Example: `  skein node bmc set n2 --address 192.0.2.7 --user admin --fingerprint 3fe0... --password-file pw
  pass bmc/n2 | skein node bmc set n2 --driver ipmi --address 192.0.2.7 --user admin --password-file -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if passwordFile == "" {
				return &usageError{errors.New("--password-file is needed: a file, or - for the standard input")}
			}
			password, err := readSecret(cmd, passwordFile)
			if err != nil {
				return err
			}
			req.Node, req.Password = args[0], password
			req.Driver, req.After = cluster.BMCDriver(driver), cluster.PowerAfter(after)
			c, err := client(cmd)
			if err != nil {
				return err
			}
			b, err := c.SetBMC(cmd.Context(), req)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is switched off by %s at %s when it is lost; 'skein node bmc test %s' tries it\n", b.Node, b.Driver, joined(b.Addresses), b.Node)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&req.Addresses, "address", nil, "IP address of the controller, with a port if it is not the usual one; again for another way to it")
	fl.StringVar(&req.User, "user", "", "user of the controller")
	fl.StringVar(&passwordFile, "password-file", "", "file with the password, - for the standard input")
	fl.StringVar(&req.Fingerprint, "fingerprint", "", "SHA-256 of the controller's certificate, in hex (Redfish)")
	fl.StringVar(&driver, "driver", string(cluster.DriverRedfish), "redfish or ipmi")
	fl.StringVar(&req.System, "system", "", "path of the machine, if the Redfish service manages several")
	fl.StringVar(&after, "after", string(cluster.AfterOn), "what becomes of a machine that ran until it was fenced: on (started again) or off")
	fl.BoolVar(&req.Ahead, "ahead", false, "the node has not joined yet")
	_ = cmd.RegisterFlagCompletionFunc("driver", cobra.FixedCompletions([]string{"redfish", "ipmi"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("after", cobra.FixedCompletions([]string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
