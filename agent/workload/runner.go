package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
)

// Runtime is what the Runner needs of package container.
type Runtime interface {
	Adopt(ctx context.Context) ([]container.Running, error)
	Start(ctx context.Context, in cluster.Instance, restarts int) (container.Running, error)
	Wait(id string) <-chan container.Exit
	Stop(ctx context.Context, id, signal string, grace time.Duration) (container.Exit, error)
	Remove(ctx context.Context, id string) error
	Exec(ctx context.Context, id string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error)
}

// Images makes images ready. Ensure returns when an instance of the image can be started; if it is ready
// already it must return at once, for takeovers wait for it.
type Images interface {
	Ensure(ctx context.Context, ref, digest string) error
}

// Volumes mounts what an instance keeps its data on. Attach is called before each start; Detach before an end is
// reported, since another node may have the disk from then on. Both do nothing for an instance without volumes.
type Volumes interface {
	Attach(ctx context.Context, in cluster.Instance) error
	Detach(ctx context.Context, in cluster.Instance) error
}

// RunnerConfig is what a Runner works with.
type RunnerConfig struct {
	Node    string // this node's name, for Status.Node
	Runtime Runtime
	Images  Images
	Volumes Volumes // nil: an instance with a volume fails
	// Report is called at each change of an instance's status, in order for one instance, at the same
	// time for different ones. It must not block.
	Report func(cluster.Status)
	Log    *slog.Logger
	// Starts is how many instances may start at the same time without good reason; the number of
	// processors if zero.
	Starts int
}

// DefaultStopGrace is used when a service names none.
const DefaultStopGrace = 10 * time.Second

// Runner keeps the instances running that are assigned to this node.
type Runner struct {
	cfg    RunnerConfig
	starts starts

	mu     sync.Mutex
	list   map[string]cluster.Instance
	isSet  bool
	change chan struct{} // one token: the list has changed

	adopted chan struct{}
}

// NewRunner makes a Runner; Run makes it work.
func NewRunner(cfg RunnerConfig) *Runner {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Runner{cfg: cfg, starts: starts{most: cmp.Or(cfg.Starts, runtime.NumCPU())}, change: make(chan struct{}, 1), adopted: make(chan struct{})}
}

// Set says what must run here, completely: what is not in the list is stopped and removed. It returns at
// once and may be called as often as anything changes.
func (r *Runner) Set(instances []cluster.Instance) {
	list := make(map[string]cluster.Instance, len(instances))
	for _, in := range instances {
		list[in.ID] = in
	}
	r.mu.Lock()
	r.list, r.isSet = list, true
	r.mu.Unlock()
	select {
	case r.change <- struct{}{}:
	default:
	}
}

// Adopted is closed when Run has looked through all containers that an earlier agent left.
func (r *Runner) Adopted() <-chan struct{} { return r.adopted }

// Run works until ctx ends, and then leaves all containers running. It returns only when no goroutine of
// it is left.
func (r *Runner) Run(ctx context.Context) error {
	adopted, err := r.cfg.Runtime.Adopt(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		// Those that could not be adopted must not keep the others from being looked after.
		r.cfg.Log.Error("not all containers could be taken over", "err", err)
	}
	close(r.adopted)
	found := map[string]*container.Running{}
	for i := range adopted {
		found[adopted[i].Instance.ID] = &adopted[i]
	}
	var lives sync.WaitGroup
	defer lives.Wait()
	live := map[string]*life{}
	ended := make(chan string)
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-ended:
			delete(live, id)
		case <-r.change:
		}
		r.mu.Lock()
		list, isSet := r.list, r.isSet
		r.mu.Unlock()
		if !isSet {
			continue
		}
		start := func(in cluster.Instance, found *container.Running, wanted bool) {
			l := &life{cfg: &r.cfg, starts: &r.starts, in: in, found: found, gone: make(chan struct{}), started: func() {}}
			l.wanted, l.stop = context.WithCancel(ctx)
			if urgent(&in.Spec) && found == nil {
				l.started = r.starts.begin() // here, so that all others find it counted
			}
			live[in.ID] = l
			l.tell(in.Stop, !wanted)
			lives.Go(func() {
				l.run(ctx)
				select {
				case ended <- in.ID:
				case <-ctx.Done():
				}
			})
		}
		ids := slices.SortedFunc(maps.Keys(list), func(a, b string) int {
			x, y := list[a], list[b]
			return cmp.Or(len(y.Spec.Floating)-len(x.Spec.Floating), cmp.Compare(a, b))
		})
		for _, id := range ids {
			in := list[id]
			if l := live[id]; l != nil {
				l.tell(in.Stop, false)
				continue
			}
			start(in, found[id], true)
			delete(found, id)
		}
		for id, l := range live {
			if _, ok := list[id]; !ok {
				l.tell(false, true)
			}
		}
		for id, run := range found { // of an earlier agent, and no longer wanted
			start(run.Instance, run, false)
			delete(found, id)
		}
	}
}

// life is one instance on this node, from its assignment to its removal.
type life struct {
	cfg    *RunnerConfig
	starts *starts
	in     cluster.Instance
	found  *container.Running // what an earlier agent left of it
	// started ends the start that is under way, for others that wait.
	started func()
	// wanted ends, by stop, when it must be stopped; gone is closed when it must also be removed.
	wanted   context.Context
	stop     context.CancelFunc
	gone     chan struct{}
	vanished bool // gone is closed; only Run touches it

	status cluster.Status
}

func (l *life) tell(stop, gone bool) {
	if stop || gone {
		l.stop()
	}
	if gone && !l.vanished {
		l.vanished = true
		close(l.gone)
	}
}

func (l *life) report(state cluster.InstanceState, message string) {
	l.status.ID, l.status.Node = l.in.ID, l.cfg.Node
	l.status.State, l.status.Message = state, message
	l.cfg.Report(l.status)
}

// run lives the instance's life. It returns when the instance is removed, or with ctx.
func (l *life) run(ctx context.Context) {
	defer l.stop()
	l.attempts(l.wanted)
	l.started()
	if ctx.Err() != nil {
		return
	}
	if !l.status.State.Ended() {
		l.end(ctx)
	}
	// What is complete or failed keeps its log until nobody wants it any more.
	select {
	case <-l.gone:
		l.persist(ctx, "remove", func() error { return l.cfg.Runtime.Remove(ctx, l.in.ID) })
	case <-ctx.Done():
	}
}

// end stops the container, if there is one, and reports it stopped. It does not give up: an instance that
// is reported stopped may be started elsewhere.
func (l *life) end(ctx context.Context) {
	grace := l.in.Spec.StopGrace
	if grace <= 0 {
		grace = DefaultStopGrace
	}
	message := ""
	l.persist(ctx, "stop", func() error {
		l.report(cluster.InstanceStopping, message)
		e, err := l.cfg.Runtime.Stop(ctx, l.in.ID, l.in.Spec.StopSignal, grace)
		switch {
		case err == nil:
			message = e.String()
			l.status.ExitCode = e.Code
		case errors.Is(err, container.ErrNotFound) || errors.Is(err, container.ErrNotRunning):
			err = nil
		}
		if err == nil {
			err = l.detach(ctx)
		}
		if err != nil {
			message = err.Error()
		}
		return err
	})
	if ctx.Err() == nil {
		l.report(cluster.InstanceStopped, message)
	}
}

// persist tries until it works or ctx ends.
func (l *life) persist(ctx context.Context, what string, try func() error) {
	for n := 0; ; n++ {
		err := try()
		if err == nil || ctx.Err() != nil {
			return
		}
		l.cfg.Log.Error("instance: will try again", "what", what, "id", l.in.ID, "err", err)
		if !sleep(ctx, backOff(minRestartDelay, n)) {
			return
		}
	}
}

// attempts runs the instance again and again, as its restart policy says, until it is complete or failed
// or ctx ends.
func (l *life) attempts(ctx context.Context) {
	restarts := 0
	for first := true; ; first = false {
		var end ending
		var why string
		var code int
		switch {
		case ctx.Err() != nil:
			return
		case first && l.found != nil && l.found.Exit != nil:
			restarts = l.found.Restarts
			l.show(*l.found)
			// How long it ran is not known any more; it ended without us, so count it in full.
			end, why, code = ending{ok: l.found.Exit.OK()}, l.found.Exit.String(), l.found.Exit.Code
		case first && l.found != nil:
			restarts = l.found.Restarts
			l.show(*l.found)
			end, why, code = l.attend(ctx, *l.found, true)
		default:
			end, why, code = l.attempt(ctx, restarts)
		}
		if ctx.Err() != nil {
			return
		}
		end.restarts = restarts
		v := afterExit(l.in.Spec.Mode, l.in.Spec.Restart, end)
		restarts = v.restarts
		l.status.Restarts, l.status.ExitCode = restarts, code
		if v.state.Ended() {
			l.persist(ctx, "unmount", func() error { return l.detach(ctx) })
			if ctx.Err() != nil {
				return
			}
		}
		switch v.state {
		case cluster.InstanceFailed:
			if n := l.in.Spec.Restart.MaxAttempts; n > 0 && l.in.Spec.Restart.Condition != "none" {
				why = fmt.Sprintf("%s; given up after %d restarts", why, n)
			}
			l.report(v.state, why)
			return
		case cluster.InstanceComplete:
			l.report(v.state, why)
			return
		}
		l.report(v.state, fmt.Sprintf("%s; next try in %s", why, v.delay))
		if !sleep(ctx, v.delay) {
			return
		}
	}
}

// show puts what the runtime knows into the status.
func (l *life) show(run container.Running) {
	l.status.Address, l.status.Started, l.status.Restarts = run.Address, run.Started, run.Restarts
}

// attempt prepares, starts and attends the instance once.
func (l *life) attempt(ctx context.Context, restarts int) (end ending, why string, code int) {
	l.report(cluster.InstancePreparing, "")
	if err := l.cfg.Images.Ensure(ctx, l.in.Spec.Image, l.in.Spec.ImageDigest); err != nil {
		return ending{}, err.Error(), 0
	}
	if !urgent(&l.in.Spec) {
		l.started = l.starts.wait(ctx)
	}
	defer func() { l.started() }()
	if err := l.attach(ctx); err != nil {
		return ending{}, err.Error(), 0
	}
	run, err := l.cfg.Runtime.Start(ctx, l.in, restarts)
	if err != nil {
		return ending{}, err.Error(), 0
	}
	l.show(run)
	return l.attend(ctx, run, false)
}

func (l *life) attach(ctx context.Context) error {
	switch {
	case len(l.in.Spec.Volumes)+len(l.in.Spec.Shares) == 0:
		return nil
	case l.cfg.Volumes == nil:
		return errors.New("this node has no volumes")
	}
	return l.cfg.Volumes.Attach(ctx, l.in)
}

func (l *life) detach(ctx context.Context) error {
	if len(l.in.Spec.Volumes) == 0 || l.cfg.Volumes == nil {
		return nil
	}
	return l.cfg.Volumes.Detach(ctx, l.in)
}

// attend looks after a running container until it ends, is found unhealthy and was stopped, or ctx ends.
// A container that was adopted counts as healthy until it is found not to be: an agent's restart must not
// take a service out of use.
func (l *life) attend(ctx context.Context, run container.Running, adopted bool) (end ending, why string, code int) {
	began := time.Now()
	if adopted {
		began = began.Add(-max(0, time.Since(run.Started)))
	}
	exited := l.cfg.Runtime.Wait(l.in.ID)
	check := checks(&l.in.Spec)
	h := health{healthy: adopted}
	var next <-chan time.Time
	if check == nil || adopted {
		l.started()
		l.report(cluster.InstanceRunning, "")
	} else {
		l.report(cluster.InstanceStarting, "")
	}
	if check != nil {
		next = time.After(h.wait(check, 0))
	}
	// The result of a check comes while exits and stops are still listened to.
	results := make(chan error, 1)
	checking, stopChecks := context.WithCancel(ctx)
	var busy sync.WaitGroup
	defer busy.Wait()
	defer stopChecks()
	var asked time.Time
	for {
		select {
		case <-ctx.Done():
			return ending{}, "", 0
		case e, ok := <-exited:
			if !ok {
				e = container.Exit{Code: -1}
			}
			return ending{ok: e.OK(), ran: time.Since(began)}, e.String(), e.Code
		case <-next:
			next, asked = nil, time.Now()
			busy.Go(func() { results <- l.check(checking, check) })
		case err := <-results:
			ran := asked.Sub(began)
			wasHealthy := h.healthy
			var unhealthy bool
			h, unhealthy = h.next(check, err == nil, ran)
			if h.healthy && !wasHealthy {
				l.started()
				l.cfg.Log.Info("instance is healthy", "id", l.in.ID, "after", time.Since(began).Round(time.Millisecond))
				l.report(cluster.InstanceRunning, "")
			}
			if !unhealthy {
				next = time.After(h.wait(check, ran))
				continue
			}
			why = fmt.Sprintf("unhealthy: %v (%d times in a row)", err, h.failures)
			l.report(cluster.InstanceUnhealthy, why)
			grace := l.in.Spec.StopGrace
			if grace <= 0 {
				grace = DefaultStopGrace
			}
			e, err := l.cfg.Runtime.Stop(ctx, l.in.ID, l.in.Spec.StopSignal, grace)
			if err != nil && !errors.Is(err, container.ErrNotRunning) && ctx.Err() == nil {
				l.cfg.Log.Error("unhealthy instance cannot be stopped; it is watched on", "id", l.in.ID, "err", err)
				h = health{}
				next = time.After(check.Interval)
				continue
			}
			return ending{ran: time.Since(began)}, why, e.Code
		}
	}
}

// check makes the health check once.
func (l *life) check(ctx context.Context, c *cluster.HealthCheck) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if probes(c.Test) {
		return probe(ctx, c.Test, l.status.Address)
	}
	out := &firstBytes{max: 200}
	code, err := l.cfg.Runtime.Exec(ctx, l.in.ID, healthCommand(c.Test), nil, out, out)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the check did not end within %s", c.Timeout)
	case err != nil:
		return err
	case code != 0:
		return fmt.Errorf("the check exited with code %d: %q", code, out.String())
	}
	return nil
}

// firstBytes keeps the beginning of what is written, for a message.
type firstBytes struct {
	mu   sync.Mutex
	data []byte
	max  int
}

func (b *firstBytes) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p[:min(len(p), b.max-len(b.data))]...)
	return len(p), nil
}

func (b *firstBytes) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.data)
}

// sleep waits, and tells whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
