package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/skein-os/skein/initramfs"
	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/daemon"
	"github.com/skein-os/skein/qemu/san"
)

// LUNs of the lab's storage array if nobody says otherwise: the first is for the cluster disk.
const (
	sanLUNs     = 4
	sanFirstLUN = 768 << 20
	sanOtherLUN = 2 << 30
)

// parseLUNs reads how many LUNs are wanted, or the size of each: "4" or "64M,2G,2G".
func parseLUNs(text string) ([]int64, error) {
	fail := func() ([]int64, error) {
		return nil, fmt.Errorf("--san=%s: must be how many LUNs, 1 to %d, or their sizes, as in 64M,2G,10G", text, san.MaxLUNs)
	}
	if n, err := strconv.Atoi(text); err == nil {
		if n < 1 || n > san.MaxLUNs {
			return fail()
		}
		all := []int64{sanFirstLUN}
		for len(all) < n {
			all = append(all, sanOtherLUN)
		}
		return all, nil
	}
	var all []int64
	for part := range strings.SplitSeq(text, ",") {
		size, err := units.RAMInBytes(part)
		if err != nil || size < 1<<20 || size%(1<<20) != 0 || size > 64<<40 || len(all) == san.MaxLUNs {
			return fail()
		}
		all = append(all, size)
	}
	return all, nil
}

// newSAN is the storage array that --san asks for.
func newSAN(image, luns string, wipe bool) (*qemu.SAN, error) {
	sizes, err := parseLUNs(luns)
	if err != nil {
		return nil, &usageError{err}
	}
	return &qemu.SAN{Initrd: filepath.Join(image, initramfs.SANName), LUNs: sizes, Wipe: wipe}, nil
}

func labSANCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "san", Short: "The lab's storage array, and what can happen to it",
		Long: `A lab that was started with --san has a storage array: a machine that is no node, with the kernel's iSCSI
target, a portal on each network (A on lan0, B on lan1) and LUNs that all nodes may use. Its disks are
files in the lab's folder and stay when the lab ends. It is a machine as others are, called san: 'lab
console', 'link', 'loss', 'delay', 'freeze' and 'power' work on it too.`,
		Example: "  skein lab up --san\n  skein lab san show\n  skein lab san portal A down\n  skein lab san slow 1 --delay 500ms\n  skein lab san power off",
	}
	cmd.AddCommand(labSANShowCommand(), labSANPortalCommand(), labSANSlowCommand(), labSANFastCommand(), labSANLoseCommand(),
		labSANRestartCommand(), labSANPowerCommand(), labSANResizeCommand(), labSANSwitchCommand("lun", "present|withdraw",
			"Give a LUN to the nodes, or take it away from them", san.OpPresent, san.OpWithdraw),
		labSANSwitchCommand("reservations", "allow|deny", "Have LUNs with persistent reservations, or without, as cheap arrays", san.OpAllow, san.OpDeny),
		labSANCHAPCommand())
	return cmd
}

// labSANOrder gives the array an order.
func labSANOrder(cmd *cobra.Command, o san.Order) error {
	return labCall(cmd, daemon.Call{Op: daemon.OpSAN, Order: &o})
}

func labSANShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show", Short: "Its LUNs, portals, sessions and reservations", Args: cobra.NoArgs,
		Example: "  skein lab san show\n  skein lab san show -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			st, err := c.SAN(cmd.Context())
			if err != nil {
				return err
			}
			lab, err := c.State(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, st, func(t *table) { drawSAN(t, st, lab.SAN) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func drawSAN(t *table, st *san.Status, machine *qemu.Status) {
	t.row("LUN", "SIZE", "WWN", "SLOWER BY", "REGISTERED", "HOLDER")
	for _, l := range st.LUNs {
		delay, holder := "-", orDash(l.Holder)
		if l.Delay > 0 {
			delay = l.Delay.String()
		}
		if l.Holder != "" && l.Type != "" {
			holder += " (" + l.Type + ")"
		}
		if l.Unreserved {
			holder = "no reservations"
		}
		if l.Withdrawn {
			holder = "withdrawn"
		}
		t.row(l.Number, bytesText(l.Size), l.WWN, delay, len(l.Registered), holder)
	}
	t.blank()
	t.row("PORTAL", "ADDRESS", "STATE")
	for i, p := range st.Portals {
		state := "open"
		if !p.Open {
			state = "refuses"
		}
		if machine != nil && i < len(machine.Links) {
			if links := linksText(machine.Links[i : i+1]); links != "up" {
				state += ", " + links
			}
		}
		t.row(string(rune('A'+i)), p.Addr, state)
	}
	t.blank()
	t.row("target", san.Target)
	t.row("up", st.Up)
	t.row("sessions", joined(st.Sessions))
	for _, l := range st.LUNs {
		for _, r := range l.Registered {
			t.row(fmt.Sprintf("registered on LUN %d", l.Number), r)
		}
	}
}

// parseSANPortal returns the network of portal A or B.
func parseSANPortal(text string) (int, error) {
	switch strings.ToUpper(text) {
	case "A":
		return 0, nil
	case "B":
		return 1, nil
	}
	return 0, &usageError{fmt.Errorf("portal %q: must be A (on lan0) or B (on lan1)", text)}
}

func labSANPortalCommand() *cobra.Command {
	var refuses bool
	cmd := &cobra.Command{
		Use: "portal A|B down|up", Short: "Take a portal away, or give it back", Args: cobra.ExactArgs(2),
		Long: `portal down is a cable out at the array's switch: nothing comes from the portal any more, and nobody is told.
With --refuse the portal is closed: its connections are reset and new ones refused. up undoes both.`,
		Example:   "  skein lab san portal A down\n  skein lab san portal B down --refuse\n  skein lab san portal A up",
		ValidArgs: []string{"A", "B", "down", "up"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("portal", args[1], "down", "up"); err != nil {
				return err
			}
			lan, err := parseSANPortal(args[0])
			if err != nil {
				return err
			}
			if args[1] == "down" && refuses {
				return labSANOrder(cmd, san.Order{Op: san.OpRefuse, Portal: lan})
			}
			if refuses {
				return &usageError{errors.New("--refuse goes with down")}
			}
			up := args[1] == "up"
			err = labCall(cmd, daemon.Call{Op: daemon.OpLink, Node: san.Machine, Interface: fmt.Sprintf("eth%d", lan), Up: up, Silent: !up})
			if err != nil || !up {
				return err
			}
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			st, err := c.State(cmd.Context())
			if err != nil {
				return err
			}
			if st.SAN == nil || st.SAN.State != qemu.Running {
				return nil // it opens all portals when it starts
			}
			return labSANOrder(cmd, san.Order{Op: san.OpAccept, Portal: lan})
		},
	}
	cmd.Flags().BoolVar(&refuses, "refuse", false, "reset its connections and refuse new ones")
	return cmd
}

// parseLUN reads the LUN of a command that means all if none is given.
func parseLUN(args []string) (int, error) {
	if len(args) == 0 {
		return -1, nil
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 0 || n >= san.MaxLUNs {
		return 0, &usageError{fmt.Errorf("LUN %q: must be a number, as 'skein lab san show' has it", args[0])}
	}
	return n, nil
}

func labSANSlowCommand() *cobra.Command {
	var delay time.Duration
	cmd := &cobra.Command{
		Use: "slow [LUN]", Short: "Make the disks of all LUNs or of one slow", Args: cobra.MaximumNArgs(1),
		Long:    "slow makes every read, write and flush take longer. The network and the target itself stay as fast as they are: a path check still passes.",
		Example: "  skein lab san slow\n  skein lab san slow 1 --delay 5s\n  skein lab san fast",
		RunE: func(cmd *cobra.Command, args []string) error {
			lun, err := parseLUN(args)
			if err != nil {
				return err
			}
			if delay <= 0 || delay > san.MaxDelay {
				return &usageError{fmt.Errorf("--delay %s: must be more than 0 and at most %s; 'skein lab san fast' ends it", delay, san.MaxDelay)}
			}
			return labSANOrder(cmd, san.Order{Op: san.OpSlow, LUN: lun, Delay: delay})
		},
	}
	cmd.Flags().DurationVar(&delay, "delay", 200*time.Millisecond, "how much longer each takes")
	return cmd
}

func labSANFastCommand() *cobra.Command {
	return &cobra.Command{
		Use: "fast [LUN]", Short: "End what slow did", Args: cobra.MaximumNArgs(1),
		Long:    "fast ends what slow did. What is held back goes on its way at once.",
		Example: "  skein lab san fast\n  skein lab san fast 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			lun, err := parseLUN(args)
			if err != nil {
				return err
			}
			return labSANOrder(cmd, san.Order{Op: san.OpSlow, LUN: lun})
		},
	}
}

func labSANLoseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "lose-reservations [LUN]", Short: "Forget the registrations of all LUNs or of one, as a broken array does", Args: cobra.MaximumNArgs(1),
		Long: `The target restarts, and of the LUNs' registrations and reservations nothing is there, although they were to
be kept (APTPL). Whoever was fenced off may write again.`,
		Example: "  skein lab san lose-reservations\n  skein lab san lose-reservations 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			lun, err := parseLUN(args)
			if err != nil {
				return err
			}
			return labSANOrder(cmd, san.Order{Op: san.OpLose, LUN: lun})
		},
	}
}

func labSANRestartCommand() *cobra.Command {
	var machine bool
	cmd := &cobra.Command{
		Use: "restart", Short: "Restart the target, or the whole machine", Args: cobra.NoArgs,
		Long: `restart ends all sessions and starts the target again; that takes a moment. With --machine the machine's reset
button is pressed: portals are dead without a word until it is up again. Registrations with APTPL are kept.`,
		Example: "  skein lab san restart\n  skein lab san restart --machine",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !machine {
				return labSANOrder(cmd, san.Order{Op: san.OpRestart})
			}
			if err := labCall(cmd, daemon.Call{Op: daemon.OpReset, Node: san.Machine}); err != nil {
				return err
			}
			return waitSAN(cmd)
		},
	}
	cmd.Flags().BoolVar(&machine, "machine", false, "press the machine's reset button")
	return cmd
}

func labSANResizeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resize LUN SIZE", Short: "Give a LUN another size, at most the one it was made with", Args: cobra.ExactArgs(2),
		Long:    "resize tells nobody: nodes see the size when they ask for it, as 'skein volume grow' does.",
		Example: "  skein lab san resize 1 1G\n  skein lab san resize 1 2G",
		RunE: func(cmd *cobra.Command, args []string) error {
			lun, err := parseLUN(args[:1])
			if err != nil {
				return err
			}
			size, err := units.RAMInBytes(args[1])
			if err != nil || size < 1<<20 {
				return &usageError{fmt.Errorf("size %q: must be 1M or more, as in 512M or 2G", args[1])}
			}
			return labSANOrder(cmd, san.Order{Op: san.OpResize, LUN: lun, Size: size})
		},
	}
}

// labSANSwitchCommand has what a LUN is or does switched on, or off.
func labSANSwitchCommand(name, words, short string, on, off san.Op) *cobra.Command {
	yes, no, _ := strings.Cut(words, "|")
	return &cobra.Command{
		Use: name + " " + words + " [LUN]", Short: short, Args: cobra.RangeArgs(1, 2), ValidArgs: []string{yes, no},
		Example: fmt.Sprintf("  skein lab san %s %s 1\n  skein lab san %s %s 1", name, no, name, yes),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf(name, args[0], yes, no); err != nil {
				return err
			}
			lun, err := parseLUN(args[1:])
			if err != nil {
				return err
			}
			op := off
			if args[0] == yes {
				op = on
			}
			return labSANOrder(cmd, san.Order{Op: op, LUN: lun})
		},
	}
}

func labSANCHAPCommand() *cobra.Command {
	var user, file string
	cmd := &cobra.Command{
		Use: "chap", Short: "Demand CHAP of who logs in, or of nobody", Args: cobra.NoArgs,
		Long:    "chap demands a user and the secret in a file ('-': the standard input) of who logs in from now on; sessions stay. Without --user, of nobody.",
		Example: "  skein lab san chap --user skein --secret-file secret\n  skein lab san chap",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := san.Order{Op: san.OpCHAP, User: user}
			if (user == "") != (file == "") {
				return &usageError{errors.New("--user and --secret-file go together")}
			}
			if user != "" {
				var err error
				if o.Secret, err = readSecret(cmd, file); err != nil {
					return err
				}
			}
			return labSANOrder(cmd, o)
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "who must log in")
	cmd.Flags().StringVar(&file, "secret-file", "", "file with the secret")
	return cmd
}

func labSANPowerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "power on|off", Short: "Cut its power, or switch it on and wait until it is ready", Args: cobra.ExactArgs(1),
		Example: "  skein lab san power off\n  skein lab san power on", ValidArgs: []string{"on", "off"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("power", args[0], "on", "off"); err != nil {
				return err
			}
			if args[0] == "off" {
				return labCall(cmd, daemon.Call{Op: daemon.OpPowerOff, Node: san.Machine})
			}
			if err := labCall(cmd, daemon.Call{Op: daemon.OpPowerOn, Node: san.Machine}); err != nil {
				return err
			}
			return waitSAN(cmd)
		},
	}
}

// waitSAN waits until the array answers, which it does when its portals are open.
func waitSAN(cmd *cobra.Command) error {
	c, err := labClient(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Minute)
	defer cancel()
	_, err = c.SAN(ctx)
	return err
}
