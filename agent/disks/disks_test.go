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

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/filesystem"
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

func (s *scan) Scan() ([]Seen, error) { return s.list, nil }

const wwn = "naa.1"

type bench struct {
	*Manager
	t      *target
	fs     *folders
	scan   *scan
	unused error
	lost   []string
	root   string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: &target{keys: map[string]reserve.Key{}}, fs: &folders{mounted: map[string]string{}}, root: t.TempDir(),
		scan: &scan{[]Seen{{WWN: wwn, Size: 2 << 30, Device: "/dev/dm-0", Paths: []Path{{Name: "sdb"}, {Name: "sdc"}}}}}}
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
		Lost:   func(in, disk, why string) { b.lost = append(b.lost, in+" "+disk+" "+why) },
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

func TestNoKeyWhileInUse(t *testing.T) {
	b := newBench(t)
	b.unused = errors.New("device or resource busy")
	_, _, err := b.Do(t.Context(), vol, takeover.RegisterKey, takeover.Key{Node: 1, Epoch: 10}, takeover.Key{})
	if err == nil || !strings.Contains(err.Error(), "earlier claim") || len(b.t.keys) > 0 {
		t.Errorf("got %v and keys %v, want a refusal and none", err, b.t.keys)
	}
}

func TestDiskThatCannotBeFenced(t *testing.T) {
	b := newBench(t)
	k := takeover.Key{Node: 1, Epoch: 10}
	b.scan.list[0].Device = ""
	if _, _, err := b.Do(t.Context(), vol, takeover.RegisterKey, k, takeover.Key{}); err == nil || !strings.Contains(err.Error(), "multipath") {
		t.Errorf("two paths and no map: got %v", err)
	}
	b.scan.list = nil
	if _, _, err := b.Do(t.Context(), vol, takeover.RegisterKey, k, takeover.Key{}); err == nil || !strings.Contains(err.Error(), "does not see disk naa.1") {
		t.Errorf("no disk: got %v", err)
	}
}

func TestAttach(t *testing.T) {
	b, ctx := newBench(t), t.Context()
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
	b.fs.foreign = filesystem.ErrForeign
	if err := b.Attach(ctx, instance("b")); !errors.Is(err, filesystem.ErrForeign) || b.MountedFor("data") != "" {
		t.Errorf("got %v, mounted for %q, want ErrForeign and nobody", err, b.MountedFor("data"))
	}
}

// What an agent mounted that died before it started anything must not keep the next claim out.
func TestLeftMount(t *testing.T) {
	b := newBench(t)
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
	if _, err := b.Grow(r); !errors.Is(err, ErrNotMounted) {
		t.Errorf("got %v, want ErrNotMounted", err)
	}
	if err := b.Attach(t.Context(), instance("a")); err != nil {
		t.Fatal(err)
	}
	if size, err := b.Grow(r); err != nil || size != 4<<30 {
		t.Errorf("got %d, %v", size, err)
	}
	r.Size = 3 << 30
	if _, err := b.Grow(r); err == nil || !strings.Contains(err.Error(), "smaller") {
		t.Errorf("got %v for a disk that shrank", err)
	}
}

func TestSysfs(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, "block", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"sdb", "sdc"} {
		put(d+"/device/wwid", "naa.6001405aa\n")
		put(d+"/device/state", "running\n")
		put(d+"/size", "2048\n")
		put(d+"/queue/logical_block_size", "512\n")
		put(d+"/holders/dm-0/x", "")
	}
	put("dm-0/dm/uuid", "mpath-36001405aa\n")
	put("dm-0/size", "2048\n")
	put("sdd/device/wwid", "t10.ATA     QEMU HARDDISK   QM1  \n")
	put("sdd/size", "4096\n")
	put("vda/size", "4096\n") // has no worldwide name
	got, err := Sysfs{Root: root}.Scan()
	if err != nil || len(got) != 2 {
		t.Fatalf("got %+v, %v, want two disks", got, err)
	}
	if d := got[0]; d.WWN != "naa.6001405aa" || len(d.Paths) != 2 || d.Device != "/dev/dm-0" || d.Size != 1<<20 || d.Paths[0].State != "running" {
		t.Errorf("got %+v", d)
	}
	if d := got[1]; d.WWN != "t10.ATA_QEMU_HARDDISK_QM1" || d.Device != "/dev/sdd" {
		t.Errorf("got %+v", d)
	}
}
