package gfs2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/storage/disk"
	"github.com/skein-os/skein/storage/modules"
	"github.com/skein-os/skein/storage/shared"
)

// Config says whose file systems a Driver looks after.
type Config struct {
	// Cluster is the first half of the name in each file system, up to 32 letters, digits, - and _. A file system of
	// another cluster is refused.
	Cluster string
	// Dir is a folder that lasts as long as this run of the kernel and no longer: /run/skein/shared.
	Dir string
	Log *slog.Logger
}

// Driver is GFS2 on this node.
type Driver struct {
	c    Config
	self shared.Member

	mu    sync.Mutex
	known map[uint32]shared.Member // what the entries of comms are for

	monitor *os.File
	stop    context.CancelFunc
	watcher chan struct{}
}

var _ shared.Driver = (*Driver)(nil)

// New makes a Driver; Open makes it ready.
func New(c Config) *Driver { return &Driver{c: c} }

const root = "/sys/kernel"

// Open loads the modules, sets up the lock manager, and listens to the kernel.
func (d *Driver) Open(self shared.Member, event func(shared.Event)) (err error) {
	if err := ValidName(d.c.Cluster, "x"); err != nil {
		return err
	}
	if err := modules.Load(modules.GFS2...); err != nil {
		return err
	}
	if err := mountConfig(); err != nil {
		return err
	}
	d.self = self
	if err := d.load(); err != nil {
		return err
	}
	s, err := d.seen("")
	if err != nil {
		return err
	}
	if err := run(prepareSteps(d.c.Cluster, self, s)); err != nil {
		return fmt.Errorf("set up the kernel's lock manager: %w", err)
	}
	l, err := disk.Listen()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop, d.watcher = cancel, make(chan struct{})
	go func() {
		defer close(d.watcher)
		err := l.Run(ctx, func(e disk.Event) {
			if e, ok := d.translate(e); ok {
				event(e)
			}
		}, "dlm", "gfs2")
		if err != nil && ctx.Err() == nil {
			d.c.Log.Error("the kernel's events of shared file systems are not heard any more", "err", err)
		}
	}()
	if err := refuse(ctx, d.c.Log); err != nil {
		return errors.Join(fmt.Errorf("answer requests for fcntl locks: %w", err), d.Close())
	}
	d.monitor, err = os.Open("/dev/dlm-monitor")
	if err != nil {
		return errors.Join(fmt.Errorf("watch over the kernel's lock manager: %w", err), d.Close())
	}
	return nil
}

// Close gives up watching: all locks of all shared file systems of this node stop.
func (d *Driver) Close() error {
	var err error
	if d.monitor != nil {
		err = d.monitor.Close()
		d.monitor = nil
	}
	if d.stop != nil {
		d.stop()
		<-d.watcher
	}
	return err
}

// mountConfig mounts configfs where it belongs, unless it is there.
func mountConfig() error {
	dir := filepath.Join(root, "config")
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	const configfsMagic = 0x62656570
	if s.Type == configfsMagic {
		return nil
	}
	if err := unix.Mount("configfs", dir, "configfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount configfs: %w", err)
	}
	return nil
}

// translate makes an event of what the kernel says.
func (d *Driver) translate(e disk.Event) (shared.Event, bool) {
	if e.Action == "" {
		return shared.Event{Kind: shared.EventLost}, true
	}
	if e.Subsystem == "dlm" {
		s := shared.Event{Name: filepath.Base(e.Path)}
		switch e.Action {
		case "online":
			s.Kind = shared.EventJoining
		case "offline":
			s.Kind = shared.EventLeaving
		}
		return s, s.Kind != ""
	}
	name, ok := strings.CutPrefix(filepath.Base(e.Path), d.c.Cluster+":")
	if e.Subsystem != "gfs2" || !ok {
		return shared.Event{}, false
	}
	s := shared.Event{Name: name}
	switch {
	case e.Action == "offline":
		s.Kind = shared.EventWithdrawn
	case e.Action == "change" && e.Values["RECOVERY"] == "Done":
		s.Kind = shared.EventReplayed
	case e.Action == "change" && e.Values["RECOVERY"] == "Failed":
		s.Kind = shared.EventNotPlayed
	}
	s.Journal, _ = strconv.Atoi(e.Values["JID"])
	return s, s.Kind != ""
}

// Stop implements shared.Driver.
func (d *Driver) Stop(_ context.Context, name string, a shared.Action) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.seen(name)
	if err != nil {
		return err
	}
	steps, after := stopSteps(name, d.self, a, s)
	// Of what is being changed nothing is known to a driver that comes after this one in the middle of it.
	if err := d.keep(untouched(d.known, steps)); err != nil {
		return err
	}
	if err := run(steps); err != nil {
		return err
	}
	return d.keep(after)
}

// Start implements shared.Driver.
func (d *Driver) Start(_ context.Context, name string, a shared.Action) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.seen(name)
	if err != nil {
		return err
	}
	return run(startSteps(name, a, s))
}

// Release implements shared.Driver.
func (d *Driver) Release(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.seen(name)
	if err != nil {
		return err
	}
	return run(releaseSteps(name, s))
}

// seen looks at what the kernel has, for a lockspace or, without a name, for the node.
func (d *Driver) seen(name string) (s seen, err error) {
	s.known = d.known
	if s.comms, err = numbers(commsDir); err != nil {
		return s, err
	}
	if name == "" {
		all, err := os.ReadDir(filepath.Join(root, lockDir))
		s.lock = len(all) > 0
		return s, err
	}
	if s.lock, err = exists(filepath.Join(lockDir, name)); err != nil {
		return s, err
	}
	if s.space, err = exists(filepath.Join(spacesDir, name)); err != nil || !s.space {
		return s, err
	}
	s.nodes, err = numbers(filepath.Join(spacesDir, name, "nodes"))
	return s, err
}

func exists(path string) (bool, error) {
	_, err := os.Stat(filepath.Join(root, path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// numbers lists the folders below a folder, which is allowed to be missing.
func numbers(dir string) ([]uint32, error) {
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []uint32
	for _, e := range entries {
		id, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%s/%s: not a node's number; who made it?", dir, e.Name())
		}
		ids = append(ids, uint32(id))
	}
	return ids, err
}

// run does the steps in order, up to the first that fails.
func run(steps []step) error {
	for _, s := range steps {
		p := filepath.Join(root, s.path)
		var err error
		switch s.do {
		case mkdir:
			if err = os.Mkdir(p, 0o755); errors.Is(err, fs.ErrExist) {
				err = nil
			}
		case rmdir:
			err = unix.Rmdir(p)
		case write:
			err = os.WriteFile(p, []byte(s.data), 0)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

func (d *Driver) file() string { return filepath.Join(d.c.Dir, "comms.json") }

// keep notes what the entries of comms are for, in memory and for a driver after this one.
func (d *Driver) keep(known map[uint32]shared.Member) error {
	members := slices.Collect(maps.Values(known))
	data, err := json.Marshal(members)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.c.Dir, 0o700); err != nil {
		return err
	}
	tmp := d.file() + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, d.file()); err != nil {
		return err
	}
	d.known = known
	return nil
}

func (d *Driver) load() error {
	d.known = map[uint32]shared.Member{}
	data, err := os.ReadFile(d.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var members []shared.Member
	if err := json.Unmarshal(data, &members); err != nil {
		return fmt.Errorf("%s: %w", d.file(), err)
	}
	for _, m := range members {
		d.known[m.ID] = m
	}
	return nil
}

// Make implements shared.Driver.
func (d *Driver) Make(ctx context.Context, device, name string, journals int) error {
	if err := ValidName(d.c.Cluster, name); err != nil {
		return err
	}
	if journals < 1 || journals > shared.MaxMembers {
		return fmt.Errorf("make shared file system %s: %d journals; want 1 to %d, one for each node", name, journals, shared.MaxMembers)
	}
	_, err := program(ctx, "mkfs.gfs2", "-O", "-q", "-p", "lock_dlm", "-t", d.c.Cluster+":"+name, "-j", strconv.Itoa(journals), device)
	if err != nil {
		return fmt.Errorf("make shared file system %s on %s: %w", name, device, err)
	}
	return nil
}

// Mount implements shared.Driver.
func (d *Driver) Mount(_ context.Context, device, name, dir string) error {
	wrap := func(err error) error {
		return fmt.Errorf("mount shared file system %s from %s at %s: %w", name, device, dir, err)
	}
	f, err := fresh(device)
	if err != nil {
		return wrap(err)
	}
	s, err := readSuperblock(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return wrap(err)
	}
	if want := d.c.Cluster + ":" + name; s.table != want || s.protocol != "lock_dlm" {
		return wrap(fmt.Errorf("the disk has %s with %s, want %s with lock_dlm: it belongs to another cluster or is another file system", s.table, s.protocol, want))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return wrap(err)
	}
	if err := unix.Mount(device, dir, "gfs2", unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return wrap(err)
	}
	return nil
}

// fresh opens a device that this node does not use, without what is cached of it: other nodes have written to it,
// and GFS2 here wrote its journal past the cache.
func fresh(device string) (*os.File, error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("drop what is cached of it: %w", err), f.Close())
	}
	return f, nil
}

// Unmount implements shared.Driver.
func (d *Driver) Unmount(_ context.Context, dir string) error {
	if err := unix.Unmount(dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// Grow implements shared.Driver.
func (d *Driver) Grow(ctx context.Context, dir string) error {
	if _, err := program(ctx, "gfs2_grow", dir); err != nil {
		return fmt.Errorf("grow the shared file system at %s: %w", dir, err)
	}
	return nil
}

// AddJournals implements shared.Driver.
func (d *Driver) AddJournals(ctx context.Context, dir string, n int) error {
	if _, err := program(ctx, "gfs2_jadd", "-j", strconv.Itoa(n), dir); err != nil {
		return fmt.Errorf("add %d journals to the shared file system at %s: %w", n, dir, err)
	}
	return nil
}

// Check implements shared.Driver.
func (d *Driver) Check(ctx context.Context, device string, repair bool) (shared.Finding, string, error) {
	f, err := fresh(device)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return "", "", fmt.Errorf("check the shared file system on %s: %w", device, err)
	}
	how := "-n"
	if repair {
		how = "-y"
	}
	out, err := program(ctx, "fsck.gfs2", how, device)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code, err = exit.ExitCode(), nil
	}
	var found shared.Finding
	if err == nil {
		found, err = verdict(code, out)
	}
	if err != nil {
		return "", out, fmt.Errorf("check the shared file system on %s: %w", device, err)
	}
	return found, out, nil
}

// maxOutput is how much of a program's words is kept, bytes.
const maxOutput = 64 << 10

// program runs one of gfs2-utils. Its words are in the error.
func program(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/sbin/"+name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.CombinedOutput()
	if len(out) > maxOutput {
		out = out[len(out)-maxOutput:]
	}
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", name, err, text)
	}
	return text, nil
}

// Status implements shared.Driver.
func (d *Driver) Status(name string) (s shared.Status, err error) {
	if s.Lock, err = exists(filepath.Join(lockDir, name)); err != nil {
		return s, err
	}
	dir := filepath.Join("/sys/fs/gfs2", d.c.Cluster+":"+name)
	id, err := read(dir, "id") // of the block device, major:minor
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	journal, err1 := read(dir, "lock_module/jid")
	block, err2 := read(dir, "lock_module/block")
	withdraw, err3 := read(dir, "withdraw")
	mounts, err4 := os.ReadFile("/proc/self/mountinfo")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return s, fmt.Errorf("status of shared file system %s: %w", name, err)
	}
	s.Journal, _ = strconv.Atoi(journal)
	s.Blocked, s.Withdrawn = block != "0", withdraw != "0"
	s.Dir, s.Mounted = mountPoint(string(mounts), id)
	return s, nil
}

func read(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b)), err
}

// mountPoint finds where the GFS2 of a block device is mounted, in /proc/self/mountinfo (proc(5)): the first place.
func mountPoint(mountinfo, id string) (string, bool) {
	for line := range strings.Lines(mountinfo) {
		front, back, ok := strings.Cut(line, " - ")
		f := strings.Fields(front)
		if ok && len(f) > 4 && f[2] == id && strings.HasPrefix(back, "gfs2 ") {
			return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4]), true
		}
	}
	return "", false
}
