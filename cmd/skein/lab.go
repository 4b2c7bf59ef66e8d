package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/daemon"
)

// labInfo is what is known of a lab whose machines have just been started.
type labInfo struct {
	Dir         string    // the lab's folder
	Proxy       string    // host:port on loopback, SOCKS5 and HTTP
	Cluster     string    // its name
	OperatorKey string    // file with the operator's private key, PEM
	Nodes       []labNode // by number
	Demo        string    // folder of the demo to deploy, empty: none
	Restored    bool      // the machines carry on from a save
	// Dial reaches the machines by name or address, through the proxy.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Progress tells the user what is being waited for.
	Progress func(string)
}

type labNode struct {
	Name      string
	Addresses []string // on lan0 and lan1
}

// labAfterUp makes a cluster of machines that run; nil: they are only started.
var labAfterUp func(context.Context, *labInfo) error

// Names of folders and files below the lab's folder.
const labSaves = "saves"

func labCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lab", Short: "Run a cluster of virtual machines on this computer, and break it",
		Long: `The lab is a cluster on your own computer, without root: virtual machines, two Ethernet switches and a
proxy on localhost that reaches every machine (as n1, n2, ...) and every floating address. Everything
that can happen to a cluster is a command.`,
		Example: `  skein lab up --nodes 3
  skein lab ps
  curl -x $(skein lab ps -o json | jq -r .proxy) http://n1/
  skein lab probe http://10.77.9.1/ --for 30s &
  skein lab power off n2
  skein lab down`,
	}
	cmd.PersistentFlags().String("dir", "", "folder of the lab, one for each lab that runs at the same time\n(default: $SKEIN_LAB_DIR, or skein/lab in the state folder)")
	cmd.AddCommand(labUpCommand(), labDownCommand(), labPsCommand(), labAddCommand(), labPowerCommand(), labFreezeCommand(), labThawCommand(),
		labLinkCommand(), labCableCommand(), labMTUCommand(), labPartitionCommand(), labHealCommand(), labLossCommand(), labDelayCommand(), labBMCCommand(), labConsoleCommand(), labLogsCommand(), labOwnersCommand(), labWritersCommand(),
		labProbeCommand(), labPlayCommand(), labSANCommand(), labSaveCommand(), labSavesCommand(), labDaemonCommand())
	return cmd
}

// labDir is the folder of the lab that the command means.
func labDir(cmd *cobra.Command) (string, error) {
	dir, _ := cmd.Flags().GetString("dir")
	if dir == "" {
		dir = os.Getenv("SKEIN_LAB_DIR")
	}
	if dir == "" {
		state := os.Getenv("XDG_STATE_HOME")
		if state == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("find the state folder (or give --dir): %w", err)
			}
			state = filepath.Join(home, ".local", "state")
		}
		dir = filepath.Join(state, "skein", "lab")
	}
	return filepath.Abs(dir)
}

func labClient(cmd *cobra.Command) (*daemon.Client, error) {
	dir, err := labDir(cmd)
	if err != nil {
		return nil, err
	}
	return daemon.NewClient(dir), nil
}

// labCall gives one order to the lab.
func labCall(cmd *cobra.Command, call daemon.Call) error {
	c, err := labClient(cmd)
	if err != nil {
		return err
	}
	return c.Call(cmd.Context(), call)
}

// completeMachines offers the names of the machines for the argument with the given index.
func completeMachines(index int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := labClient(cmd)
		if err != nil || len(args) != index {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		st, err := c.State(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, m := range st.Machines {
			names = append(names, m.Name)
		}
		if st.SAN != nil {
			names = append(names, st.SAN.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// oneOf refuses an argument that is none of the allowed words.
func oneOf(what, got string, allowed ...string) error {
	for _, a := range allowed {
		if got == a {
			return nil
		}
	}
	return &usageError{fmt.Errorf("%s %q: must be %s", what, got, strings.Join(allowed, " or "))}
}

func labDownCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the lab and all its machines", Args: cobra.NoArgs,
		Long:    "down ends the lab. What its machines held in memory is gone; saves, consoles and logs stay. It is no error if no lab is up.",
		Example: "  skein lab down",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			if err := c.Down(ctx); errors.Is(err, daemon.ErrDown) {
				fmt.Fprintln(cmd.ErrOrStderr(), "no lab is up")
				return nil
			} else if err != nil {
				return err
			}
			return nil
		},
	}
}

func labPsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ps", Short: "The machines of the lab and what is done to them", Args: cobra.NoArgs,
		Example: "  skein lab ps\n  skein lab ps -o json | jq -r .proxy",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			st, err := c.State(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, st, func(t *table) {
				t.row("MACHINE", "STATE", "UP", "ADDRESSES", "LINKS")
				machines := st.Machines
				if st.SAN != nil {
					machines = append(machines, *st.SAN)
				}
				for _, m := range machines {
					state, up := string(m.State), "-"
					if m.Clock != "" {
						state += ", clock " + string(m.Clock)
					}
					if !m.Started.IsZero() {
						up = time.Since(m.Started).Round(time.Second).String()
					}
					t.row(m.Name, state, up, joined(m.Addresses), linksText(m.Links))
				}
				t.blank()
				t.row("proxy", st.Proxy+" (HTTP), "+st.SOCKS)
				t.row("machines run by", string(st.Accel.Kind)+": "+st.Accel.Reason)
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// linksText tells what is wrong with a machine's links, "up" if nothing is.
func linksText(links []qemu.LinkStatus) string {
	var all []string
	for _, l := range links {
		s := l.Interface + " " + l.State
		for _, f := range []struct{ what, value string }{{"loss out", l.LossOut}, {"loss in", l.LossIn}, {"delay out", l.DelayOut}, {"delay in", l.DelayIn}, {"out", l.OtherOut}, {"in", l.OtherIn}} {
			if f.value != "" {
				s += ", " + f.what + " " + f.value
			}
		}
		if l.Switch != "" {
			s += ", plugged into " + l.Switch
		}
		if l.Group != 0 {
			s += fmt.Sprintf(", partition %d", l.Group)
		}
		if s != l.Interface+" up" {
			all = append(all, s)
		}
	}
	if all == nil {
		return "up"
	}
	return strings.Join(all, "; ")
}

func labConsoleCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "console NODE", Short: "What a machine printed on its console, with the time of each line", Args: cobra.ExactArgs(1),
		Example:           "  skein lab console n1\n  skein lab console n1 -f",
		ValidArgsFunction: completeMachines(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			return c.Console(cmd.Context(), args[0], follow, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what it prints from now on")
	return cmd
}

func labLogsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs", Short: "The lab's timeline: what was done to the machines and what they did", Args: cobra.NoArgs,
		Example: "  skein lab logs\n  skein lab logs -f -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := wantsJSON(cmd)
			if err != nil {
				return err
			}
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			return c.Events(cmd.Context(), follow, func(e qemu.Event) error {
				if asJSON {
					return writeJSONLine(cmd.OutOrStdout(), e)
				}
				who := e.Node
				if who == "" {
					who = "lab"
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %-6s %-10s %s\n", e.Time.Local().Format("15:04:05.000"), who, e.Kind, e.Text)
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens from now on")
	addOutputFlag(cmd)
	return cmd
}

// labDaemonCommand is what `lab up` starts; it is not for people.
func labDaemonCommand() *cobra.Command {
	return &cobra.Command{
		Use: "daemon", Hidden: true, Args: cobra.NoArgs, Short: "Own a lab's machines (started by 'skein lab up')",
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The terminal that started the lab may close.
			signal.Ignore(syscall.SIGHUP)
			return daemon.Run(cmd.Context(), os.Stdin, os.Stdout, labLogger())
		},
	}
}
