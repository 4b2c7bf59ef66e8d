package workload

import (
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Bounds of the wait before a restart.
const (
	minRestartDelay = 100 * time.Millisecond // when the service names none: a crash loop must not eat the node
	maxRestartDelay = time.Minute
	// defaultWindow is how long an instance must run for its restarts to count as forgotten, when the
	// service names no window.
	defaultWindow = 30 * time.Second
)

// ending is how one attempt to run an instance ended.
type ending struct {
	ok       bool          // it exited by itself, with 0
	ran      time.Duration // how long the process ran; 0 if it could not even be started
	restarts int           // restarts in a row before this attempt
}

// verdict is what to do next.
type verdict struct {
	state    cluster.InstanceState // InstanceRestarting, InstanceComplete or InstanceFailed
	delay    time.Duration         // before the next attempt
	restarts int                   // restarts in a row, with the next attempt
}

// afterExit decides what becomes of an instance whose attempt has ended. An attempt that ran longer than
// the window clears what was before it: then this is the first restart.
func afterExit(mode cluster.Mode, r cluster.Restart, e ending) verdict {
	if e.ok && (mode == cluster.ModeJob || r.Condition == "on-failure" || r.Condition == "none") {
		return verdict{state: cluster.InstanceComplete, restarts: e.restarts}
	}
	if r.Condition == "none" {
		return verdict{state: cluster.InstanceFailed, restarts: e.restarts}
	}
	window := r.Window
	if window <= 0 {
		window = defaultWindow
	}
	if e.ran >= window {
		e.restarts = 0
	}
	if r.MaxAttempts > 0 && e.restarts >= r.MaxAttempts {
		return verdict{state: cluster.InstanceFailed, restarts: e.restarts}
	}
	return verdict{state: cluster.InstanceRestarting, delay: backOff(r.Delay, e.restarts), restarts: e.restarts + 1}
}

// backOff is first, doubled for each restart before, up to a minute or first, whichever is longer.
func backOff(first time.Duration, restarts int) time.Duration {
	first = max(first, minRestartDelay)
	limit := max(maxRestartDelay, first)
	d := first
	for range restarts {
		if d *= 2; d >= limit {
			return limit
		}
	}
	return d
}
