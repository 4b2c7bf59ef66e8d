package main

import (
	"context"
	"os"
	"time"

	"github.com/skein-os/skein/agent/api"
)

// waitFor asks for the status until ready says so, and shows what it waits for. An error of a single
// question is part of the wait: the node that was asked may be the one that just died.
func waitFor(ctx context.Context, c *api.Client, ready func(api.Status) (ok bool, waitingFor string)) error {
	p := newProgress(os.Stderr)
	defer p.done()
	for {
		st, err := c.Status(ctx)
		if err == nil {
			ok, what := ready(st)
			if ok {
				return nil
			}
			p.update("waiting: " + what)
		} else {
			p.update("waiting: " + err.Error())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}
