package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/qemu/bmc"
	"github.com/skein-os/skein/qemu/daemon"
)

func labBMCCommand() *cobra.Command {
	var modes []string
	for _, m := range bmc.Modes {
		modes = append(modes, string(m))
	}
	return &cobra.Command{
		Use: "bmc NODE " + strings.Join(modes, "|"), Short: "Make a machine's power controller work, lie, hang, refuse or be slow", Args: cobra.ExactArgs(2),
		Long: `Every machine has a power controller (Redfish), by which the cluster switches it off when it is lost. It has
a supply of its own: it answers while its machine is off. lie: it takes every order, obeys none, and reads
on. hang: it never answers. refuse: it answers with an error. slow: it answers late, and the power goes late.`,
		Example: "  skein lab bmc n2 lie\n  skein lab bmc n2 ok",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return modes, cobra.ShellCompDirectiveNoFileComp
			}
			return completeMachines(0)(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("bmc", args[1], modes...); err != nil {
				return err
			}
			return labCall(cmd, daemon.Call{Op: daemon.OpBMC, Node: args[0], Mode: bmc.Mode(args[1])})
		},
	}
}

// labClusterClient talks to the lab's cluster, whatever the current context is.
func labClusterClient() (*api.Client, error) {
	f, err := readContexts()
	if err != nil {
		return nil, err
	}
	c, ok := f.Contexts[labContext]
	if !ok {
		return nil, errors.New("the lab has no cluster")
	}
	return c.client()
}

// setLabBMCs tells the cluster the power controllers of the lab's machines, or of some of them. A restored
// lab has new ones.
func setLabBMCs(ctx context.Context, c *api.Client, dir string, only ...string) error {
	list, err := daemon.NewClient(dir).BMCs(ctx)
	if err != nil {
		return fmt.Errorf("power controllers of the machines: %w", err)
	}
	for _, b := range list {
		if len(only) > 0 && !slices.Contains(only, b.Node) {
			continue
		}
		req := api.BMCRequest{Password: b.Password, Ahead: true, BMC: cluster.BMC{
			Node: b.Node, Driver: cluster.DriverRedfish, Addresses: b.Addresses, User: b.User, Fingerprint: b.Fingerprint}}
		if err := setBMC(ctx, c, req); err != nil {
			return fmt.Errorf("power controller of %s: %w", b.Node, err)
		}
	}
	return nil
}

// setBMC sets one, again when the ledger was just changing hands.
func setBMC(ctx context.Context, c *api.Client, req api.BMCRequest) error {
	for {
		_, err := c.SetBMC(ctx, req)
		var refused *api.ResponseError
		if err == nil || errors.As(err, &refused) && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusConflict {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}
