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
	return agent.Run(ctx, agent.Options{
		Version: version, PID1: conn,
		Crash: func(err error) {
			fmt.Fprintf(os.Stderr, "skeind agent: %v\n", err)
			os.Exit(failed)
		},
		Log: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
}
