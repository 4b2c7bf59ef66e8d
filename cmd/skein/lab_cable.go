package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/daemon"
)

func labCableCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cable [NODE IFACE SWITCH]", Short: "Show what is plugged in where, or plug a cable of a machine into another switch",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 3 {
				return errors.New("say which machine, which interface and which switch, or nothing to see all cables")
			}
			return nil
		},
		Long: `cable plugs an interface of a machine into another switch, as somebody in a hurry does: the carrier goes and comes
back, and the interface keeps its address. eth0 belongs into sw-a, eth1 into sw-b; 'heal' puts all back. Without arguments
it lists the sockets of the switches, and what the machines say there by LLDP. 'skein net ls' is how the cluster sees it.`,
		Example:           "  skein lab cable\n  skein lab cable n3 eth1 sw-a\n  skein lab heal",
		ValidArgsFunction: completeCable,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 3 {
				if err := oneOf("interface", args[1], "eth0", "eth1"); err != nil {
					return err
				}
				return labCall(cmd, daemon.Call{Op: daemon.OpCable, Node: args[0], Interface: args[1], Switch: args[2]})
			}
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			list, err := c.Cables(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("SWITCH", "PORT", "MACHINE", "SAYS")
				for _, s := range list {
					for _, c := range s.Cables {
						t.row(s.Switch, c.Socket, c.Machine, joined(c.Says))
					}
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func labMTUCommand() *cobra.Command {
	return &cobra.Command{
		Use: "mtu NODE IFACE BYTES", Short: "Have a switch drop larger packets of a machine's interface without a word", Args: cobra.ExactArgs(3),
		Long: `mtu is a switch whose port was not told that packets are large: those of more than BYTES vanish in both directions,
and small ones, heartbeats among them, pass. 0 ends it, and so does 'heal'.`,
		Example:           "  skein lab mtu n3 eth0 1400\n  skein lab mtu n3 eth0 0",
		ValidArgsFunction: completeCable,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("interface", args[1], "eth0", "eth1"); err != nil {
				return err
			}
			mtu, err := strconv.Atoi(args[2])
			if err != nil || mtu < 0 {
				return &usageError{fmt.Errorf("%q: must be a number of bytes, 0 for no limit", args[2])}
			}
			return labCall(cmd, daemon.Call{Op: daemon.OpMTU, Node: args[0], Interface: args[1], MTU: mtu})
		},
	}
}

func completeCable(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 1:
		return []string{"eth0", "eth1"}, cobra.ShellCompDirectiveNoFileComp
	case 2:
		if cmd.Name() == "mtu" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for lan := range qemu.LANs {
			names = append(names, qemu.SwitchName(lan))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return completeMachines(0)(cmd, args, word)
}
