package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/qemu/probe"
)

// watch is the client outside: it asks every address again and again, as `skein lab probe` does.
type watch struct {
	ctx  context.Context
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	list []AddressResult
	fast *asking
	rest *asking // nil: not yet

	mu    sync.Mutex
	last  map[string]time.Time // start of the newest request that was answered
	fresh chan struct{}        // closed and replaced at each answer
}

// asking is one client for each address, at one pace.
type asking struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	every   time.Duration
	reports []*probe.Report // by address; read when running is done
}

// watch begins to ask.
func (c *chaos) watch(ctx context.Context, addrs []string) *watch {
	w := &watch{ctx: ctx, dial: c.lab.dial, last: map[string]time.Time{}, fresh: make(chan struct{})}
	for _, a := range addrs {
		w.list = append(w.list, AddressResult{Address: a})
	}
	w.fast = w.ask(c.every)
	return w
}

func (w *watch) ask(every time.Duration) *asking {
	ctx, stop := context.WithCancel(w.ctx)
	q := &asking{stop: stop, every: every, reports: make([]*probe.Report, len(w.list))}
	for i, a := range w.list {
		q.running.Go(func() {
			begin := time.Now()
			// It fails for a URL that cannot be read only.
			q.reports[i], _ = probe.Run(ctx, probe.Config{URL: "http://" + a.Address + "/", Every: every, Dial: w.dial, OnResult: func(r probe.Result) {
				if r.Err == nil {
					w.note(a.Address, begin.Add(r.Start))
				}
			}})
		})
	}
	return q
}

// slow asks at another pace from now on. For a moment both ask, so that no gap is cut in two.
func (w *watch) slow(ctx context.Context, every time.Duration) error {
	w.rest = w.ask(every)
	err := sleep(ctx, 4*every)
	w.fast.stop()
	w.fast.running.Wait()
	return err
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
		for _, a := range w.list {
			all = all && w.last[a.Address].After(fault.Add(after))
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
	for _, q := range []*asking{w.fast, w.rest} {
		if q == nil {
			continue
		}
		q.stop()
		q.running.Wait()
	}
	list := append([]AddressResult(nil), w.list...)
	for i := range list {
		list[i].add(w.fast.reports[i], 0)
		if w.rest != nil {
			// A pause of the client itself is no outage.
			list[i].add(w.rest.reports[i], 2*w.rest.every)
		}
	}
	return list
}

// add takes what one client saw; a gap of no more than least counts for nothing.
func (a *AddressResult) add(r *probe.Report, least time.Duration) {
	if r == nil {
		return
	}
	if r.LongestGapMs > float64(least)/float64(time.Millisecond) {
		a.OutageMs = max(a.OutageMs, r.LongestGapMs)
	}
	a.Requests += r.Requests
	a.Failed += r.Failed
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
