package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/qemu/probe"
)

// watch is the client outside: it asks every address again and again, as `skein lab probe` does.
type watch struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	ended   []AddressResult

	mu    sync.Mutex
	last  map[string]time.Time // start of the newest request that was answered
	fresh chan struct{}        // closed and replaced at each answer
}

// watch begins to ask.
func (c *chaos) watch(ctx context.Context, addrs []string) *watch {
	ctx, stop := context.WithCancel(ctx)
	w := &watch{stop: stop, ended: make([]AddressResult, len(addrs)), last: map[string]time.Time{}, fresh: make(chan struct{})}
	for i, a := range addrs {
		w.ended[i].Address = a
		w.running.Go(func() {
			begin := time.Now()
			report, err := probe.Run(ctx, probe.Config{URL: "http://" + a + "/", Every: c.every, Dial: c.lab.dial, OnResult: func(r probe.Result) {
				if r.Err == nil {
					w.note(a, begin.Add(r.Start))
				}
			}})
			if err != nil {
				return // only a URL that cannot be read
			}
			w.ended[i].OutageMs, w.ended[i].Requests, w.ended[i].Failed = report.LongestGapMs, report.Requests, report.Failed
		})
	}
	return w
}

func (w *watch) note(addr string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at.After(w.last[addr]) {
		w.last[addr] = at
		close(w.fresh)
		w.fresh = make(chan struct{})
	}
}

// answered waits until every address has answered a request that was made after a while had passed since the fault:
// what was under way when it came is not meant. It gives up after a limit.
func (w *watch) answered(ctx context.Context, fault time.Time, limit time.Duration) {
	const after = 600 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		w.mu.Lock()
		fresh, all := w.fresh, true
		for i := range w.ended {
			all = all && w.last[w.ended[i].Address].After(fault.Add(after))
		}
		w.mu.Unlock()
		if all {
			return
		}
		select {
		case <-fresh:
		case <-ctx.Done():
			return
		}
	}
}

// end stops asking and tells what there was. It may be called again.
func (w *watch) end() []AddressResult {
	w.stop()
	w.running.Wait()
	return w.ended
}

// bad: something was not as it must be.
func (r *Result) bad() bool {
	return r.Failure != "" || len(r.Violations) > 0 || len(r.False) > 0 || len(r.Disagree) > 0
}

// line is the step for people.
func (r *Result) line() string {
	var b strings.Builder
	if r.Calm > 0 {
		fmt.Fprintf(&b, "%s with %g%% loss and %g ms jitter:", r.Calm.Round(time.Second), r.LossPercent, r.JitterMs)
	} else {
		fmt.Fprintf(&b, "%3d %-22s", r.Step, r.Kind)
	}
	for _, f := range r.Faults {
		what := f.Node
		if r.Kind == TwoAtOnce {
			what = string(f.Kind) + " " + what
		}
		if len(f.Roles) > 0 {
			what += " (" + strings.Join(f.Roles, ", ") + ")"
		}
		fmt.Fprintf(&b, " %s", what)
	}
	for _, a := range r.Addresses {
		mark := ""
		if a.Hit {
			mark = "*"
		}
		fmt.Fprintf(&b, " | %s%s %.0f ms", a.Address, mark, a.OutageMs)
	}
	fmt.Fprintf(&b, " | well after %.1f s, load %.1f, others %.0f%%", r.HealthyMs/1000, r.Load1, 100*r.Others)
	for _, x := range []struct {
		what string
		list []string
	}{{"lost", r.Lost}, {"FALSE TAKEOVER", r.False}, {"DISAGREE", r.Disagree}} {
		if len(x.list) > 0 {
			fmt.Fprintf(&b, " | %s: %s", x.what, strings.Join(x.list, "; "))
		}
	}
	if len(r.Violations) > 0 {
		fmt.Fprintf(&b, " | DOUBLE OWNER: %+v", r.Violations)
	}
	if r.Failure != "" {
		fmt.Fprintf(&b, " | FAILED: %s", r.Failure)
	}
	return b.String()
}
