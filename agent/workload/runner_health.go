package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// firstCheck is when a started container is checked for the first time by a command in it. Until it is healthy
// for the first time the wait doubles from here up to the interval: a service that takes over is in use as
// soon as it can be, not an interval later. Not sooner than this, because a command takes more of the
// processor than many a service needs to start, just when all that a lost node ran starts at once.
const firstCheck = time.Second

// firstProbe is firstCheck for the checks that the node makes itself. They cost next to nothing, so the wait
// is then an eighth of the time since the start: a takeover is at most that much longer than it has to be.
const firstProbe = 20 * time.Millisecond

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
	if probes(c.Test) {
		return min(max(firstProbe, ran/8), limit)
	}
	h.early = min(max(2*h.early, firstCheck), limit)
	return h.early
}

// checks gives the health check of a service, with defaults for what is not set; nil if it has none.
func checks(s *cluster.Service) *cluster.HealthCheck {
	if s.Health == nil || healthCommand(s.Health.Test) == nil && !probes(s.Health.Test) {
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

// probes tells that the check is made by the node over the container's network, and not by a command in
// the container.
func probes(test []string) bool {
	return len(test) == 3 && test[0] == cluster.HealthHTTP || len(test) == 2 && test[0] == cluster.HealthTCP
}

// probe makes such a check: a connection that is taken, and for HTTP an answer with a status below 400.
// Redirects are not followed: they may lead anywhere.
func probe(ctx context.Context, test []string, addr netip.Addr) error {
	if !addr.IsValid() {
		return errors.New("the container has no address to check")
	}
	at := net.JoinHostPort(addr.String(), test[1])
	if test[0] == cluster.HealthTCP {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", at)
		if err != nil {
			return err
		}
		return c.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+test[2], nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "skein-health")
	t := &http.Transport{DisableKeepAlives: true, Proxy: nil}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("GET %s answered %s", test[2], resp.Status)
	}
	return nil
}
