// Command skein is the operator's tool: it builds images, runs a cluster of virtual machines on a
// laptop, and talks to a cluster. One file a verb.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev"

// Exit codes that scripts depend on.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// usageError is a mistake in how the command was called, told apart by exit code 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// exitError carries the exit code of a command that was run on the user's behalf (skein exec).
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("command ended with exit code %d", e.code) }

func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var exit *exitError
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage) || isCobraUsage(err):
		fmt.Fprintf(os.Stderr, "skein: %v\nSee '%s --help'.\n", err, cmd.CommandPath())
		return exitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "skein: interrupted")
		return exitFailed
	default:
		fmt.Fprintf(os.Stderr, "skein: %v\n", err)
		return exitFailed
	}
}

// isCobraUsage: cobra has no type for an unknown command.
func isCobraUsage(err error) bool { return strings.HasPrefix(err.Error(), "unknown command") }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "skein",
		Short: "Machines that become one computer and close the gap when one falls out",
		Long: `skein talks to a Skein cluster, builds its images and runs one on your laptop.

  skein lab up            a three-node cluster of virtual machines
  skein status            the cluster at a glance
  skein deploy -f compose.yaml shop
  skein ps                what runs where, and why there
  skein events -f         what happens, and why
  skein why web           why a service or a node is as it is
  skein plan --what-if "off n2"`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.PersistentFlags().String("context", "", "which cluster to talk to (see 'skein context ls'; default: the current one, or $SKEIN_CONTEXT)")
	root.PersistentFlags().String("endpoint", "", "ask this node, HOST[:PORT], and no other (default: whichever of the context's answers)")
	root.AddCommand(statusCommand(), nodeCommand(), deployCommand(), scaleCommand(), rollbackCommand(), lsCommand(), psCommand(), logsCommand(),
		execCommand(), rmCommand(), eventsCommand(), whyCommand(), planCommand(), decisionsCommand(), replayCommand(),
		fenceCommand(), sanCommand(), diskCommand(), volumeCommand(), sharedCommand(), clusterCommand(), netCommand(), netbootCommand(), imageCommand(), runCommand(), arrayCommand(), mapCommand(), jobCommand(), contextCommand(), userCommand(), registryCommand(), labCommand())
	// A wrong number of arguments is wrong usage, whatever the command.
	walk(root, func(c *cobra.Command) {
		if check := c.Args; check != nil {
			c.Args = func(cmd *cobra.Command, args []string) error {
				if err := check(cmd, args); err != nil {
					return &usageError{err}
				}
				return nil
			}
		}
	})
	return root
}

func walk(c *cobra.Command, fn func(*cobra.Command)) {
	fn(c)
	for _, sub := range c.Commands() {
		walk(sub, fn)
	}
}
