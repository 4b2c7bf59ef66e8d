package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/workload"
)

func deployCommand() *cobra.Command {
	var file string
	var detach bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "deploy -f FILE STACK", Short: "Run the services of a Compose file, or bring them up to date", Args: cobra.ExactArgs(1),
		Long: `deploy makes the stack be what the file says: new services are started, changed ones replaced one
instance at a time, and services that the file no longer has are removed.`,
		Example: "  skein deploy -f compose.yaml shop\n  cat compose.yaml | skein deploy -f - shop",
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return &usageError{fmt.Errorf("which file? give it with -f")}
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return deploy(ctx, c, file, args[0], detach, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the Compose file, - for standard input")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait until the services run")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait until the services run")
	return cmd
}

func deploy(ctx context.Context, c *api.Client, file, stack string, detach bool, out io.Writer) error {
	data, err := readFile(file)
	if err != nil {
		return err
	}
	services, warnings, err := workload.Parse(ctx, file, data, stack, environment())
	for _, w := range warnings {
		fmt.Fprintf(os.Stderr, "warning: %s\n", w)
	}
	if err != nil {
		return err
	}
	res, err := c.Deploy(ctx, stack, services)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		what string
		list []string
	}{{"created", res.Created}, {"updated", res.Updated}, {"unchanged", res.Unchanged}, {"removed", res.Removed}} {
		if len(part.list) > 0 {
			fmt.Fprintf(out, "%s: %s\n", part.what, strings.Join(part.list, ", "))
		}
	}
	if detach {
		return nil
	}
	hashes := map[string]bool{}
	for _, s := range services {
		hashes[s.FullName()] = true
	}
	return awaitServices(ctx, c, hashes, true)
}

// awaitServices waits until the services run as they should, and with updates until those are over, well or not.
func awaitServices(ctx context.Context, c *api.Client, names map[string]bool, updates bool) error {
	var failed []string
	err := waitFor(ctx, c, func(st api.Status) (bool, string) {
		var missing []string
		failed = nil
		for _, s := range st.Services {
			name, u := s.Stack+"/"+s.Name, s.Update
			if !updates {
				u = nil
			}
			switch {
			case !names[name]:
			case u != nil && u.State == cluster.UpdatePaused:
				failed = append(failed, fmt.Sprintf("the update of %s is paused: %s; deploy a version that is mended, or go back with 'skein rollback %[1]s'", name, u.Message))
			case u != nil && u.State.Going():
				missing = append(missing, fmt.Sprintf("%s %s, %d of %d done", name, u.State, u.Done, s.Wanted))
			case u != nil && u.State == cluster.UpdateRolledBack:
				failed = append(failed, fmt.Sprintf("the update of %s was rolled back: %s", name, u.Message))
			case s.Running < s.Wanted:
				missing = append(missing, describeMissing(s))
			}
		}
		return len(missing) == 0, strings.Join(missing, "; ")
	})
	if err == nil && len(failed) > 0 {
		err = errors.New(strings.Join(failed, "; "))
	}
	return err
}

// describeMissing says what a service that is not yet there waits for.
func describeMissing(s api.ServiceStatus) string {
	text := fmt.Sprintf("%s/%s %d/%d", s.Stack, s.Name, s.Running, s.Wanted)
	for _, in := range s.Instances {
		if in.State != "running" {
			text += fmt.Sprintf(" (%s on %s", in.State, in.Node)
			if in.Message != "" {
				text += ": " + in.Message
			}
			return text + ")"
		}
	}
	if len(s.Pending) > 0 {
		text += " (" + s.Pending[0] + ")"
	}
	return text
}

func readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(name)
}

// environment is what ${NAME} in a Compose file is replaced from.
func environment() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}

func rmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm STACK", Short: "Stop and remove all services of a stack", Args: cobra.ExactArgs(1), Example: "  skein rm shop",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			res, err := c.RemoveStack(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "removed: %s\n", strings.Join(res.Removed, ", "))
			return nil
		},
	}
}
