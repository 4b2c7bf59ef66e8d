package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
)

func lsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls [STACK]", Short: "List services", Args: cobra.MaximumNArgs(1), Example: "  skein ls\n  skein ls shop -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := statusOf(cmd, args)
			if err != nil {
				return err
			}
			return show(cmd, st.Services, func(t *table) { drawServices(t, st) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func psCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ps [STACK]", Short: "List instances: what runs where, and why there", Args: cobra.MaximumNArgs(1),
		Example: "  skein ps\n  skein ps shop -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := statusOf(cmd, args)
			if err != nil {
				return err
			}
			list := []api.InstanceStatus{}
			for _, s := range st.Services {
				list = append(list, s.Instances...)
			}
			return show(cmd, list, func(t *table) {
				t.row("INSTANCE", "NODE", "STATE", "EPOCH", "RESTARTS", "ADDRESS", "WHY")
				for _, in := range list {
					why := in.Reason
					if in.Message != "" {
						why = in.Message
					}
					t.row(in.ID, in.Node, in.State, in.Epoch, in.Restarts, orDash(in.Address), why)
				}
				for _, s := range st.Services {
					for _, p := range s.Pending {
						t.row(s.Stack+"/"+s.Name, "-", "pending", "-", "-", "-", p)
					}
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

// statusOf is the status, of one stack only if one is named.
func statusOf(cmd *cobra.Command, args []string) (api.Status, error) {
	c, err := client(cmd)
	if err != nil {
		return api.Status{}, err
	}
	st, err := c.Status(cmd.Context())
	if err != nil || len(args) == 0 {
		return st, err
	}
	kept := []api.ServiceStatus{}
	for _, s := range st.Services {
		if s.Stack == args[0] {
			kept = append(kept, s)
		}
	}
	if len(kept) == 0 {
		return st, fmt.Errorf("there is no stack %q; 'skein ls' lists them", args[0])
	}
	st.Services = kept
	return st, nil
}

// findInstances finds what the user means by NAME: an instance id, stack/service, or a service name that
// only one stack has.
func findInstances(st api.Status, name string) ([]api.InstanceStatus, error) {
	var found []api.InstanceStatus
	services := map[string]bool{}
	for _, s := range st.Services {
		for _, in := range s.Instances {
			if in.ID == name {
				return []api.InstanceStatus{in}, nil
			}
		}
		if s.Name == name || s.Stack+"/"+s.Name == name {
			services[s.Stack+"/"+s.Name] = true
			found = append(found, s.Instances...)
		}
	}
	switch {
	case len(services) > 1:
		var names []string
		for n := range services {
			names = append(names, n)
		}
		return nil, fmt.Errorf("%q is in several stacks: say which of %s", name, strings.Join(names, ", "))
	case len(services) == 0:
		return nil, fmt.Errorf("there is no service or instance %q; 'skein ps' lists them", name)
	case len(found) == 0:
		return nil, fmt.Errorf("no instance of %s runs now; 'skein ps' tells why", name)
	}
	return found, nil
}
