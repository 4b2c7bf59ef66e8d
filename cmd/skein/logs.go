package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
)

func logsCommand() *cobra.Command {
	var follow bool
	var tail int
	cmd := &cobra.Command{
		Use: "logs SERVICE|INSTANCE", Short: "Print what a service writes", Args: cobra.ExactArgs(1),
		Example: "  skein logs demo/web\n  skein logs -f --tail 10 web",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, instances, err := instancesOf(cmd, args[0])
			if err != nil {
				return err
			}
			return printLogs(cmd.Context(), c, instances, follow, tail, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing what comes")
	cmd.Flags().IntVar(&tail, "tail", -1, "only the last N lines of what is kept")
	return cmd
}

// instancesOf finds what the user named, and the client to ask it with.
func instancesOf(cmd *cobra.Command, name string) (*api.Client, []api.InstanceStatus, error) {
	c, err := client(cmd)
	if err != nil {
		return nil, nil, err
	}
	st, err := c.Status(cmd.Context())
	if err != nil {
		return nil, nil, err
	}
	instances, err := findInstances(st, name)
	return c, instances, err
}

// printLogs prints the lines of several instances as they come, each with its instance if there is more
// than one.
func printLogs(ctx context.Context, c *api.Client, instances []api.InstanceStatus, follow bool, tail int, out io.Writer) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, len(instances))
	for i, in := range instances {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = c.Logs(ctx, in.ID, follow, tail, func(l api.LogLine) error {
				mu.Lock()
				defer mu.Unlock()
				if len(instances) > 1 {
					fmt.Fprintf(out, "%s@%s  ", l.Instance, in.Node)
				}
				_, err := fmt.Fprintln(out, l.Line)
				return err
			})
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

func execCommand() *cobra.Command {
	var interactive bool
	cmd := &cobra.Command{
		Use: "exec SERVICE|INSTANCE -- COMMAND...", Short: "Run a command in a container", Args: cobra.MinimumNArgs(2),
		Example: "  skein exec web -- cat /etc/hostname\n  echo hello | skein exec -i demo/web -- cat",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, instances, err := instancesOf(cmd, args[0])
			if err != nil {
				return err
			}
			var stdin io.Reader = eof{}
			if interactive {
				stdin = os.Stdin
			}
			code, err := c.Exec(cmd.Context(), instances[0].ID, args[1:], stdin, os.Stdout, os.Stderr)
			if err != nil {
				return err
			}
			if code != 0 {
				return &exitError{code}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "pass standard input to the command")
	return cmd
}

// eof is an empty standard input.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
