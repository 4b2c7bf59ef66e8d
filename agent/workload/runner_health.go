package workload

import (
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// firstCheck is when a started container is checked for the first time. Until it is healthy for the first
// time the wait doubles from here up to the interval: a service that takes over is in use as soon as it
// can be, not an interval later.
const firstCheck = 100 * time.Millisecond

// health is the health of one run of a container. It is a value: next gives the following one.
type health struct {
	healthy  bool // was healthy, and has not failed Retries times since
	failures int  // in a row, those that count
	early    time.Duration
}

// next takes the result of a check that was made when the container had run for ran. unhealthy is
// final: the container has to be restarted.
func (h health) next(c *cluster.HealthCheck, ok bool, ran time.Duration) (_ health, unhealthy bool) {
	if ok {
		return health{healthy: true}, false
	}
	// Before it was ever healthy, failures in the start period do not count; nor do those before the
	// first interval is over, for in Docker, whose rules these are, there is no check yet at that time.
	if !h.healthy && ran < max(c.StartPeriod, c.Interval) {
		return h, false
	}
	h.failures++
	return h, h.failures >= max(c.Retries, 1)
}

// wait is how long to wait for the next check.
func (h *health) wait(c *cluster.HealthCheck, ran time.Duration) time.Duration {
	if h.healthy {
		return c.Interval
	}
	limit := c.Interval
	if c.StartInterval > 0 && ran < c.StartPeriod {
		limit = min(limit, c.StartInterval)
	}
	if h.early = max(2*h.early, firstCheck); h.early > limit {
		h.early = limit
	}
	return h.early
}

// checks gives the health check of a service, with defaults for what is not set; nil if it has none.
func checks(s *cluster.Service) *cluster.HealthCheck {
	if s.Health == nil || healthCommand(s.Health.Test) == nil {
		return nil
	}
	c := *s.Health
	if c.Interval <= 0 {
		c.Interval = 30 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	if c.Retries <= 0 {
		c.Retries = 3
	}
	return &c
}

// healthCommand is what to run in the container; nil for none.
func healthCommand(test []string) []string {
	switch {
	case len(test) < 2 || test[0] == "NONE":
		return nil
	case test[0] == "CMD-SHELL":
		return []string{"/bin/sh", "-c", test[1]}
	case test[0] == "CMD":
		return test[1:]
	}
	return nil
}
