package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/skein-os/skein/agent"
	"github.com/skein-os/skein/agent/pid1/control"
)

// agentMain runs the agent until ctx ends or something without which a node is no use fails.
func agentMain(ctx context.Context) error {
	conn, err := control.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	// Some libraries print (goiscsi), without an end of the line that the log's next one would need. What they have to say
	// is in the errors that they return.
	out := os.Stdout
	if os.Stdout, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		return err
	}
	return agent.Run(ctx, agent.Options{
		Version: version, PID1: conn,
		Crash: func(err error) {
			fmt.Fprintf(os.Stderr, "skeind agent: %v\n", err)
			os.Exit(failed)
		},
		Output: out, Log: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
}
