package disks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/filesystem"
	"github.com/skein-os/skein/storage/reserve"
)

// Nexus is an open path of a disk.
type Nexus interface {
	reserve.Nexus
	Close() error
}

// Config of a Manager.
type Config struct {
	Root  string // folder of mounts, /run/skein/volumes; not shared with anything else
	Codec reserve.Codec
	Scan  Scanner
	FS    filesystem.Driver
	// Map looks after the map of a disk that needs one: it adopts what the kernel has. admit is multipath.Config's.
	Map    func(wwn string, admit func(ctx context.Context, dev string) error, devs ...string) (Map, error)
	Open   func(device string) (Nexus, error) // a path, for reservations
	Unused func(device string) error          // an error if something on this machine has the device open for itself
	// Lost is told once of a mounted volume that has ended by itself. It must not block.
	Lost func(instance, disk, why string)
	// Stuck is told once of a disk that was lost and is still in use here after StuckAfter: this node cannot have it
	// again before a restart, and what holds it waits for nothing. It must not block.
	Stuck func(disk, why string)
	Log   *slog.Logger
}

// HealthEvery is between two looks at mounted file systems.
const HealthEvery = 500 * time.Millisecond

// StuckAfter is how long a file system may live on after its volume was lost and its service killed.
const StuckAfter = 15 * time.Second

// Manager does what is asked of this node's disks. Its methods may be called concurrently.
type Manager struct {
	cfg Config

	mu    sync.Mutex
	disks map[string]*disk  // by WWN
	maps  map[string]Map    // by WWN
	users map[string]*mount // by the volume's name
	lost  map[string]bool   // instances whose key is gone
	stuck map[string]*stuck // by WWN
}

// stuck is a disk that was lost while something had it open.
type stuck struct {
	device string
	since  time.Time
	told   bool
}

// disk is one that this node has, or tries to get. It is locked during commands, which come one after the other.
type disk struct {
	token  chan struct{} // in it: not locked
	key    takeover.Key
	volume *reserve.Volume
	paths  []Nexus
	// fresh are the paths, by name, that the claim has registered and the map has not taken in yet.
	fresh map[string]bool
	// together: nodes write it at once, and a lock manager keeps them apart. No node claims it.
	together bool
}

// lock waits no longer than ctx lasts, so that one who holds the lock can end one who waits for it.
func (d *disk) lock(ctx context.Context) error {
	select {
	case <-d.token:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a command on the disk: %w", ctx.Err())
	}
}

func (d *disk) unlock() { d.token <- struct{}{} }

// mount is a volume that is mounted, as kept beside the mount for a later agent.
type mount struct {
	Instance string `json:"instance"`
	Disk     string `json:"disk"`
	told     bool   // Lost was called
}

// New makes a Manager. It knows again what an earlier agent of this boot has mounted.
func New(cfg Config) (*Manager, error) {
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("folder of volumes: %w", err)
	}
	m := &Manager{cfg: cfg, disks: map[string]*disk{}, maps: map[string]Map{}, users: map[string]*mount{}, lost: map[string]bool{}, stuck: map[string]*stuck{}}
	folders, err := cfg.FS.Mounts(cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("mounted volumes: %w", err)
	}
	for folder := range folders {
		u := &mount{}
		if data, err := os.ReadFile(folder + ".json"); err == nil {
			if err := json.Unmarshal(data, u); err != nil {
				cfg.Log.Warn("a mounted volume's record is damaged", "folder", folder, "err", err)
			}
		}
		m.users[filepath.Base(folder)] = u
	}
	return m, nil
}

func (m *Manager) disk(wwn string) *disk {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.disks[wwn]
	if d == nil {
		d = &disk{token: make(chan struct{}, 1)}
		d.unlock()
		m.disks[wwn] = d
	}
	return d
}

// Do does one operation of the takeover of a volume's disk (node.World.Volume says what is due).
func (m *Manager) Do(ctx context.Context, v cluster.Volume, op takeover.StorageOp, key, victim takeover.Key) (ok bool, keys []takeover.Key, err error) {
	d := m.disk(v.Disk)
	if err := d.lock(ctx); err != nil {
		return false, nil, err
	}
	defer d.unlock()
	if d.together {
		return false, nil, fmt.Errorf("disk %s has a shared file system that this node uses: it is no volume's", v.Disk)
	}
	if d.volume == nil || d.key != key {
		if err := m.open(ctx, d, v, op, key); err != nil {
			return false, nil, err
		}
	}
	if op == takeover.ReadKeys || op == takeover.MayWrite {
		m.rejoin(ctx, d, v.Disk)
	}
	ok, keys, err = d.volume.Do(ctx, op, key, victim)
	if err == nil && ok && op == takeover.RegisterKey {
		d.fresh = map[string]bool{}
		for _, name := range d.volume.Registered() {
			d.fresh[name] = true
		}
	}
	if err != nil && op == takeover.RegisterKey {
		// The next attempt looks for paths anew. Only then: a path that is new must not do for one that is registered.
		err = errors.Join(err, d.close())
	}
	return ok, keys, err
}

// open finds the paths of the disk for a claim that is new here.
func (m *Manager) open(ctx context.Context, d *disk, v cluster.Volume, op takeover.StorageOp, key takeover.Key) error {
	if key.Epoch < d.key.Epoch {
		return fmt.Errorf("disk %s: this node has a newer claim on it, of epoch %d", v.Disk, d.key.Epoch)
	}
	if err := d.close(); err != nil {
		return err
	}
	s, err := m.find(v.Disk)
	if err != nil {
		return err
	}
	mp, err := m.mapOf(s)
	if err != nil {
		return err
	}
	if op == takeover.RegisterKey {
		if err := m.empty(ctx, s, mp); err != nil {
			return err
		}
	}
	var list []reserve.Nexus
	for _, p := range s.usable() {
		n, err := m.cfg.Open("/dev/" + p.Name)
		if err != nil {
			m.cfg.Log.Warn("a path of a disk cannot be used", "disk", v.Disk, "path", p.Name, "err", err)
			continue
		}
		d.paths, list = append(d.paths, n), append(list, n)
	}
	if d.volume, err = reserve.NewVolume(m.cfg.Codec, list...); err != nil {
		return fmt.Errorf("disk %s: no path of %d can be opened", v.Disk, len(s.Paths))
	}
	d.key = key
	return nil
}

// empty makes sure that nothing of an earlier claim can be written under the key of a new one. A slot has a new
// claim only when the one before has ended, so a mount that is left is nobody's: an agent died between mounting and
// starting.
func (m *Manager) empty(ctx context.Context, s Seen, mp Map) error {
	if mp != nil {
		// First, so that unmounting writes nothing.
		if err := mp.FailQueue(ctx); err != nil {
			return err
		}
	}
	if err := m.abandon(s.WWN); err != nil {
		return err
	}
	const still = "disk %s: something of an earlier claim still has it open on this node (a restart of the node ends it): %w"
	if mp == nil {
		if err := m.cfg.Unused(s.Device); err != nil {
			return fmt.Errorf(still, s.WWN, err)
		}
		return nil
	}
	if err := mp.Drain(ctx); err != nil {
		return err
	}
	if err := mp.Open(); err != nil { // it says so if somebody has the map open
		return fmt.Errorf(still, s.WWN, err)
	}
	return nil
}

// abandon unmounts what an ended claim has left of the disk.
func (m *Manager) abandon(wwn string) error {
	m.mu.Lock()
	var names []string
	for name, u := range m.users {
		if u.Disk == wwn {
			names = append(names, name)
		}
	}
	m.mu.Unlock()
	for _, name := range names {
		if err := m.cfg.FS.Unmount(filepath.Join(m.cfg.Root, name), false); err != nil {
			return fmt.Errorf("disk %s: volume %s of an earlier claim: %w", wwn, name, err)
		}
		m.mu.Lock()
		delete(m.users, name)
		m.mu.Unlock()
	}
	return nil
}

func (d *disk) close() error {
	var errs []error
	for _, p := range d.paths {
		errs = append(errs, p.Close())
	}
	d.paths, d.volume, d.fresh = nil, nil, nil
	return errors.Join(errs...)
}

// Cut tells that the instance's key is gone: its volumes are given up rather than written back.
func (m *Manager) Cut(instance string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost[instance] = true
}

// Fail has all I/O of a cut instance end with an error, so that nothing of it waits for a path.
func (m *Manager) Fail(ctx context.Context, instance string) error {
	m.mu.Lock()
	wwns := map[string]bool{}
	for _, u := range m.users {
		if u.Instance == instance {
			wwns[u.Disk] = true
		}
	}
	m.mu.Unlock()
	var errs []error
	for wwn := range wwns {
		errs = append(errs, m.fail(ctx, instance, wwn))
	}
	return errors.Join(errs...)
}

func (m *Manager) fail(ctx context.Context, instance, wwn string) error {
	d := m.disk(wwn)
	if err := d.lock(ctx); err != nil { // while it is held no later claim opens the map
		return err
	}
	defer d.unlock()
	m.mu.Lock()
	still := false
	for _, u := range m.users {
		still = still || u.Instance == instance && u.Disk == wwn
	}
	mp := m.maps[wwn]
	m.mu.Unlock()
	if mp == nil || !still {
		return nil
	}
	return mp.FailQueue(ctx)
}

func (m *Manager) folder(v *cluster.Volume) string { return filepath.Join(m.cfg.Root, v.Name) }

// Attach checks and mounts the instance's volumes. What is mounted for it already, stays.
func (m *Manager) Attach(ctx context.Context, in cluster.Instance) error {
	for i := range in.Spec.Volumes {
		if v := &in.Spec.Volumes[i]; v.Target != "" {
			if err := m.attach(ctx, in.ID, v); err != nil {
				return fmt.Errorf("volume %s: %w", v.Name, err)
			}
		}
	}
	return nil
}

func (m *Manager) attach(ctx context.Context, instance string, v *cluster.Volume) error {
	m.mu.Lock()
	u, lost := m.users[v.Name], m.lost[instance]
	m.mu.Unlock()
	folder := m.folder(v)
	switch {
	case lost:
		return fmt.Errorf("disk %s is not this instance's any more", v.Disk)
	case u != nil && u.Instance == instance:
		return m.cfg.FS.Health(folder)
	case u != nil:
		return fmt.Errorf("it is still mounted here, for %s", u.Instance)
	}
	begin := time.Now()
	device, err := m.ready(ctx, v.Disk)
	if err != nil {
		return err
	}
	how, err := m.cfg.FS.Mount(ctx, device, filesystem.Volume{Name: v.Name, Kind: filesystem.Kind(v.FS), UUID: v.UUID}, folder)
	if err != nil {
		return err
	}
	u = &mount{Instance: instance, Disk: v.Disk}
	m.mu.Lock()
	m.users[v.Name] = u
	m.mu.Unlock()
	m.cfg.Log.Info("volume mounted", "volume", v.Name, "disk", v.Disk, "device", device, "journal_replayed", how.Replayed,
		"checked", how.Checked, "took", time.Since(begin).Round(time.Millisecond))
	data, err := json.Marshal(u)
	if err == nil {
		err = os.WriteFile(folder+".json", data, 0o600)
	}
	// Only in the file system is there a folder data: a container cannot be given the empty mount point.
	if derr := os.Mkdir(filepath.Join(folder, "data"), 0o755); !errors.Is(derr, os.ErrExist) {
		err = errors.Join(err, derr)
	}
	return err
}

// Detach unmounts what Attach has mounted for the instance. It is an error, and to be done again, while a file system
// has not ended. The key stays.
func (m *Manager) Detach(_ context.Context, in cluster.Instance) error {
	var errs []error
	for i := range in.Spec.Volumes {
		v := &in.Spec.Volumes[i]
		m.mu.Lock()
		u, lost := m.users[v.Name], m.lost[in.ID]
		m.mu.Unlock()
		if u == nil || u.Instance != in.ID {
			continue
		}
		folder := m.folder(v)
		err := m.cfg.FS.Unmount(folder, lost)
		if lost && errors.Is(err, filesystem.ErrBusy) {
			// The folder is free and the file system lives on, and keeps the next claim here out.
			m.cfg.Log.Warn("a volume that was lost is still in use", "volume", v.Name, "disk", v.Disk, "err", err)
			m.mu.Lock()
			m.stuck[v.Disk] = &stuck{device: m.current(v.Disk), since: time.Now()}
			m.mu.Unlock()
			err = nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("volume %s: %w", v.Name, err))
			continue
		}
		m.mu.Lock()
		delete(m.users, v.Name)
		m.mu.Unlock()
		m.cfg.Log.Info("volume unmounted", "volume", v.Name, "disk", v.Disk, "lost", lost)
		if err := os.Remove(folder + ".json"); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		m.mu.Lock()
		delete(m.lost, in.ID)
		m.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Watch looks after mounted file systems until ctx ends.
func (m *Manager) Watch(ctx context.Context) {
	tick := time.NewTicker(HealthEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.look()
		}
	}
}

func (m *Manager) look() {
	m.lookAtStuck()
	m.mu.Lock()
	users := map[string]*mount{}
	for name, u := range m.users {
		if !u.told {
			users[name] = u
		}
	}
	m.mu.Unlock()
	for name, u := range users {
		err := m.cfg.FS.Health(filepath.Join(m.cfg.Root, name))
		if err == nil {
			continue
		}
		m.mu.Lock()
		tell := m.users[name] == u && !u.told // it may have been unmounted meanwhile
		u.told = u.told || tell
		m.mu.Unlock()
		if tell {
			m.cfg.Lost(u.Instance, u.Disk, err.Error())
		}
	}
}

func (m *Manager) lookAtStuck() {
	m.mu.Lock()
	list := maps.Clone(m.stuck)
	m.mu.Unlock()
	for wwn, k := range list {
		err := m.cfg.Unused(k.device)
		m.mu.Lock()
		tell := err != nil && !k.told && time.Since(k.since) >= StuckAfter
		k.told = k.told || tell
		if err == nil && m.stuck[wwn] == k {
			delete(m.stuck, wwn)
		}
		m.mu.Unlock()
		if tell {
			m.cfg.Stuck(wwn, err.Error())
		}
	}
}

// Test makes the self-test of a disk that nobody uses, over all of its paths here and those of others, in turn. Without
// another node's paths the verdict is about this node's own against each other, which some targets take for one and the
// same: the kernel's target lets all sessions of an initiator write if one is registered.
func (m *Manager) Test(ctx context.Context, wwn string, o reserve.TestOptions, others ...reserve.Nexus) (v reserve.Verdict, err error) {
	s, d, err := m.idle(ctx, wwn)
	if err != nil {
		return v, err
	}
	defer d.unlock()
	var list []reserve.Nexus
	defer func() { err = errors.Join(err, d.close()) }()
	for i, p := range s.Paths {
		n, err := m.cfg.Open("/dev/" + p.Name)
		if err != nil {
			return v, err
		}
		d.paths, list = append(d.paths, n), append(list, n)
		if i < len(others) {
			list = append(list, others[i])
		}
	}
	return reserve.SelfTest(ctx, m.cfg.Codec, o, list...)
}

// TestCommand does a command of a self-test that another node makes, through one path here.
func (m *Manager) TestCommand(ctx context.Context, wwn, path string, c reserve.Command) (o reserve.Outcome, err error) {
	if err := m.cfg.Codec.Testing(c); err != nil {
		return o, err
	}
	s, d, err := m.idle(ctx, wwn)
	if err != nil {
		return o, err
	}
	defer d.unlock()
	if !slices.ContainsFunc(s.Paths, func(p Path) bool { return p.Name == path }) {
		return o, fmt.Errorf("disk %s has no path %q here", wwn, path)
	}
	n, err := m.cfg.Open("/dev/" + path)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return reserve.NewOutcome(n.Exec(ctx, c))
}

// idle locks a disk that nothing here uses, and takes its paths out of its map until the next claim.
func (m *Manager) idle(ctx context.Context, wwn string) (Seen, *disk, error) {
	s, err := m.find(wwn)
	if err != nil {
		return s, nil, err
	}
	d := m.disk(wwn)
	if err := d.lock(ctx); err != nil {
		return s, nil, err
	}
	err = func() error {
		if d.together {
			return fmt.Errorf("disk %s has a shared file system that this node uses", wwn)
		}
		if device := m.deviceOf(s); device != "" {
			if err := m.cfg.Unused(device); err != nil {
				return fmt.Errorf("disk %s is in use on this node: %w", wwn, err)
			}
		}
		if mp := m.mapNow(wwn); mp != nil && !mp.State().Closed {
			if err := errors.Join(mp.FailQueue(ctx), mp.Drain(ctx)); err != nil {
				return err
			}
		}
		return d.close()
	}()
	if err != nil {
		d.unlock()
	}
	return s, d, err
}

// Identify tells what is on a disk, as a path of it shows it.
func (m *Manager) Identify(wwn string) (c filesystem.Content, err error) {
	s, err := m.find(wwn)
	if err != nil {
		return c, err
	}
	var from []string
	if mp := m.mapNow(wwn); mp != nil && !mp.State().Closed { // it holds the paths
		from = append(from, m.deviceOf(s))
	}
	for _, p := range s.usable() {
		from = append(from, "/dev/"+p.Name)
	}
	for _, device := range from {
		if c, err = m.cfg.FS.Identify(device); err == nil {
			return c, nil
		}
	}
	return c, fmt.Errorf("what is on disk %s could not be read through any of its %d paths: %w", wwn, len(s.Paths), err)
}

// Make takes the disk as a claim does and makes the volume's file system. The key's epoch is the revision of the
// ledger that has the volume's record; the key stays, and the first claim of a service preempts it.
func (m *Manager) Make(ctx context.Context, r cluster.VolumeRecord, key takeover.Key, overwrite filesystem.Kind) error {
	v := cluster.Volume{Name: r.Name, Disk: r.Disk}
	s := takeover.NewStorage(key)
	for {
		op, victim := s.Next()
		if op == takeover.GiveUp {
			return fmt.Errorf("disk %s has a newer owner than this making of volume %s", r.Disk, r.Name)
		}
		// The ledger has refused all others: the record was committed on the condition that the disk has no volume.
		if op == takeover.VerifyClaim {
			break
		}
		ok, keys, err := m.Do(ctx, v, op, key, victim)
		if err != nil {
			return err
		}
		s.Done(ok, keys)
	}
	dev, err := m.ready(ctx, r.Disk)
	if err != nil {
		return err
	}
	err = m.cfg.FS.Make(ctx, dev, filesystem.Volume{Name: r.Name, Kind: filesystem.Kind(r.FS), UUID: r.UUID}, overwrite)
	d := m.disk(r.Disk)
	if lerr := d.lock(ctx); lerr != nil {
		return errors.Join(err, lerr)
	}
	defer d.unlock()
	return errors.Join(err, d.close())
}

// ErrNotMounted: the volume is not mounted on this node.
var ErrNotMounted = errors.New("not mounted on this node")

// Grow makes a mounted volume as large as its disk has become. It never shrinks one.
func (m *Manager) Grow(ctx context.Context, r cluster.VolumeRecord) (int64, error) {
	m.mu.Lock()
	u := m.users[r.Name]
	m.mu.Unlock()
	if u == nil {
		return 0, fmt.Errorf("volume %s: %w", r.Name, ErrNotMounted)
	}
	s, err := m.rescan(r.Disk)
	if err != nil {
		return 0, err
	}
	if s.Size < r.Size {
		return 0, fmt.Errorf("disk %s has %d bytes, less than volume %s (%d): it was made smaller, which destroys data; nothing was done", r.Disk, s.Size, r.Name, r.Size)
	}
	device, err := m.grown(ctx, s)
	if err != nil {
		return 0, err
	}
	return m.cfg.FS.Grow(device, filepath.Join(m.cfg.Root, r.Name))
}

// MountedFor tells which instance the volume is mounted for here, "" if it is not.
func (m *Manager) MountedFor(volume string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u := m.users[volume]; u != nil {
		return u.Instance
	}
	return ""
}
