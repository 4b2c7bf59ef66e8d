package disks

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/filesystem"
	"github.com/skein-os/skein/storage/multipath"
	"github.com/skein-os/skein/storage/reserve"
)

// target is a disk with one registration a nexus, as much of one as a takeover asks for.
type target struct {
	keys   map[string]reserve.Key
	holder reserve.Key
}

type nexus struct {
	t    *target
	name string
}

func (n nexus) Name() string { return n.name }
func (n nexus) Close() error { return nil }
func (n nexus) Exec(_ context.Context, c reserve.Command) (a reserve.Answer, err error) {
	t := n.t
	conflict := &reserve.Error{Device: n.name, Op: c.Op, Kind: reserve.ErrConflict}
	switch c.Op {
	case reserve.ReadKeys:
		for _, k := range t.keys {
			a.Keys = append(a.Keys, k)
		}
	case reserve.ReadReservation:
		if t.holder != 0 {
			a.Reservation = &reserve.Reservation{Key: t.holder, Type: reserve.WriteExclusiveRegistrantsOnly}
		}
	case reserve.RegisterIgnore:
		// The nexus holds the reservation, so it goes on under the new key.
		if old := t.keys[n.name]; old != 0 && t.holder == old {
			t.holder = c.New
		}
		t.keys[n.name] = c.New
	case reserve.Reserve:
		if t.keys[n.name] != c.Key || t.holder != 0 && t.holder != c.Key {
			return a, conflict
		}
		t.holder = c.Key
	case reserve.PreemptAbort:
		if t.keys[n.name] != c.Key {
			return a, conflict
		}
		found := false
		for name, k := range t.keys {
			if k == c.Victim {
				delete(t.keys, name)
				found = true
			}
		}
		if !found {
			return a, conflict
		}
		if t.holder == c.Victim {
			t.holder = c.Key
		}
	default:
		return a, &reserve.Error{Device: n.name, Op: c.Op, Kind: reserve.ErrUnsupported}
	}
	return a, nil
}

// folders is a Driver whose mounts are plain folders.
type folders struct {
	mounted map[string]string
	busy    bool
	sick    error
	made    []string
	foreign error
}

func (f *folders) Identify(string) (filesystem.Content, error) { return filesystem.Content{}, nil }
func (f *folders) Make(_ context.Context, device string, v filesystem.Volume, _ filesystem.Kind) error {
	f.made = append(f.made, device+" "+v.Name)
	return nil
}
func (f *folders) Mount(_ context.Context, device string, _ filesystem.Volume, folder string) (filesystem.Mounted, error) {
	if f.foreign != nil {
		return filesystem.Mounted{}, f.foreign
	}
	f.mounted[folder] = device
	return filesystem.Mounted{Replayed: true}, os.MkdirAll(folder, 0o700)
}
func (f *folders) Grow(string, string) (int64, error) { return 4 << 30, nil }
func (f *folders) Unmount(folder string, lost bool) error {
	if f.busy && !lost {
		return errors.New("busy")
	}
	delete(f.mounted, folder)
	if f.busy {
		return filesystem.ErrBusy
	}
	return nil
}
func (f *folders) Health(string) error                      { return f.sick }
func (f *folders) Mounts(string) (map[string]string, error) { return f.mounted, nil }

type scan struct{ list []Seen }

func (s *scan) Scan() ([]Seen, error) {
	var out []Seen
	for _, d := range s.list { // the caller fills in what it knows
		d.Paths = slices.Clone(d.Paths)
		out = append(out, d)
	}
	return out, nil
}
func (s *scan) Rescan(string) error { return nil }

// dm is a map whose paths come up as soon as they are admitted. What is done to it is written down.
type dm struct {
	admit  func(context.Context, string) error
	devs   []string
	up     map[string]error // by path: what its admission gave
	closed bool
	open   error // what Open answers
	size   uint64
	said   []string
}

func (m *dm) admitAll() {
	for _, dev := range m.devs {
		if _, ok := m.up[dev]; ok || m.closed {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		if err := m.admit(ctx, dev); !errors.Is(err, context.DeadlineExceeded) { // the disk is locked: later
			m.up[dev] = err
		}
		cancel()
	}
}

// State admits what waits, in the place of the map's own goroutine.
func (m *dm) State() multipath.State {
	m.admitAll()
	st := multipath.State{Name: "map", Device: "/dev/dm-0", Closed: m.closed, Size: m.size}
	for _, dev := range m.devs {
		p := multipath.Path{Dev: dev, State: multipath.Up}
		if err := m.up[dev]; err != nil {
			p.State, p.Because = multipath.Refused, err.Error()
		}
		st.Paths = append(st.Paths, p)
	}
	return st
}

func (m *dm) SetPaths(devs ...string) error {
	m.said = append(m.said, "paths "+strings.Join(devs, " "))
	m.devs = devs
	return nil
}

func (m *dm) LinkDown(dev, because string) error {
	m.said = append(m.said, "down "+dev)
	m.up[dev] = errors.New(because)
	return nil
}

func (m *dm) FailQueue(context.Context) error {
	m.said, m.closed, m.up = append(m.said, "fail"), true, map[string]error{}
	return nil
}

func (m *dm) Drain(context.Context) error {
	m.said = append(m.said, "drain")
	if !m.closed {
		return errors.New("not closed")
	}
	return nil
}

func (m *dm) Open() error {
	m.said = append(m.said, "open")
	if m.open == nil {
		m.closed = false
	}
	return m.open
}

func (m *dm) Close() {}

const wwn = "naa.1"

type bench struct {
	*Manager
	t      *target
	fs     *folders
	scan   *scan
	dm     *dm
	unused error
	stuck  []string
	lost   []string
	root   string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: &target{keys: map[string]reserve.Key{}}, fs: &folders{mounted: map[string]string{}}, root: t.TempDir(),
		scan: &scan{[]Seen{{WWN: wwn, Size: 2 << 30, Shared: true, Paths: []Path{{Name: "sdb", Dev: "8:16"}, {Name: "sdc", Dev: "8:32"}}}}}}
	b.start(t)
	return b
}

// start is a new agent on the same machine.
func (b *bench) start(t *testing.T) {
	t.Helper()
	codec, err := reserve.NewCodec("cluster")
	if err != nil {
		t.Fatal(err)
	}
	if b.Manager, err = New(Config{Root: b.root, Codec: codec, Scan: b.scan, FS: b.fs, Log: slog.New(slog.DiscardHandler),
		Open:   func(d string) (Nexus, error) { return nexus{b.t, d}, nil },
		Unused: func(string) error { return b.unused },
		Map: func(_ string, admit func(context.Context, string) error, devs ...string) (Map, error) {
			b.dm = &dm{admit: admit, devs: devs, up: map[string]error{}, size: 4 << 30}
			return b.dm, nil
		},
		Stuck: func(disk, why string) { b.stuck = append(b.stuck, disk+" "+why) },
		Lost:  func(in, disk, why string) { b.lost = append(b.lost, in+" "+disk+" "+why) },
	}); err != nil {
		t.Fatal(err)
	}
}

var vol = cluster.Volume{Name: "data", Disk: wwn, Target: "/data", FS: cluster.Ext4, UUID: "u"}

func instance(id string) cluster.Instance {
	return cluster.Instance{ID: id, Spec: cluster.Service{Volumes: []cluster.Volume{vol}}}
}

// take goes through a takeover and returns where it ended.
func (b *bench) take(t *testing.T, k takeover.Key) takeover.StorageOp {
	t.Helper()
	s := takeover.NewStorage(k)
	for range 20 {
		op, victim := s.Next()
		if op == takeover.MayWrite || op == takeover.GiveUp {
			return op
		}
		if op == takeover.VerifyClaim {
			s.Done(true, nil)
			continue
		}
		ok, keys, err := b.Do(t.Context(), vol, op, k, victim)
		if err != nil {
			t.Fatalf("%s: %v", op, err)
		}
		s.Done(ok, keys)
	}
	t.Fatal("the takeover does not end")
	return ""
}

func TestTakeOver(t *testing.T) {
	b := newBench(t)
	first, second := takeover.Key{Node: 1, Epoch: 10}, takeover.Key{Node: 2, Epoch: 20}
	if got := b.take(t, first); got != takeover.MayWrite {
		t.Fatalf("got %s, want %s", got, takeover.MayWrite)
	}
	if len(b.t.keys) != 2 {
		t.Errorf("got keys %v, want one for each of two paths", b.t.keys)
	}
	// Another node, with nexuses of its own, takes it.
	other := newBench(t)
	other.t = b.t
	other.scan.list[0].Paths = []Path{{Name: "other-sdb"}, {Name: "other-sdc"}}
	if got := other.take(t, second); got != takeover.MayWrite {
		t.Fatalf("got %s, want %s", got, takeover.MayWrite)
	}
	ok, keys, err := b.Do(t.Context(), vol, takeover.ReadKeys, first, takeover.Key{})
	if err != nil || ok || slices.Contains(keys, first) {
		t.Errorf("the old owner's look gave %v, %v, %v, want that its key is gone", ok, keys, err)
	}
}

// What an earlier claim has left is failed, unmounted and waited for, in this order, before the key is there.
func TestNoKeyWhileInUse(t *testing.T) {
	b := newBench(t)
	first, second := takeover.Key{Node: 1, Epoch: 10}, takeover.Key{Node: 1, Epoch: 11}
	b.take(t, first)
	b.dm.said, b.dm.open = nil, multipath.ErrOpen
	_, _, err := b.Do(t.Context(), vol, takeover.RegisterKey, second, takeover.Key{})
	if err == nil || !strings.Contains(err.Error(), "earlier claim") {
		t.Errorf("got %v, want a refusal", err)
	}
	for name, k := range b.t.keys {
		if got, _ := b.cfg.Codec.Decode(k, 10); got != first {
			t.Errorf("path %s: got the key of %v, want that of before", name, got)
		}
	}
	if want := []string{"paths 8:16 8:32", "fail", "drain", "open"}; !slices.Equal(b.dm.said, want) {
		t.Errorf("got %q, want %q", b.dm.said, want)
	}
	b.dm.open = nil
	if got := b.take(t, second); got != takeover.MayWrite {
		t.Errorf("got %s", got)
	}
}

// A disk that needs no map is looked at itself.
func TestDiskWithoutMap(t *testing.T) {
	b := newBench(t)
	b.scan.list[0] = Seen{WWN: wwn, Size: 2 << 30, Device: "/dev/nvme0n1", Paths: []Path{{Name: "nvme0n1"}}}
	k := takeover.Key{Node: 1, Epoch: 10}
	b.unused = errors.New("device or resource busy")
	if _, _, err := b.Do(t.Context(), vol, takeover.RegisterKey, k, takeover.Key{}); err == nil || len(b.t.keys) > 0 {
		t.Errorf("got %v and keys %v, want a refusal and none", err, b.t.keys)
	}
	b.unused = nil
	if got := b.take(t, k); got != takeover.MayWrite || b.dm != nil {
		t.Errorf("got %s, a map %v", got, b.dm)
	}
	if err := b.Attach(t.Context(), instance("a")); err != nil || b.fs.mounted[filepath.Join(b.root, "data")] != "/dev/nvme0n1" {
		t.Errorf("got %v, mounted %v", err, b.fs.mounted)
	}
}

func TestDiskThatIsNotSeen(t *testing.T) {
	b := newBench(t)
	b.scan.list = nil
	if _, _, err := b.Do(t.Context(), vol, takeover.RegisterKey, takeover.Key{Node: 1, Epoch: 10}, takeover.Key{}); err == nil || !strings.Contains(err.Error(), "does not see disk naa.1") {
		t.Errorf("got %v", err)
	}
}

// A path that comes back is registered before it is used; one of a node that lost the disk stays out.
func TestPathThatComesBack(t *testing.T) {
	b := newBench(t)
	k := takeover.Key{Node: 1, Epoch: 10}
	b.take(t, k)
	b.dm.admitAll()
	if b.dm.up["8:16"] != nil || b.dm.up["8:32"] != nil {
		t.Fatalf("got %v, want both paths in", b.dm.up)
	}
	delete(b.t.keys, "/dev/sdc") // its link was away, and the target forgot it
	delete(b.dm.up, "8:32")
	b.dm.admitAll()
	if got, _ := b.cfg.Codec.Decode(b.t.keys["/dev/sdc"], 10); b.dm.up["8:32"] != nil || got != k {
		t.Errorf("got %v and key %v, want it in with our key", b.dm.up, got)
	}
	other := newBench(t)
	other.t = b.t
	other.scan.list[0].Paths = []Path{{Name: "other-sdb", Dev: "8:16"}}
	other.take(t, takeover.Key{Node: 2, Epoch: 20})
	delete(b.dm.up, "8:32")
	b.dm.admitAll()
	if b.dm.up["8:32"] == nil || b.t.keys["/dev/sdc"] != 0 {
		t.Errorf("got %v and key %v of a node that lost the disk, want it out", b.dm.up, b.t.keys["/dev/sdc"])
	}
}

func TestFollow(t *testing.T) {
	b := newBench(t)
	b.take(t, takeover.Key{Node: 1, Epoch: 10})
	b.dm.said = nil
	b.scan.list[0].Paths = []Path{{Name: "sdb", Dev: "8:16", State: "running"}, {Name: "sdd", Dev: "8:48", State: "transport-offline"}}
	if err := b.followOnce(); err != nil {
		t.Fatal(err)
	}
	b.scan.list = nil
	if err := b.followOnce(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"paths 8:16 8:48", "down 8:48", "paths "}; !slices.Equal(b.dm.said, want) {
		t.Errorf("got %q, want %q", b.dm.said, want)
	}
}

func TestRegistrations(t *testing.T) {
	b := newBench(t)
	b.take(t, takeover.Key{Node: 3, Epoch: 10})
	b.t.keys["stranger"] = 7
	got, err := b.Registrations(t.Context(), wwn, 12)
	slices.SortFunc(got, func(a, b Registration) int { return b.Paths - a.Paths })
	if err != nil || len(got) != 2 || got[0].Node != 3 || got[0].Epoch != 10 || !got[0].Holder || got[0].Paths != 2 || got[1].Node != 0 || got[1].Holder {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTestCommand(t *testing.T) {
	b := newBench(t)
	b.take(t, takeover.Key{Node: 1, Epoch: 10})
	c := reserve.Command{Op: reserve.RegisterIgnore, New: b.cfg.Codec.Test(1)}
	o, err := b.TestCommand(t.Context(), wwn, "sdb", c)
	if _, rerr := o.Result("n1:/dev/sdb", c.Op); err != nil || rerr != nil || !b.dm.closed {
		t.Errorf("got %v, %v, map closed %v", err, rerr, b.dm.closed)
	}
	if _, err := b.TestCommand(t.Context(), wwn, "sdz", c); err == nil {
		t.Error("a path of another disk: got no error")
	}
	c.New = 7
	if _, err := b.TestCommand(t.Context(), wwn, "sdb", c); err == nil {
		t.Error("a key that is no test's: got no error")
	}
	b.unused = errors.New("mounted")
	c.New = b.cfg.Codec.Test(1)
	if _, err := b.TestCommand(t.Context(), wwn, "sdb", c); err == nil {
		t.Error("a disk in use: got no error")
	}
}

// I/O of an instance that lost its disk fails, but not that of one that has the disk since.
func TestFail(t *testing.T) {
	b := newBench(t)
	b.take(t, takeover.Key{Node: 1, Epoch: 10})
	if err := b.Attach(t.Context(), instance("a")); err != nil {
		t.Fatal(err)
	}
	b.Cut("a")
	if err := b.Fail(t.Context(), "b"); err != nil || b.dm.closed {
		t.Errorf("got %v, closed %v for another instance", err, b.dm.closed)
	}
	if err := b.Fail(t.Context(), "a"); err != nil || !b.dm.closed {
		t.Errorf("got %v, closed %v", err, b.dm.closed)
	}
	b.fs.busy, b.unused = true, errors.New("busy")
	if err := b.Detach(t.Context(), instance("a")); err != nil {
		t.Fatal(err)
	}
	b.look()
	if len(b.stuck) > 0 {
		t.Errorf("got %q at once", b.stuck)
	}
	b.Manager.stuck[wwn].since = time.Now().Add(-StuckAfter)
	b.look()
	b.look()
	if want := []string{"naa.1 busy"}; !slices.Equal(b.stuck, want) {
		t.Errorf("got %q, want %q", b.stuck, want)
	}
	b.unused = nil
	b.look()
	if len(b.Manager.stuck) > 0 {
		t.Error("it is held for stuck when nobody has it open")
	}
}

func TestAttach(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.take(t, takeover.Key{Node: 1, Epoch: 1})
	if err := b.Attach(ctx, instance("a")); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(b.root, "data")
	if b.fs.mounted[folder] != "/dev/dm-0" {
		t.Fatalf("got %v, want the map mounted at %s", b.fs.mounted, folder)
	}
	if _, err := os.Stat(filepath.Join(folder, "data")); err != nil {
		t.Error(err)
	}
	if err := b.Attach(ctx, instance("b")); err == nil {
		t.Error("got no error for what another instance has mounted")
	}
	b.start(t) // a new agent knows it again
	if got := b.MountedFor("data"); got != "a" {
		t.Errorf("got %q after a restart, want a", got)
	}
	if err := b.Attach(ctx, instance("a")); err != nil {
		t.Error(err)
	}
	b.fs.busy = true
	if err := b.Detach(ctx, instance("a")); err == nil {
		t.Error("got no error from a volume that is in use: its end would be reported")
	}
	b.Cut("a")
	if err := b.Detach(ctx, instance("a")); err != nil || len(b.fs.mounted) > 0 {
		t.Errorf("got %v and %v from one that was lost, want it given up", err, b.fs.mounted)
	}
	b.fs.busy = false
	b.take(t, takeover.Key{Node: 1, Epoch: 2})
	b.fs.foreign = filesystem.ErrForeign
	if err := b.Attach(ctx, instance("b")); !errors.Is(err, filesystem.ErrForeign) || b.MountedFor("data") != "" {
		t.Errorf("got %v, mounted for %q, want ErrForeign and nobody", err, b.MountedFor("data"))
	}
}

// What an agent mounted that died before it started anything must not keep the next claim out.
func TestLeftMount(t *testing.T) {
	b := newBench(t)
	b.take(t, takeover.Key{Node: 1, Epoch: 1})
	if err := b.Attach(t.Context(), instance("a")); err != nil {
		t.Fatal(err)
	}
	b.start(t)
	if got := b.take(t, takeover.Key{Node: 1, Epoch: 30}); got != takeover.MayWrite || len(b.fs.mounted) > 0 {
		t.Errorf("got %s with %v mounted, want a takeover with nothing", got, b.fs.mounted)
	}
}

func TestHealth(t *testing.T) {
	b := newBench(t)
	b.take(t, takeover.Key{Node: 1, Epoch: 1})
	if err := b.Attach(t.Context(), instance("a")); err != nil {
		t.Fatal(err)
	}
	b.look()
	b.fs.sick = errors.New("read-only after an error")
	b.look()
	b.look()
	if want := []string{"a naa.1 read-only after an error"}; !slices.Equal(b.lost, want) {
		t.Errorf("got %q, want %q", b.lost, want)
	}
}

func TestMakeAndGrow(t *testing.T) {
	b := newBench(t)
	r := cluster.VolumeRecord{Name: "data", Disk: wwn, FS: cluster.Ext4, Size: 2 << 30}
	if err := b.Make(t.Context(), r, takeover.Key{Node: 1, Epoch: 5}, filesystem.Empty); err != nil || !slices.Equal(b.fs.made, []string{"/dev/dm-0 data"}) {
		t.Fatalf("got %v, made %v", err, b.fs.made)
	}
	// The key that made it stays, and one that comes later takes the disk.
	if got := b.take(t, takeover.Key{Node: 1, Epoch: 6}); got != takeover.MayWrite {
		t.Errorf("got %s", got)
	}
	if err := b.Make(t.Context(), r, takeover.Key{Node: 1, Epoch: 5}, filesystem.Empty); err == nil || len(b.fs.made) != 1 {
		t.Errorf("got %v, made %v by an older claim, want a refusal", err, b.fs.made)
	}
	if _, err := b.Grow(t.Context(), r); !errors.Is(err, ErrNotMounted) {
		t.Errorf("got %v, want ErrNotMounted", err)
	}
	if err := b.Attach(t.Context(), instance("a")); err != nil {
		t.Fatal(err)
	}
	if size, err := b.Grow(t.Context(), r); err != nil || size != 4<<30 {
		t.Errorf("got %d, %v", size, err)
	}
	r.Size = 3 << 30
	if _, err := b.Grow(t.Context(), r); err == nil || !strings.Contains(err.Error(), "smaller") {
		t.Errorf("got %v for a disk that shrank", err)
	}
}
