// Command skeind is the node's program. As the first process of a machine it is PID 1 (package pid1), which
// runs the same binary again as the agent.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/skein-os/skein/agent/job/worker"
	"github.com/skein-os/skein/agent/pid1"
)

// Exit codes, the same as of every Skein program.
const (
	done   = 0
	failed = 1
	usage  = 2
)

// version is set by the linker (-X main.version=...).
var version = "development"

func main() {
	if worker.Called(os.Args) { // the first process too, but of a container
		os.Exit(worker.Main())
	}
	if os.Getpid() == 1 {
		pid1.Run(pid1.Config{})
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	const help = `skeind is the node's program of Skein. It is started by the kernel of a node, as its first process.

Usage:
  skeind agent       the cluster part of a node, started by PID 1
  skeind --version   print the version
`
	if len(args) != 1 {
		fmt.Fprint(stderr, help)
		return usage
	}
	switch args[0] {
	case "agent":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		if err := agentMain(ctx); err != nil {
			fmt.Fprintf(stderr, "skeind agent: %v\n", err)
			return failed
		}
		return done
	case "-v", "--version", "version":
		fmt.Fprintf(stdout, "skeind %s\n", version)
		return done
	case "-h", "--help", "help":
		fmt.Fprint(stdout, help)
		return done
	default:
		fmt.Fprintf(stderr, "skeind: unknown command %q\n\n%s", args[0], help)
		return usage
	}
}
