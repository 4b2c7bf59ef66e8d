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

	// Volumes is the folder in which the agent mounts volumes, each under its name: a container gets the folder
	// data of it. If the volume is not mounted there is no such folder, and the container does not start.
	Volumes string
	// Shared is the folder in which shared file systems are mounted, each under its name.
	Shared string

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
	boxes  map[string]*box  // by instance ID
	warm   map[warmKey]*box // containers made ahead, which nothing runs in yet
	warmed uint64           // counts their names
	alloc  *allocator
	recent recentExits
}

// box is one container of this node.
type box struct {
	record
	busy    bool // Start, Remove or the end of the process is at work on it
	running bool
	// proc is valid while running, and in a container that was made ahead.
	proc *process
	// madeAhead is the PID of a container that was made before there was an instance for it; else 0.
	madeAhead int
	// kindled is when that container's program was let go, still without an instance; zero if it was not.
	kindled time.Time
	waiters []chan Exit
}

// record is state.json, all that a later agent needs.
type record struct {
	// Name is what folder, cgroup, link and crun call it: the instance's ID, or for a container that was
	// made ahead of its instance a name of its own.
	Name     string           `json:"name"`
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
	r := &Runtime{cfg: cfg, stop: make(chan struct{}), boxes: map[string]*box{}, warm: map[warmKey]*box{}, alloc: newAllocator(cfg.Subnet)}
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
	for _, b := range r.warm {
		if b.proc != nil {
			b.proc.close()
		}
	}
	r.mu.Unlock()
	r.tasks.Wait()
}

// dir is the folder of the container of this name, or what is in it.
func (r *Runtime) dir(name string, elem ...string) string {
	return filepath.Join(append([]string{r.cfg.Root, name}, elem...)...)
}

var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$`)

// Start runs the instance's container: one that was made ahead (Warm) if there is one that fits, which is
// several times faster. An ID that has ended may be started again: it keeps its address
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
	r.cfg.Log.Info("container started", "id", in.ID, "pid", run.PID, "address", run.Address,
		"made_ahead", run.PID == b.madeAhead, "took", time.Since(begin).Round(time.Millisecond))
	return run, nil
}

// acquire reserves the ID and its address, and takes a container that was made ahead if one fits.
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
	key := keyOf(&in)
	if b := r.warm[key]; b != nil && !b.busy && b.proc.alive() {
		delete(r.warm, key)
		b.busy = true
		r.boxes[in.ID] = b
		return b, true, nil
	}
	if b, err = r.reserve(in.ID); err != nil {
		return nil, false, err
	}
	r.boxes[in.ID] = b
	return b, true, nil
}

// reserve makes a box with a name and an address. The caller holds mu.
func (r *Runtime) reserve(name string) (*box, error) {
	addr, err := r.alloc.take(name)
	if err != nil {
		return nil, err
	}
	return &box{busy: true, record: record{Name: name, Address: addr}}, nil
}

// undo leaves things as they were before a start that failed.
func (r *Runtime) undo(b *box, id string, fresh bool) error {
	var errs []error
	if fresh {
		errs = append(errs, r.discard(b))
	} else {
		errs = append(errs, r.clearProcess(b.Name))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b.busy = false
	if !fresh {
		errs = append(errs, r.save(&b.record)) // how the last run ended
	}
	if fresh {
		delete(r.boxes, id)
		b.tell(Exit{Code: -1})
	}
	return errors.Join(errs...)
}

// discard removes everything of a container that no instance has.
func (r *Runtime) discard(b *box) error {
	if b.proc != nil {
		b.proc.close()
	}
	err := errors.Join(r.clearProcess(b.Name), disconnect(b.Name, r.dir(b.Name, "netns")), os.RemoveAll(r.dir(b.Name)))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alloc.release(b.Name)
	return err
}

func (r *Runtime) start(ctx context.Context, b *box, in cluster.Instance, restarts int, fresh bool) (Running, error) {
	r.mu.Lock()
	rec, ahead := b.record, b.madeAhead
	r.mu.Unlock()
	rec.Instance, rec.Restarts = in, restarts
	rec.PID, rec.StartTicks, rec.Exit = 0, 0, nil
	rec.Started, rec.StartedBoot = time.Now().UTC(), boottime()
	if ahead != 0 && fresh {
		if !b.kindled.IsZero() { // it runs since then, and PID 1 may have told of its end since then
			rec.Started, rec.StartedBoot = b.kindled.UTC(), b.StartedBoot
		}
		if err := r.save(&rec); err != nil {
			return Running{}, err
		}
		if b.kindled.IsZero() {
			if err := r.crun.start(rec.Name); err != nil {
				return Running{}, err
			}
		}
		rec.PID, rec.StartTicks = ahead, b.proc.ticks
		return r.started(b, rec, b.proc)
	}
	root, err := r.prepare(ctx, &rec, in, fresh)
	if err != nil {
		return Running{}, err
	}
	if err := r.bundle(rec.Name, in, root, rec.Address); err != nil {
		return Running{}, err
	}
	if rec.PID, err = r.crun.run(ctx, rec.Name, r.dir(rec.Name), r.dir(rec.Name, "log")); err != nil {
		return Running{}, err
	}
	proc := openProcess(rec.PID)
	rec.StartTicks = proc.ticks
	return r.started(b, rec, proc)
}

// prepare makes what a container keeps over its restarts: its record, and its network when it is fresh.
func (r *Runtime) prepare(ctx context.Context, rec *record, in cluster.Instance, fresh bool) (Root, error) {
	digest := in.Spec.ImageDigest
	if digest == "" {
		im, err := r.cfg.Images.Find(in.Spec.Image, "")
		if err != nil {
			return Root{}, err
		}
		digest = im.Digest
	}
	root, err := r.cfg.Images.Prepare(ctx, digest)
	if err != nil {
		return Root{}, err
	}
	if rec.Signal = in.Spec.StopSignal; rec.Signal == "" {
		rec.Signal = root.Config.StopSignal
	}
	if err := os.MkdirAll(r.dir(rec.Name), 0o711); err != nil {
		return Root{}, err
	}
	if err := r.save(rec); err != nil {
		return Root{}, err
	}
	if fresh {
		err = connect(rec.Name, r.dir(rec.Name, "netns"), r.cfg.Bridge, r.cfg.Subnet, rec.Address)
	}
	return root, err
}

// started records that the process runs, and waits for its end from now on.
func (r *Runtime) started(b *box, rec record, proc *process) (Running, error) {
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
	return writeFile(r.dir(rec.Name, "state.json"), data, 0o600)
}

// watch starts waiting for the process's end. The caller holds mu.
func (r *Runtime) watch(b *box, proc *process) {
	b.running, b.proc = true, proc
	id, name, pid, since := b.Instance.ID, b.Name, b.PID, b.StartedBoot
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
		e.OOM = r.oomKilled(name)
		if err := r.clearProcess(name); err != nil {
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
	err := errors.Join(disconnect(b.Name, r.dir(b.Name, "netns")), os.RemoveAll(r.dir(b.Name)))
	r.mu.Lock()
	defer r.mu.Unlock()
	b.busy = false
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	delete(r.boxes, id)
	r.alloc.release(b.Name)
	return nil
}

func (r *Runtime) oomKilled(name string) bool {
	if r.cfg.Cgroup == "" {
		return false
	}
	data, err := os.ReadFile(filepath.Join(cgroupMount, r.cfg.Cgroup, name, "memory.events"))
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
