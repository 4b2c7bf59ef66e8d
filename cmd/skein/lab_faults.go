package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/daemon"
)

func labPowerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "power on|off|reset NODE", Short: "Switch a machine on, cut its power, or press its reset button", Args: cobra.ExactArgs(2),
		Long:    "power off is the cable pulled out: the machine gets to say no goodbye. All it held in memory is lost.",
		Example: "  skein lab power off n2\n  skein lab power on n2",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []string{"on", "off", "reset"}, cobra.ShellCompDirectiveNoFileComp
			}
			return completeMachines(1)(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("power", args[0], "on", "off", "reset"); err != nil {
				return err
			}
			op := map[string]daemon.Op{"on": daemon.OpPowerOn, "off": daemon.OpPowerOff, "reset": daemon.OpReset}[args[0]]
			return labCall(cmd, daemon.Call{Op: op, Node: args[1]})
		},
	}
}

func labFreezeCommand() *cobra.Command {
	var clock string
	cmd := &cobra.Command{
		Use: "freeze NODE", Short: "Make a machine stand still", Args: cobra.ExactArgs(1),
		Long: `freeze makes a machine stand still until thaw. With its clock running it comes back knowing that time
has passed, as after a stall; with its clock standing it comes back as if nothing had been.`,
		Example:           "  skein lab freeze n2\n  skein lab freeze n2 --clock standing\n  skein lab thaw n2",
		ValidArgsFunction: completeMachines(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("clock", clock, string(qemu.ClockRunning), string(qemu.ClockStanding)); err != nil {
				return err
			}
			return labCall(cmd, daemon.Call{Op: daemon.OpFreeze, Node: args[0], Clock: qemu.Clock(clock)})
		},
	}
	cmd.Flags().StringVar(&clock, "clock", string(qemu.ClockRunning), "the machine's clock meanwhile: running or standing")
	return cmd
}

func labThawCommand() *cobra.Command {
	return &cobra.Command{
		Use: "thaw NODE", Short: "Let a frozen machine go on", Args: cobra.ExactArgs(1),
		Example: "  skein lab thaw n2", ValidArgsFunction: completeMachines(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return labCall(cmd, daemon.Call{Op: daemon.OpThaw, Node: args[0]})
		},
	}
}

func labLinkCommand() *cobra.Command {
	var silent bool
	cmd := &cobra.Command{
		Use: "link NODE IFACE up|down", Short: "Pull a network cable of a machine, or put it in", Args: cobra.ExactArgs(3),
		Long: `link down pulls the cable: the machine sees that it has no carrier. With --silent the carrier stays and
nothing passes any more, as with a switch that hangs; up undoes both. eth0 is on lan0, eth1 on lan1.`,
		Example:           "  skein lab link n1 eth0 down\n  skein lab link n1 eth1 down --silent\n  skein lab link n1 eth0 up",
		ValidArgsFunction: completeMachines(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("link", args[2], "up", "down"); err != nil {
				return err
			}
			if err := oneOf("interface", args[1], "eth0", "eth1"); err != nil {
				return err
			}
			up := args[2] == "up"
			if up && silent {
				return &usageError{fmt.Errorf("--silent goes with down")}
			}
			return labCall(cmd, daemon.Call{Op: daemon.OpLink, Node: args[0], Interface: args[1], Up: up, Silent: silent})
		},
	}
	cmd.Flags().BoolVar(&silent, "silent", false, "leave the carrier up: the machine is not told")
	return cmd
}

func labPartitionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "partition GROUP|GROUP...", Short: "Split the machines into groups that do not hear each other", Args: cobra.MinimumNArgs(1),
		Long: `partition splits both networks. Groups are separated by | (quote it) or by a space, machines in a group
by commas. Machines that are not named form one more group. You reach all of them. 'heal' ends it.`,
		Example: "  skein lab partition 'n1,n2|n3'\n  skein lab partition n1       # n1 alone, the others together\n  skein lab heal",
		RunE: func(cmd *cobra.Command, args []string) error {
			groups, err := parseGroups(args)
			if err != nil {
				return &usageError{err}
			}
			return labCall(cmd, daemon.Call{Op: daemon.OpPartition, Groups: groups})
		},
	}
}

// parseGroups reads "n1,n2|n3" or its parts as separate words.
func parseGroups(args []string) ([][]string, error) {
	var groups [][]string
	for _, g := range strings.Split(strings.Join(args, "|"), "|") {
		var names []string
		for _, n := range strings.Split(g, ",") {
			n = strings.TrimSpace(n)
			if n == "" {
				return nil, fmt.Errorf("partition %q: a group is machines separated by commas, as in 'n1,n2|n3'", strings.Join(args, " "))
			}
			names = append(names, n)
		}
		groups = append(groups, names)
	}
	return groups, nil
}

func labHealCommand() *cobra.Command {
	return &cobra.Command{
		Use: "heal", Short: "Undo every fault of the networks", Args: cobra.NoArgs,
		Long:    "heal ends partitions, loss and delay, and puts all cables in where they belong. Machines that are off or frozen stay so.",
		Example: "  skein lab heal",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return labCall(cmd, daemon.Call{Op: daemon.OpHeal})
		},
	}
}

func labLossCommand() *cobra.Command {
	var call daemon.Call
	var duplicate, corrupt string
	cmd := &cobra.Command{
		Use: "loss PERCENT [NODE [IFACE]]", Short: "Make the networks bad: frames are lost, late, doubled or changed", Args: cobra.RangeArgs(1, 3),
		Long: `loss loses a share of the frames. Without NODE it is of all that any machine sends, so each frame between two
machines is in danger once; of NODE it is what it sends and what it is sent, by both interfaces or by IFACE. All of
the flags are set together: 'loss 0' makes the networks good again. Heartbeats, the ledger and clients suffer alike.
With --seed at 'lab up' the same frames of a port are lost again.`,
		Example: `  skein lab loss 30 --jitter 50ms
  skein lab loss 10% n1 eth0
  skein lab loss 100 n1 --direction out   # it hears, but is not heard
  skein lab loss 1 --duplicate 5 --corrupt 1
  skein lab loss 0`,
		ValidArgsFunction: completeMachines(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			call.Op = daemon.OpImpair
			for _, p := range []struct {
				what, text string
				share      *float64
			}{{"loss", args[0], &call.Loss}, {"--duplicate", duplicate, &call.Duplicate}, {"--corrupt", corrupt, &call.Corrupt}} {
				var err error
				if *p.share, err = parsePercent(p.text); err != nil {
					return &usageError{fmt.Errorf("%s %w", p.what, err)}
				}
			}
			if call.Delay < 0 || call.Jitter < 0 {
				return &usageError{fmt.Errorf("--delay and --jitter cannot be negative")}
			}
			if !cmd.Flags().Changed("delay") {
				call.Delay = call.Jitter // so that the half of the frames is not on time after all
			}
			if len(args) > 1 {
				call.Node = args[1]
			}
			if len(args) > 2 {
				call.Interface = args[2]
				return labImpair(cmd, call)
			}
			return labDirected(cmd, call)
		},
	}
	fl := cmd.Flags()
	fl.DurationVar(&call.Delay, "delay", 0, "time added to each frame (default: as much as --jitter)")
	fl.DurationVar(&call.Jitter, "jitter", 0, "how much the delay varies, up and down; frames overtake each other")
	fl.StringVar(&duplicate, "duplicate", "0", "percent of the frames that come twice")
	fl.StringVar(&corrupt, "corrupt", "0", "percent of the frames in which a bit is wrong")
	addDirectionFlag(cmd, &call.Directions)
	return cmd
}

// parsePercent reads "30" or "30%" as a share of 1.
func parsePercent(text string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(p >= 0 && p <= 100) {
		return 0, fmt.Errorf("%q: must be 0 to 100 percent", text)
	}
	return p / 100, nil
}

func labDelayCommand() *cobra.Command {
	var dirs []string
	var jitter time.Duration
	cmd := &cobra.Command{
		Use: "delay NODE IFACE TIME", Short: "Delay the frames of a machine's interface", Args: cobra.ExactArgs(3),
		Example:           "  skein lab delay n1 eth0 20ms\n  skein lab delay n1 eth0 20ms --jitter 5ms --direction in\n  skein lab delay n1 eth0 0",
		ValidArgsFunction: completeMachines(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := time.ParseDuration(args[2])
			if err != nil || d < 0 || jitter < 0 {
				return &usageError{fmt.Errorf("delay %q: must be a time like 20ms", args[2])}
			}
			return labImpair(cmd, daemon.Call{Op: daemon.OpDelay, Node: args[0], Interface: args[1], Delay: d, Jitter: jitter, Directions: dirs})
		},
	}
	addDirectionFlag(cmd, &dirs)
	cmd.Flags().DurationVar(&jitter, "jitter", 0, "how much the delay varies; frames may overtake each other")
	return cmd
}

func addDirectionFlag(cmd *cobra.Command, dirs *[]string) {
	cmd.Flags().StringSliceVar(dirs, "direction", nil, "only what the machine sends (out) or is sent (in); default: both")
}

func labImpair(cmd *cobra.Command, call daemon.Call) error {
	if err := oneOf("interface", call.Interface, "eth0", "eth1"); err != nil {
		return err
	}
	return labDirected(cmd, call)
}

// labDirected gives an order that is for all interfaces or a known one.
func labDirected(cmd *cobra.Command, call daemon.Call) error {
	for _, d := range call.Directions {
		if err := oneOf("direction", d, "out", "in"); err != nil {
			return err
		}
	}
	return labCall(cmd, call)
}
