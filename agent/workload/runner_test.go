package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
	"pgregory.net/rapid"
)

func TestAfterExit(t *testing.T) {
	any5 := cluster.Restart{Condition: "any", Delay: time.Second, MaxAttempts: 5, Window: time.Minute}
	for _, c := range []struct {
		name string
		mode cluster.Mode
		r    cluster.Restart
		e    ending
		want verdict
	}{
		{"service ends well", cluster.ModeReplicated, any5, ending{ok: true}, verdict{cluster.InstanceRestarting, time.Second, 1}},
		{"third time", cluster.ModeReplicated, any5, ending{restarts: 2}, verdict{cluster.InstanceRestarting, 4 * time.Second, 3}},
		{"last attempt", cluster.ModeReplicated, any5, ending{restarts: 5}, verdict{cluster.InstanceFailed, 0, 5}},
		{"ran long before", cluster.ModeReplicated, any5, ending{restarts: 5, ran: time.Minute}, verdict{cluster.InstanceRestarting, time.Second, 1}},
		{"never gives up", cluster.ModeGlobal, cluster.Restart{Delay: time.Second}, ending{restarts: 1000}, verdict{cluster.InstanceRestarting, time.Minute, 1001}},
		{"no delay given", cluster.ModeGlobal, cluster.Restart{}, ending{}, verdict{cluster.InstanceRestarting, minRestartDelay, 1}},
		{"delay longer than the cap", cluster.ModeGlobal, cluster.Restart{Delay: time.Hour}, ending{restarts: 3}, verdict{cluster.InstanceRestarting, time.Hour, 4}},
		{"on-failure, ok", cluster.ModeReplicated, cluster.Restart{Condition: "on-failure"}, ending{ok: true}, verdict{cluster.InstanceComplete, 0, 0}},
		{"none, ok", cluster.ModeReplicated, cluster.Restart{Condition: "none"}, ending{ok: true}, verdict{cluster.InstanceComplete, 0, 0}},
		{"none, not ok", cluster.ModeReplicated, cluster.Restart{Condition: "none"}, ending{}, verdict{cluster.InstanceFailed, 0, 0}},
		{"job, ok", cluster.ModeJob, any5, ending{ok: true, restarts: 2}, verdict{cluster.InstanceComplete, 0, 2}},
		{"job, not ok", cluster.ModeJob, any5, ending{}, verdict{cluster.InstanceRestarting, time.Second, 1}},
	} {
		if got := afterExit(c.mode, c.r, c.e); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestBackOff: never shorter than before, never above the cap, never zero.
func TestBackOff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := time.Duration(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "first"))
		n := rapid.IntRange(0, 100).Draw(t, "restarts")
		a, b := backOff(first, n), backOff(first, n+1)
		if a < minRestartDelay || b < a || b > max(maxRestartDelay, first) {
			t.Fatalf("got %v then %v", a, b)
		}
	})
}

func TestHealth(t *testing.T) {
	c := &cluster.HealthCheck{Interval: 10 * time.Second, StartPeriod: 30 * time.Second, StartInterval: 2 * time.Second, Retries: 3}
	for _, k := range []struct {
		name      string
		h         health
		ok        bool
		ran       time.Duration
		want      health
		unhealthy bool
	}{
		{"first success", health{early: time.Second}, true, time.Second, health{healthy: true}, false},
		{"failure in start period", health{}, false, 29 * time.Second, health{}, false},
		{"failure after start period", health{}, false, 30 * time.Second, health{failures: 1}, false},
		{"failure in start period, but was healthy", health{healthy: true}, false, 3 * time.Second, health{healthy: true, failures: 1}, false},
		{"third failure", health{healthy: true, failures: 2}, false, time.Hour, health{healthy: true, failures: 3}, true},
		{"success clears", health{healthy: true, failures: 2}, true, time.Hour, health{healthy: true}, false},
	} {
		got, unhealthy := k.h.next(c, k.ok, k.ran)
		if got != k.want || unhealthy != k.unhealthy {
			t.Errorf("%s: got %+v, %v, want %+v, %v", k.name, got, unhealthy, k.want, k.unhealthy)
		}
	}
	var h health
	var waits []time.Duration
	for ran := time.Duration(0); ran < time.Minute; {
		w := h.wait(c, ran)
		waits, ran = append(waits, w), ran+w
	}
	if got, want := fmt.Sprint(waits[:6]), "[1s 2s 2s 2s 2s 2s]"; got != want {
		t.Errorf("got waits %s, want %s", got, want)
	}
	if got, want := waits[len(waits)-1], c.Interval; got != want {
		t.Errorf("after the start period: got wait %v, want %v", got, want)
	}
}

// fakeRuntime is a machine whose containers do as the test says.
type fakeRuntime struct {
	mu       sync.Mutex
	boxes    map[string]*fakeBox
	log      []string
	began    time.Time
	startErr error
	// behave is called when a container starts; what it returns ends it after the time, unless negative.
	behave func(id string, n int) (after time.Duration, e container.Exit)
	check  func(id string, argv []string) (int, error)
	deaf   bool // containers pay no attention to signals
}

type fakeBox struct {
	run     container.Running
	starts  int
	running bool
	waiters []chan container.Exit
}

func newFakeRuntime() *fakeRuntime {
	return &fakeRuntime{boxes: map[string]*fakeBox{}, began: time.Now(),
		behave: func(string, int) (time.Duration, container.Exit) { return -1, container.Exit{} }}
}

func (f *fakeRuntime) note(format string, args ...any) {
	f.log = append(f.log, fmt.Sprintf("%v ", time.Since(f.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (f *fakeRuntime) Adopt(context.Context) ([]container.Running, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []container.Running
	for _, b := range f.boxes {
		out = append(out, b.run)
	}
	return out, nil
}

func (f *fakeRuntime) Start(ctx context.Context, in cluster.Instance, restarts int) (container.Running, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.startErr != nil {
		f.note("start %s: %v", in.ID, f.startErr)
		return container.Running{}, f.startErr
	}
	b := f.boxes[in.ID]
	if b == nil {
		b = &fakeBox{}
		f.boxes[in.ID] = b
	}
	if b.running {
		return container.Running{}, container.ErrRunning
	}
	b.starts++
	b.running = true
	b.run = container.Running{Instance: in, PID: 100*len(f.boxes) + b.starts, Address: netip.MustParseAddr("10.80.1.2"), Started: time.Now(), Restarts: restarts}
	f.note("start %s", in.ID)
	if after, e := f.behave(in.ID, b.starts); after >= 0 {
		n := b.starts
		time.AfterFunc(after, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if b.running && b.starts == n {
				f.exit(b, e)
			}
		})
	}
	return b.run, nil
}

func (f *fakeRuntime) exit(b *fakeBox, e container.Exit) {
	b.running, b.run.Exit = false, &e
	f.note("exit %s: %s", b.run.Instance.ID, e)
	for _, w := range b.waiters {
		w <- e
	}
	b.waiters = nil
}

func (f *fakeRuntime) Wait(id string) <-chan container.Exit {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan container.Exit, 1)
	switch b := f.boxes[id]; {
	case b == nil:
		close(ch)
	case !b.running:
		ch <- *b.run.Exit
	default:
		b.waiters = append(b.waiters, ch)
	}
	return ch
}

func (f *fakeRuntime) Stop(ctx context.Context, id, signal string, grace time.Duration) (container.Exit, error) {
	f.mu.Lock()
	b := f.boxes[id]
	if b == nil || !b.running {
		f.mu.Unlock()
		return container.Exit{}, container.ErrNotRunning
	}
	f.note("stop %s", id)
	e := container.Exit{}
	if f.deaf {
		f.mu.Unlock()
		time.Sleep(grace)
		f.mu.Lock()
		e.Signal = 9
	}
	f.exit(b, e)
	f.mu.Unlock()
	return e, nil
}

func (f *fakeRuntime) Remove(ctx context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.boxes[id]; b != nil && b.running {
		return container.ErrRunning
	}
	f.note("remove %s", id)
	delete(f.boxes, id)
	return nil
}

func (f *fakeRuntime) Exec(ctx context.Context, id string, argv []string, _ io.Reader, stdout, _ io.Writer) (int, error) {
	f.mu.Lock()
	check := f.check
	f.mu.Unlock()
	return check(id, argv)
}

type fakeImages func(ref string) error

func (f fakeImages) Ensure(_ context.Context, ref, _ string) error { return f(ref) }

// bench is a Runner on a fake runtime in a bubble of virtual time.
type bench struct {
	t        *testing.T
	runtime  *fakeRuntime
	runner   *Runner
	mu       sync.Mutex
	statuses []string
	cancel   context.CancelFunc
	done     chan struct{}
	images   fakeImages
}

func newBench(t *testing.T, rt *fakeRuntime) *bench {
	b := &bench{t: t, runtime: rt, images: func(string) error { return nil }}
	b.run()
	return b
}

func (b *bench) run() {
	b.runner = NewRunner(RunnerConfig{Node: "n1", Runtime: b.runtime, Images: b.images, Log: slog.New(slog.DiscardHandler),
		Report: func(s cluster.Status) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if s.Node != "n1" {
				b.t.Errorf("got status of node %q", s.Node)
			}
			b.statuses = append(b.statuses, fmt.Sprintf("%s %s", s.ID, s.State))
		}})
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.done = cancel, make(chan struct{})
	go func() {
		defer close(b.done)
		if err := b.runner.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
}

func (b *bench) end() {
	b.cancel()
	<-b.done
}

func (b *bench) want(log, statuses string) {
	b.t.Helper()
	synctest.Wait()
	b.runtime.mu.Lock()
	defer b.runtime.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := strings.Join(b.runtime.log, ", "); got != log {
		b.t.Errorf("got log\n%s, want\n%s", got, log)
	}
	if got := strings.Join(b.statuses, ", "); got != statuses {
		b.t.Errorf("got statuses\n%s, want\n%s", got, statuses)
	}
	b.runtime.log, b.statuses = nil, nil
}

func inst(id string, change ...func(*cluster.Instance)) cluster.Instance {
	in := cluster.Instance{ID: id, Node: "n1", Spec: cluster.Service{Name: id, Image: "demo:1", Mode: cluster.ModeReplicated,
		Restart: cluster.Restart{Condition: "any", Delay: time.Second}}}
	for _, c := range change {
		c(&in)
	}
	return in
}

func TestRunnerLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFakeRuntime())
		defer b.end()
		b.want("", "") // nothing before Set
		a := inst("a")
		b.runner.Set([]cluster.Instance{a})
		b.want("0s start a", "a preparing, a running")
		b.runner.Set([]cluster.Instance{a}) // idempotent
		time.Sleep(time.Hour)
		b.want("", "")
		a.Stop = true
		b.runner.Set([]cluster.Instance{a})
		b.want("1h0m0s stop a, 1h0m0s exit a: exited with code 0", "a stopping, a stopped")
		b.runner.Set(nil)
		b.want("1h0m0s remove a", "")
		b.runner.Set([]cluster.Instance{inst("c")})
		b.want("1h0m0s start c", "c preparing, c running")
		b.runner.Set(nil) // without Stop first
		b.want("1h0m0s stop c, 1h0m0s exit c: exited with code 0, 1h0m0s remove c", "c stopping, c stopped")
	})
}

func TestRunnerRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newFakeRuntime()
		rt.behave = func(string, int) (time.Duration, container.Exit) { return 0, container.Exit{Code: 1} }
		b := newBench(t, rt)
		defer b.end()
		a := inst("a", func(in *cluster.Instance) { in.Spec.Restart.MaxAttempts = 2 })
		b.runner.Set([]cluster.Instance{a})
		time.Sleep(time.Hour)
		b.want("0s start a, 0s exit a: exited with code 1, 1s start a, 1s exit a: exited with code 1, 3s start a, 3s exit a: exited with code 1",
			"a preparing, a running, a restarting, a preparing, a running, a restarting, a preparing, a running, a failed")
		b.runner.Set(nil)
		b.want("1h0m0s remove a", "")
	})
}

func TestRunnerJobCompletesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newFakeRuntime()
		rt.behave = func(_ string, n int) (time.Duration, container.Exit) {
			return time.Second, container.Exit{Code: 2 - n} // the second attempt succeeds
		}
		b := newBench(t, rt)
		a := inst("a", func(in *cluster.Instance) { in.Spec.Mode = cluster.ModeJob })
		b.runner.Set([]cluster.Instance{a})
		time.Sleep(time.Hour)
		b.want("0s start a, 1s exit a: exited with code 1, 2s start a, 3s exit a: exited with code 0",
			"a preparing, a running, a restarting, a preparing, a running, a complete")
		b.end() // a new agent does not run it again
		b.run()
		b.runner.Set([]cluster.Instance{a})
		time.Sleep(time.Hour)
		b.want("", "a complete")
		b.end()
	})
}

func TestRunnerAdopts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newFakeRuntime()
		b := newBench(t, rt)
		b.runner.Set([]cluster.Instance{inst("a"), inst("gone")})
		synctest.Wait()
		b.end()
		if n := len(rt.boxes); n != 2 || !rt.boxes["a"].running {
			t.Fatalf("the end of the runner stopped containers: %v", rt.log)
		}
		rt.log, b.statuses = nil, nil
		b.run()
		synctest.Wait()
		b.want("", "") // the list is not known yet
		b.runner.Set([]cluster.Instance{inst("a")})
		synctest.Wait()
		rt.mu.Lock()
		if got, want := strings.Join(rt.log, ", "), "0s stop gone, 0s exit gone: exited with code 0, 0s remove gone"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		rt.mu.Unlock()
		if b.runtime.boxes["a"].starts != 1 {
			t.Errorf("a was started again")
		}
		b.end()
	})
}

func TestRunnerHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newFakeRuntime()
		rt.deaf = true
		var mu sync.Mutex
		ready := time.Now().Add(time.Second)
		broken := time.Now().Add(time.Minute)
		rt.check = func(id string, argv []string) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(argv) != "[/bin/sh -c true]" {
				t.Errorf("got check %q", argv)
			}
			if time.Now().Before(ready) || time.Now().After(broken) {
				return 1, nil
			}
			return 0, nil
		}
		b := newBench(t, rt)
		defer b.end()
		a := inst("a", func(in *cluster.Instance) {
			in.Spec.StopGrace = 5 * time.Second
			in.Spec.Health = &cluster.HealthCheck{Test: []string{"CMD-SHELL", "true"}, Interval: 10 * time.Second, Timeout: time.Second, Retries: 3}
		})
		b.runner.Set([]cluster.Instance{a})
		time.Sleep(800 * time.Millisecond)
		b.want("0s start a", "a preparing, a starting")
		time.Sleep(time.Second) // healthy at the check after 1.5 s, long before the interval
		b.want("", "a running")
		time.Sleep(50 * time.Second)
		b.want("", "")
		time.Sleep(40 * time.Second)
		b.want("1m21s stop a, 1m26s exit a: killed by SIGKILL, 1m27s start a", "a unhealthy, a restarting, a preparing, a starting")
	})
}

func TestRunnerWithoutImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newFakeRuntime()
		b := &bench{t: t, runtime: rt}
		n := 0
		b.images = func(ref string) error {
			if n++; n < 3 {
				return errors.New("no such image")
			}
			return nil
		}
		b.run()
		defer b.end()
		b.runner.Set([]cluster.Instance{inst("a")})
		time.Sleep(time.Minute)
		b.want("3s start a", "a preparing, a restarting, a preparing, a restarting, a preparing, a running")
	})
}

// TestRunnerNeverTwice drives the Runner with random lists and random deaths, and checks after each step
// that what runs is what was asked for, once.
func TestRunnerNeverTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ids := []string{"a", "b", "c"}
		var steps [][]string
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			steps = append(steps, rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 0, 3, rapid.ID[string]).Draw(rt, "list"))
		}
		deaths := rapid.SliceOfN(rapid.IntRange(-1, 3), 40, 40).Draw(rt, "deaths")
		restarts := rapid.SliceOfN(rapid.Bool(), len(steps), len(steps)).Draw(rt, "agent restarts")
		synctest.Test(t, func(t *testing.T) {
			f := newFakeRuntime()
			n := 0
			f.behave = func(string, int) (time.Duration, container.Exit) {
				n++
				return time.Duration(deaths[n%len(deaths)]) * time.Second, container.Exit{Code: 1}
			}
			b := newBench(t, f)
			for i, want := range steps {
				if restarts[i] {
					b.end()
					b.run()
				}
				var list []cluster.Instance
				for _, id := range want {
					list = append(list, inst(id))
				}
				b.runner.Set(list)
				time.Sleep(time.Duration(i) * 700 * time.Millisecond)
				synctest.Wait()
				f.mu.Lock()
				for id, box := range f.boxes {
					if !strings.Contains(strings.Join(want, " "), id) && box.running {
						t.Errorf("step %d: %s runs, but only %v are wanted", i, id, want)
					}
				}
				f.mu.Unlock()
			}
			// When nothing dies any more, everything that is wanted runs.
			f.mu.Lock()
			f.behave = func(string, int) (time.Duration, container.Exit) { return -1, container.Exit{} }
			f.mu.Unlock()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			f.mu.Lock()
			for _, id := range steps[len(steps)-1] {
				if box := f.boxes[id]; box == nil || !box.running {
					t.Errorf("%s does not run", id)
				}
			}
			f.mu.Unlock()
			b.end()
		})
	})
}
