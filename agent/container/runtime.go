package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Config says where and how containers run.
type Config struct {
	Root   string  // folder of all containers' state, on a tmpfs: /run/skein/containers
	Images *Images // where the images are
	Crun   string  // path of crun; /usr/bin/crun by default
	// Cgroup is the parent of all containers' cgroups, below the cgroup v2 mount: /skein.services. Empty:
	// no cgroups and so no limits, for tests on machines that have cgroup v1.
	Cgroup string
	// NoPivot: the root is an initramfs, from which pivot_root is impossible. Weaker; tests only.
	NoPivot bool

	Bridge   string       // skein0; it must exist when a container is started
	Subnet   netip.Prefix // the node's: .1 is the bridge, the rest is for containers
	Resolver netip.Addr   // DNS server of containers; the node's address on the bridge by default

	// WritableBytes bounds what one container with a writable root may write there; 512 MiB by default,
	// and never more than its memory limit.
	WritableBytes int64
	// ExitWait is how long to wait for PID 1's word on how a container ended after it has; 1 s by default.
	ExitWait time.Duration
	Log      *slog.Logger
}

// Bounds of a container's log.
const (
	LogKeep   = 1 << 20                // bytes that are kept, the newest
	TrimEvery = 500 * time.Millisecond // how often older ones are dropped
)

// cgroupMount is where PID 1 mounts cgroup v2.
const cgroupMount = "/sys/fs/cgroup"

// Running is a container that was started. It may have ended since: then Exit is set.
type Running struct {
	Instance cluster.Instance
	PID      int
	Address  netip.Addr
	Started  time.Time // wall clock, for people
	Restarts int       // as given to Start
	Exit     *Exit
}

// Runtime runs containers. Its methods may be called concurrently. It has one goroutine for each running
// container, which waits for its end, and one that trims logs; Close ends and waits for them and leaves
// the containers alone.
type Runtime struct {
	cfg   Config
	crun  crun
	stop  chan struct{}
	tasks sync.WaitGroup

	mu     sync.Mutex
	boxes  map[string]*box
	alloc  *allocator
	recent recentExits
}

// box is one container of this node.
type box struct {
	record
	busy    bool // Start, Remove or the end of the process is at work on it
	running bool
	// proc is valid while running.
	proc    *process
	waiters []chan Exit
}

// record is state.json, all that a later agent needs.
type record struct {
	Instance cluster.Instance `json:"instance"`
	Address  netip.Addr       `json:"address"`
	Restarts int              `json:"restarts"`
	Signal   string           `json:"stop_signal"`
	// PID is 0 while the process is being started.
	PID         int           `json:"pid"`
	StartTicks  uint64        `json:"start_ticks"` // field 22 of /proc/PID/stat: PID and this name a process for ever
	Started     time.Time     `json:"started"`
	StartedBoot time.Duration `json:"started_boot"` // CLOCK_BOOTTIME before the start
	Exit        *Exit         `json:"exit,omitempty"`
}

func (r *record) view() Running {
	return Running{Instance: r.Instance, PID: r.PID, Address: r.Address, Started: r.Started, Restarts: r.Restarts, Exit: r.Exit}
}

// New makes a Runtime. Call Adopt before anything else if an earlier agent may have left containers.
func New(cfg Config) (*Runtime, error) {
	if cfg.Crun == "" {
		cfg.Crun = "/usr/bin/crun"
	}
	if !cfg.Subnet.IsValid() || !cfg.Subnet.Addr().Is4() || cfg.Subnet.Bits() > 30 || cfg.Subnet.Bits() < 16 {
		return nil, fmt.Errorf("container subnet %s: an IPv4 prefix between /16 and /30 is needed", cfg.Subnet)
	}
	if !cfg.Resolver.IsValid() {
		cfg.Resolver = gateway(cfg.Subnet)
	}
	if cfg.WritableBytes == 0 {
		cfg.WritableBytes = 512 << 20
	}
	if cfg.ExitWait == 0 {
		cfg.ExitWait = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	for _, d := range []string{cfg.Root, filepath.Join(cfg.Root, ".crun"), filepath.Join(cfg.Root, ".tmp")} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, fmt.Errorf("container state: %w", err)
		}
	}
	r := &Runtime{cfg: cfg, stop: make(chan struct{}), boxes: map[string]*box{}, alloc: newAllocator(cfg.Subnet)}
	r.crun = crun{path: cfg.Crun, root: filepath.Join(cfg.Root, ".crun"), tmp: filepath.Join(cfg.Root, ".tmp"),
		cgroups: cfg.Cgroup != "", noPivot: cfg.NoPivot}
	r.tasks.Go(r.trimLogs)
	return r, nil
}

// Close lets go of all containers, which go on running.
func (r *Runtime) Close() {
	close(r.stop)
	r.mu.Lock()
	for _, b := range r.boxes {
		if b.proc != nil {
			b.proc.close()
		}
	}
	r.mu.Unlock()
	r.tasks.Wait()
}

func (r *Runtime) dir(id string, elem ...string) string {
	return filepath.Join(append([]string{r.cfg.Root, id}, elem...)...)
}

var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$`)

// Start runs the instance's container. An ID that has ended may be started again: it keeps its address
// and its log. restarts is kept for a later agent. When Start returns without error the process has been
// started and has the returned PID; it may have ended already.
func (r *Runtime) Start(ctx context.Context, in cluster.Instance, restarts int) (Running, error) {
	if !validID.MatchString(in.ID) {
		return Running{}, fmt.Errorf("start container %q: the name has other characters than letters, digits, _, . and -", in.ID)
	}
	b, fresh, err := r.acquire(in)
	if err != nil {
		return Running{}, fmt.Errorf("start container %s: %w", in.ID, err)
	}
	begin := time.Now()
	run, err := r.start(ctx, b, in, restarts, fresh)
	if err != nil {
		err = errors.Join(fmt.Errorf("start container %s: %w", in.ID, full(r.cfg.Root, err)), r.undo(b, in.ID, fresh))
		return Running{}, err
	}
	r.cfg.Log.Info("container started", "id", in.ID, "pid", run.PID, "address", run.Address, "took", time.Since(begin).Round(time.Millisecond))
	return run, nil
}

// acquire reserves the ID and its address.
func (r *Runtime) acquire(in cluster.Instance) (b *box, fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.boxes[in.ID]
	if ok {
		if b.busy || b.running {
			return nil, false, ErrRunning
		}
		b.busy = true
		return b, false, nil
	}
	addr, err := r.alloc.take(in.ID)
	if err != nil {
		return nil, false, err
	}
	b = &box{busy: true, record: record{Address: addr}}
	r.boxes[in.ID] = b
	return b, true, nil
}

// undo leaves things as they were before a start that failed.
func (r *Runtime) undo(b *box, id string, fresh bool) error {
	errs := []error{r.clearProcess(id)}
	if fresh {
		errs = append(errs, disconnect(id, r.dir(id, "netns")), os.RemoveAll(r.dir(id)))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b.busy = false
	if !fresh {
		errs = append(errs, r.save(&b.record)) // how the last run ended
	}
	if fresh {
		delete(r.boxes, id)
		r.alloc.release(id)
		b.tell(Exit{Code: -1})
	}
	return errors.Join(errs...)
}

func (r *Runtime) start(ctx context.Context, b *box, in cluster.Instance, restarts int, fresh bool) (Running, error) {
	digest := in.Spec.ImageDigest
	if digest == "" {
		im, err := r.cfg.Images.Find(in.Spec.Image, "")
		if err != nil {
			return Running{}, err
		}
		digest = im.Digest
	}
	root, err := r.cfg.Images.Prepare(ctx, digest)
	if err != nil {
		return Running{}, err
	}
	begin := time.Now()
	r.mu.Lock()
	rec := b.record
	r.mu.Unlock()
	rec.Instance, rec.Restarts, rec.Signal = in, restarts, in.Spec.StopSignal
	rec.PID, rec.StartTicks, rec.Exit = 0, 0, nil
	rec.Started, rec.StartedBoot = time.Now().UTC(), boottime()
	if rec.Signal == "" {
		rec.Signal = root.Config.StopSignal
	}
	if err := os.MkdirAll(r.dir(in.ID), 0o711); err != nil {
		return Running{}, err
	}
	if err := r.save(&rec); err != nil {
		return Running{}, err
	}
	if fresh {
		if err := connect(in.ID, r.dir(in.ID, "netns"), r.cfg.Bridge, r.cfg.Subnet, rec.Address); err != nil {
			return Running{}, err
		}
	}
	connected := time.Now()
	if err := r.bundle(in, root, rec.Address); err != nil {
		return Running{}, err
	}
	bundled := time.Now()
	if rec.PID, err = r.crun.run(ctx, in.ID, r.dir(in.ID), r.dir(in.ID, "log")); err != nil {
		return Running{}, err
	}
	r.cfg.Log.Debug("where the time of a start went", "id", in.ID, "network", connected.Sub(begin), "root", bundled.Sub(connected), "crun", time.Since(bundled))
	proc := openProcess(rec.PID)
	rec.StartTicks = proc.ticks
	if err := r.save(&rec); err != nil {
		proc.close()
		return Running{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b.record, b.busy = rec, false
	r.watch(b, proc)
	return rec.view(), nil
}

func (r *Runtime) save(rec *record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return writeFile(r.dir(rec.Instance.ID, "state.json"), data, 0o600)
}

// watch starts waiting for the process's end. The caller holds mu.
func (r *Runtime) watch(b *box, proc *process) {
	b.running, b.proc = true, proc
	id, pid, since := b.Instance.ID, b.PID, b.StartedBoot
	word := r.recent.expect(pid, since)
	r.tasks.Go(func() {
		defer proc.close()
		if !proc.wait() {
			return // closed: the container goes on without us
		}
		e := Exit{PID: pid, Code: -1}
		timer := time.NewTimer(r.cfg.ExitWait)
		defer timer.Stop()
		select {
		case e = <-word:
		case <-timer.C:
			r.cfg.Log.Warn("container ended, but PID 1 did not tell how", "id", id, "pid", pid)
		case <-r.stop:
			return // the next agent finds it ended and asks again
		}
		e.OOM = r.oomKilled(id)
		if err := r.clearProcess(id); err != nil {
			r.cfg.Log.Warn("container ended, but could not be cleared away", "id", id, "err", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.recent.forget(pid, word)
		b.running, b.proc, b.Exit = false, nil, &e
		if err := r.save(&b.record); err != nil {
			r.cfg.Log.Warn("could not record the end of a container", "id", id, "err", full(r.cfg.Root, err))
		}
		r.cfg.Log.Info("container ended", "id", id, "pid", pid, "how", e)
		b.tell(e)
	})
}

func (b *box) tell(e Exit) {
	for _, w := range b.waiters {
		w <- e
	}
	b.waiters = nil
}

// Exited is how the agent passes on PID 1's exit messages, all of them in the order they come, also the
// repeated ones. at is CLOCK_BOOTTIME when PID 1 reaped the process.
func (r *Runtime) Exited(pid, code, signal int, at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent.add(Exit{PID: pid, Code: code, Signal: signal, At: at})
}

// Wait gives a channel on which the end of the container's present run comes, at once if it has ended.
// If there is no such container the channel is closed without a value.
func (r *Runtime) Wait(id string) <-chan Exit {
	ch := make(chan Exit, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.boxes[id]
	switch {
	case !ok:
		close(ch)
	case !b.running && !b.busy && b.Exit != nil:
		ch <- *b.Exit
	default:
		b.waiters = append(b.waiters, ch)
	}
	return ch
}

// List is all containers that are here, also those that have ended and were not removed.
func (r *Runtime) List() []Running {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Running
	for _, b := range r.boxes {
		if b.Instance.ID != "" {
			out = append(out, b.view())
		}
	}
	return out
}

// Remove forgets a container and everything of it: its network, log and files. If it runs it is killed.
// Removing what is not there is no error.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	r.mu.Lock()
	_, ok := r.boxes[id]
	r.mu.Unlock()
	if !ok {
		return nil
	}
	if _, err := r.Stop(ctx, id, "SIGKILL", 0); err != nil && !errors.Is(err, ErrNotRunning) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	r.mu.Lock()
	b, ok := r.boxes[id]
	if !ok || b.busy || b.running {
		r.mu.Unlock()
		if !ok {
			return nil
		}
		return fmt.Errorf("remove container %s: %w", id, ErrRunning)
	}
	b.busy = true
	r.mu.Unlock()
	err := errors.Join(disconnect(id, r.dir(id, "netns")), os.RemoveAll(r.dir(id)))
	r.mu.Lock()
	defer r.mu.Unlock()
	b.busy = false
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	delete(r.boxes, id)
	r.alloc.release(id)
	return nil
}

func (r *Runtime) oomKilled(id string) bool {
	if r.cfg.Cgroup == "" {
		return false
	}
	data, err := os.ReadFile(filepath.Join(cgroupMount, r.cfg.Cgroup, id, "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n) != "0"
		}
	}
	return false
}
