package multipath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/storage/reserve"
)

// A real target for a real map, in a guest: the kernel's own (LIO) behind its loopback fabric (tcm_loop). Each target
// port group of that is a SCSI disk here, and can be taken off its transport.
//
//	file in a tmpfs <- loop <- LIO <- tcm_loop, one for each path -> /dev/sda, sdb <- the map
const (
	lioConfig = "/sys/kernel/config/target"
	lioFabric = lioConfig + "/loopback"
	lioSize   = 8 << 20
	slot      = 4096
)

// maxWait ends a test that waits for what never happens.
const maxWait = 60 * time.Second

type lio struct {
	t    testing.TB
	undo []func()
	// slow: between the loop device and the target is a map that can hold writes back.
	slow   bool
	number string // of the loop device
}

// lioDisk is a path.
type lioDisk struct {
	tpg, name, dev string
}

type lioUnit struct {
	core, loop string
	file       *os.File
	wwn        string
}

func newLIO(t *testing.T) *lio {
	t.Helper()
	if _, err := os.Stat("/sys/module/tcm_loop"); err != nil || os.Getenv("SKEIN_BOX") != "/test/box" {
		t.Skip("needs a kernel of its own: runs in the guest of tests/guest")
	}
	if _, err := unix.Klogctl(unix.SYSLOG_ACTION_CONSOLE_LEVEL, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	l := &lio{t: t}
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
	dbroot, err := os.ReadFile(lioConfig + "/dbroot")
	l.must(err)
	pr := strings.TrimSpace(string(dbroot)) + "/pr"
	l.must(os.RemoveAll(pr))
	l.must(os.MkdirAll(pr, 0o700))
	t.Cleanup(func() {
		for _, f := range slices.Backward(l.undo) {
			f()
		}
	})
	return l
}

func (l *lio) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lio) write(file, text string) {
	l.t.Helper()
	l.must(os.WriteFile(file, []byte(text), 0))
}

func (l *lio) until(what string, ok func() bool) {
	l.t.Helper()
	for begin := time.Now(); !ok(); {
		if time.Since(begin) > maxWait {
			l.t.Fatalf("no %s", what)
		}
		time.Sleep(2 * time.Millisecond) // between two looks at what tells nobody
	}
}

// unit makes a disk of the target.
func (l *lio) unit(n int) *lioUnit {
	l.t.Helper()
	u := &lioUnit{core: fmt.Sprintf("%s/core/iblock_%d/disk", lioConfig, n)}
	var err error
	name := fmt.Sprintf("/tmp/disk%d.img", n)
	u.file, err = os.Create(name)
	l.must(err)
	l.must(u.file.Truncate(lioSize))
	ctl, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	l.must(err)
	k, err := unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
	unix.Close(ctl)
	l.must(err)
	u.loop = fmt.Sprintf("/dev/loop%d", k)
	u.control(l, unix.LOOP_SET_FD, int(u.file.Fd()))
	l.must(os.MkdirAll(u.core, 0o755))
	l.write(u.core+"/control", "udev_path="+l.below(u.loop))
	l.write(u.core+"/wwn/vpd_unit_serial", fmt.Sprintf("6e9f4a%02x-3b1d-4c58-9d0e-8a7b6c5d4e3f", n))
	l.write(u.core+"/enable", "1")
	l.undo = append(l.undo, func() {
		l.must(os.Remove(u.core))
		l.must(os.Remove(filepath.Dir(u.core)))
		u.control(l, unix.LOOP_CLR_FD, 0)
		u.file.Close()
	})
	return u
}

// below is what the target's disk lies on: the loop device, or with slow a map of it that can hold writes back.
func (l *lio) below(loop string) string {
	if !l.slow {
		return loop
	}
	_, _, err := dmCall("make", unix.DM_DEV_CREATE, slowMap, 0, 0, nil)
	l.must(err)
	l.undo = append(l.undo, func() { l.must(DM{}.Remove(slowMap)) })
	var st unix.Stat_t
	l.must(unix.Stat(loop, &st))
	l.number = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	l.delay("linear", l.number+" 0")
	h, _, err := dmCall("look at", unix.DM_DEV_STATUS, slowMap, 0, 0, nil)
	l.must(err)
	node, err := deviceNode(h.Dev)
	l.must(err)
	return node
}

const slowMap = "naa.slow"

// delay puts another line in the place of the map below the target.
func (l *lio) delay(kind, table string) {
	l.t.Helper()
	payload := make([]byte, unix.SizeofDmTargetSpec)
	spec := (*unix.DmTargetSpec)(unsafe.Pointer(&payload[0]))
	spec.Length = lioSize / SectorSize
	copy(spec.Target_type[:], kind)
	_, _, err := dmCall("load", unix.DM_TABLE_LOAD, slowMap, 0, 1, append(payload, table+"\x00\x00\x00\x00\x00\x00\x00\x00"...))
	l.must(err)
	_, _, err = dmCall("suspend", unix.DM_DEV_SUSPEND, slowMap, unix.DM_SUSPEND_FLAG|unix.DM_SKIP_LOCKFS_FLAG, 0, nil)
	l.must(err)
	l.must(DM{}.resume(slowMap))
}

// TestLIODrain: a write is under way at the target, which holds it back, when the claim ends. It is not drained until
// that write has ended.
func TestLIODrain(t *testing.T) {
	l := newLIO(t)
	l.slow = true
	u := l.unit(0)
	a := l.path(u, 0)
	m := l.start(Config{WWN: u.wwn, Every: time.Hour}, a) // the first check is enough
	l.ups(m, 1)
	w := l.writer(m.Device())
	l.more(w)
	l.delay("delay", l.number+" 0 3600000")
	l.until("write that is held back", func() bool {
		_, data, err := dmCall("look at", unix.DM_TABLE_STATUS, slowMap, unix.DM_NOFLUSH_FLAG, 0, nil)
		l.must(err)
		f := strings.Fields(unix.ByteSliceToString(data[unix.SizeofDmTargetSpec:]))
		return len(f) == 3 && f[1] == "1"
	})
	at := w.acked.Load()
	l.must(m.FailQueue(l.ctx()))
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := m.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain while a write is under way: got %v, want %v", err, context.DeadlineExceeded)
	}
	if err := m.Open(); err == nil {
		t.Error("opened while a write is under way")
	}
	l.delay("linear", l.number+" 0")
	l.must(m.Drain(l.ctx()))
	buf := make([]byte, 8)
	_, err := u.file.ReadAt(buf, int64((at+1)%32)*slot)
	l.must(err)
	if got := binary.LittleEndian.Uint64(buf); got != at+1 {
		t.Errorf("the write that was under way: the file has %d when drained, want %d", got, at+1)
	}
	<-w.done
	if !errors.Is(w.err, unix.EIO) || w.acked.Load() != at+1 {
		t.Errorf("the writer: got %v after %d, want %v after %d", w.err, w.acked.Load(), unix.EIO, at+1)
	}
	l.must(m.Remove())
}

func (u *lioUnit) control(l *lio, request uint, arg int) {
	l.t.Helper()
	fd, err := unix.Open(u.loop, unix.O_RDWR|unix.O_CLOEXEC, 0)
	l.must(err)
	defer unix.Close(fd)
	l.must(unix.IoctlSetInt(fd, request, arg))
}

// path makes a path to a disk of the target.
func (l *lio) path(u *lioUnit, n int) *lioDisk {
	l.t.Helper()
	wwn := fmt.Sprintf("%s/naa.60014059811d88%02x", lioFabric, n)
	d := &lioDisk{tpg: wwn + "/tpgt_1"}
	before, _ := filepath.Glob("/sys/class/block/sd*")
	l.must(os.MkdirAll(d.tpg, 0o755))
	l.write(d.tpg+"/nexus", fmt.Sprintf("naa.60014059811d99%02x", n))
	l.must(os.MkdirAll(d.tpg+"/lun/lun_0", 0o755))
	l.must(os.Symlink(u.core, d.tpg+"/lun/lun_0/disk"))
	l.until("disk of the path", func() bool {
		now, _ := filepath.Glob("/sys/class/block/sd*")
		for _, f := range now {
			if !slices.Contains(before, f) {
				number, err := os.ReadFile(f + "/dev")
				if err != nil {
					return false
				}
				d.name, d.dev = filepath.Base(f), strings.TrimSpace(string(number))
				fd, err := unix.Open("/dev/"+d.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err == nil {
					unix.Close(fd)
				}
				return err == nil
			}
		}
		return false
	})
	if u.wwn == "" {
		data, err := os.ReadFile("/sys/class/block/" + d.name + "/device/wwid")
		l.must(err)
		u.wwn = strings.TrimSpace(string(data))
	}
	l.undo = append(l.undo, func() {
		l.must(os.Remove(d.tpg + "/lun/lun_0/disk"))
		l.must(os.Remove(d.tpg + "/lun/lun_0"))
		_ = os.WriteFile(d.tpg+"/nexus", []byte("NULL"), 0)
		l.must(os.Remove(d.tpg))
		l.must(os.Remove(wwn))
	})
	return d
}

// cut takes the path off its transport; mend puts it back.
func (l *lio) cut(d *lioDisk)  { l.t.Helper(); l.write(d.tpg+"/transport_status", "offline") }
func (l *lio) mend(d *lioDisk) { l.t.Helper(); l.write(d.tpg+"/transport_status", "online") }

// start looks after a map of these paths, which is removed at the end.
func (l *lio) start(cfg Config, paths ...*lioDisk) *Map {
	l.t.Helper()
	if cfg.Every == 0 {
		cfg.Every = 100 * time.Millisecond
	}
	if cfg.Hold == 0 {
		cfg.Hold = time.Millisecond
	}
	cfg.Again = 200 * time.Millisecond
	cfg.Deadline = 20 * time.Second // the guest may get little of the machine
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	var devs []string
	for _, p := range paths {
		devs = append(devs, p.dev)
	}
	m, err := Start(cfg, devs...)
	l.must(err)
	l.undo = append(l.undo, func() { // of a test that failed
		m.Close()
		if live, err := (DM{}).Find(cfg.WWN); err == nil && live != nil {
			_ = DM{}.Message(cfg.WWN, "fail_if_no_path")
			_ = DM{}.Remove(cfg.WWN)
		}
	})
	return m
}

// ups waits until these many paths are up.
func (l *lio) ups(m *Map, n int) {
	l.t.Helper()
	l.until(fmt.Sprintf("%d paths up", n), func() bool { return countUp(m.State()) == n })
}

func countUp(s State) int {
	n := 0
	for _, p := range s.Paths {
		if p.State == Up {
			n++
		}
	}
	return n
}

// writer writes numbers to the map, one each 20 ms, past the page cache.
type writer struct {
	acked   atomic.Uint64
	longest atomic.Int64
	stop    atomic.Bool
	done    chan struct{}
	err     error
}

func (l *lio) writer(device string) *writer {
	l.t.Helper()
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	l.must(err)
	buf, err := unix.Mmap(-1, 0, slot, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	l.must(err)
	w := &writer{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		defer unix.Close(fd)
		defer func() { _ = unix.Munmap(buf) }()
		beat := time.NewTicker(20 * time.Millisecond)
		defer beat.Stop()
		for seq := uint64(1); !w.stop.Load(); seq++ {
			<-beat.C
			binary.LittleEndian.PutUint64(buf, seq)
			begin := time.Now()
			if _, w.err = unix.Pwrite(fd, buf, int64(seq%32)*slot); w.err != nil {
				return
			}
			w.longest.Store(max(w.longest.Load(), int64(time.Since(begin))))
			w.acked.Store(seq)
		}
	}()
	return w
}

func (l *lio) more(w *writer) {
	l.t.Helper()
	from := w.acked.Load()
	l.until("writes", func() bool {
		select {
		case <-w.done:
			l.t.Fatalf("after %d writes: %v", w.acked.Load(), w.err)
		default:
		}
		return w.acked.Load() >= from+10
	})
}

func (l *lio) finish(w *writer, u *lioUnit) {
	l.t.Helper()
	w.stop.Store(true)
	<-w.done
	if w.err != nil {
		l.t.Errorf("a write failed: %v", w.err)
	}
	buf := make([]byte, 8)
	for seq := w.acked.Load(); seq > 0 && seq+32 > w.acked.Load(); seq-- {
		_, err := u.file.ReadAt(buf, int64(seq%32)*slot)
		l.must(err)
		if got := binary.LittleEndian.Uint64(buf); got != seq {
			l.t.Errorf("slot %d: got write %d, want %d, which was acknowledged", seq%32, got, seq)
		}
	}
}

func (l *lio) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	l.t.Cleanup(cancel)
	return ctx
}

// TestLIOPaths: paths go and come under writes, one, both, by agents that come and go too; no write fails.
func TestLIOPaths(t *testing.T) {
	l := newLIO(t)
	u, other := l.unit(0), l.unit(1)
	a, b, foreign := l.path(u, 0), l.path(u, 1), l.path(other, 2)
	m := l.start(Config{WWN: u.wwn}, a, b)
	l.ups(m, 2)
	w := l.writer(m.Device())
	l.more(w)
	stall := func(what string) {
		t.Logf("%s: longest write %v", what, time.Duration(w.longest.Swap(0)).Round(time.Millisecond))
	}
	stall("no fault")

	l.cut(a)
	l.until("failed path", func() bool { return countUp(m.State()) == 1 })
	l.more(w)
	stall("one path cut")
	l.mend(a)
	l.ups(m, 2)
	l.more(w)
	stall("and back")
	l.cut(b)
	l.until("failed path", func() bool { return countUp(m.State()) == 1 })
	l.more(w)
	l.mend(b)
	l.ups(m, 2)
	stall("the other path cut and back")

	l.must(m.LinkDown(a.dev, "the link of wire A is down"))
	l.ups(m, 2)
	l.more(w)

	l.cut(a)
	l.cut(b)
	l.until("end of all paths", func() bool { s := m.State(); return countUp(s) == 0 && s.Queueing })
	at := w.acked.Load()
	s := m.State()
	if s.NoPathSince.IsZero() || !s.QueueEnds.After(s.NoPathSince) {
		t.Errorf("while it queues: got %+v", s)
	}
	l.mend(b)
	l.ups(m, 1)
	l.more(w)
	l.mend(a)
	l.ups(m, 2)
	if at == 0 || m.State().Queueing {
		t.Errorf("at %d, got %+v, want that it queues no more", at, m.State())
	}
	stall("both paths cut and back")

	// A path that leads to another disk.
	l.must(m.SetPaths(a.dev, b.dev, foreign.dev))
	l.until("refusal of the other disk", func() bool {
		for _, p := range m.State().Paths {
			if p.Dev == foreign.dev {
				return p.State == Unfit && strings.Contains(p.Because, strings.ToLower(other.wwn))
			}
		}
		return false
	})
	l.must(m.SetPaths(a.dev))
	l.until("one path", func() bool {
		live, err := DM{}.look(u.wwn)
		return err == nil && len(live.Table.Groups) == 1 && len(live.Table.Groups[0].Paths) == 1
	})
	l.more(w)
	l.must(m.SetPaths(a.dev, b.dev))
	l.ups(m, 2)
	l.more(w)
	stall("a path dropped and added")

	// The agent restarts; one path goes while nobody looks.
	device := m.Device()
	m.Close()
	l.cut(b)
	l.more(w)
	m = l.start(Config{WWN: u.wwn}, a, b)
	if m.Device() != device {
		t.Errorf("adopted: got %s, want %s", m.Device(), device)
	}
	l.more(w)
	l.mend(b)
	l.ups(m, 2)
	l.more(w)
	// It died between suspending and resuming.
	m.Close()
	_, _, err := dmCall("suspend", unix.DM_DEV_SUSPEND, u.wwn, unix.DM_SUSPEND_FLAG|unix.DM_SKIP_LOCKFS_FLAG|unix.DM_NOFLUSH_FLAG, 0, nil)
	l.must(err)
	m = l.start(Config{WWN: u.wwn}, a, b)
	l.ups(m, 2)
	l.more(w)

	// The disk grows.
	l.must(u.file.Truncate(2 * lioSize))
	u.control(l, unix.LOOP_SET_CAPACITY, 0)
	for _, d := range []*lioDisk{a, b} {
		l.write("/sys/class/block/"+d.name+"/device/rescan", "1")
	}
	l.until("growth", func() bool { return m.State().Size == 2*lioSize })
	size, err := os.ReadFile("/sys/class/block/" + filepath.Base(m.Device()) + "/size")
	l.must(err)
	if got, want := strings.TrimSpace(string(size)), fmt.Sprint(2*lioSize/SectorSize); got != want {
		t.Errorf("size of the grown map: got %s, want %s sectors", got, want)
	}
	l.more(w)
	stall("restart and growth")
	if err := m.Remove(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("remove a map that is open: got %v, want %v", err, unix.EBUSY)
	}
	l.finish(w, u)
	l.must(m.Remove())
	if live, err := (DM{}).Find(u.wwn); live != nil || err != nil {
		t.Errorf("removed: got %+v, %v", live, err)
	}
}

// TestLIOQueueEnds: no path for longer than allowed.
func TestLIOQueueEnds(t *testing.T) {
	l := newLIO(t)
	u := l.unit(0)
	a := l.path(u, 0)
	m := l.start(Config{WWN: u.wwn, Settings: Settings{QueueFor: 2 * time.Second}}, a)
	l.ups(m, 1)
	w := l.writer(m.Device())
	l.more(w)
	l.cut(a)
	<-w.done
	if !errors.Is(w.err, unix.EIO) {
		t.Errorf("after the queue's time: got %v, want %v", w.err, unix.EIO)
	}
	l.until("word that it gave up", func() bool { return m.State().GaveUp })
	l.mend(a)
	l.ups(m, 1)
	l.until("queue", func() bool { live, err := DM{}.look(u.wwn); return err == nil && live.Table.Queue })
	w = l.writer(m.Device())
	l.more(w)
	l.finish(w, u)
	l.must(m.Remove())
}

// TestLIOALUA: the target says which port is better, and changes its mind.
func TestLIOALUA(t *testing.T) {
	l := newLIO(t)
	u := l.unit(0)
	a, b := l.path(u, 0), l.path(u, 1)
	group := u.core + "/alua/worse"
	l.must(os.Mkdir(group, 0o755))
	l.undo = append(l.undo, func() { l.must(os.Remove(group)) })
	l.write(group+"/tg_pt_gp_id", "7")
	l.write(group+"/alua_access_type", "1") // implicit
	l.write(a.tpg+"/lun/lun_0/alua_tg_pt_gp", "worse")
	l.write(group+"/alua_access_state", "1")
	m := l.start(Config{WWN: u.wwn, Settings: Settings{Failback: 300 * time.Millisecond}}, a, b)
	order := func(first *lioDisk, groups int) {
		t.Helper()
		l.until("paths in order", func() bool {
			live, err := DM{}.look(u.wwn)
			return err == nil && live != nil && countUp(m.State()) == 2 && len(live.Table.Groups) == groups && live.Table.Groups[0].Paths[0] == first.dev
		})
	}
	order(b, 2)
	w := l.writer(m.Device())
	l.until("I/O in the first group", func() bool { return m.State().Active == 1 })
	l.cut(b)
	l.until("I/O in the second group", func() bool { return m.State().Active == 2 })
	l.more(w)
	l.mend(b)
	l.until("failback", func() bool {
		s, err := DM{}.Status(u.wwn)
		return err == nil && s.active() == 1 && countUp(m.State()) == 2
	})
	l.write(group+"/alua_access_state", "0")
	l.until("one group", func() bool {
		live, err := DM{}.look(u.wwn)
		return err == nil && len(live.Table.Groups) == 1
	})
	l.write(group+"/alua_access_state", "2") // standby
	l.ups(m, 1)
	l.more(w)
	l.finish(w, u)
	l.must(m.Remove())
	l.write(a.tpg+"/lun/lun_0/alua_tg_pt_gp", "default_tg_pt_gp")
}

// TestLIOFence: the owner is registered on both paths and is preempted; and writes that wait while a new claim begins
// never land.
func TestLIOFence(t *testing.T) {
	l := newLIO(t)
	u := l.unit(0)
	a, b, thief := l.path(u, 0), l.path(u, 1), l.path(u, 2)
	var mu sync.Mutex
	key, admitted := reserve.Key(0x11), []string{}
	send := func(node string, c reserve.Command) (reserve.Answer, error) {
		d, err := reserve.Open("/dev/" + node)
		if err != nil {
			return reserve.Answer{}, err
		}
		defer d.Close()
		for range 5 {
			var ans reserve.Answer
			if ans, err = d.Exec(l.ctx(), c); !errors.Is(err, reserve.ErrAttention) {
				return ans, err
			}
		}
		return reserve.Answer{}, err
	}
	must := func(node string, c reserve.Command) reserve.Answer {
		t.Helper()
		ans, err := send(node, c)
		l.must(err)
		return ans
	}
	names := map[string]string{a.dev: a.name, b.dev: b.name}
	// Registers the claim's key unless the disk took it away: what package takeover's claim does.
	fenced := false
	admit := func(_ context.Context, dev string) error {
		mu.Lock()
		defer mu.Unlock()
		if fenced {
			return errors.New("this claim was fenced")
		}
		if _, err := send(names[dev], reserve.Command{Op: reserve.RegisterIgnore, New: key, APTPL: true}); err != nil {
			return err
		}
		admitted = append(admitted, dev)
		return nil
	}
	m := l.start(Config{WWN: u.wwn, Admit: admit}, a, b)
	l.ups(m, 2)
	if keys := must(a.name, reserve.Command{Op: reserve.ReadKeys}).Keys; !slices.Equal(keys, []reserve.Key{key, key}) {
		t.Fatalf("registered: got %v, want the key on both paths", keys)
	}
	must(a.name, reserve.Command{Op: reserve.Reserve, Key: key})
	w := l.writer(m.Device())
	l.more(w)
	must(thief.name, reserve.Command{Op: reserve.RegisterIgnore, New: 0x22, APTPL: true})
	must(thief.name, reserve.Command{Op: reserve.Preempt, Key: 0x22, Victim: key})
	<-w.done
	if !errors.Is(w.err, unix.EBADE) || countUp(m.State()) != 2 {
		t.Errorf("fenced: got %v with %d paths up, want %v with 2", w.err, countUp(m.State()), unix.EBADE)
	}

	// The owner again, by a new claim; then writes wait, and it is fenced meanwhile.
	claim := func(k, victim reserve.Key) {
		t.Helper()
		mu.Lock()
		key, fenced = k, false
		mu.Unlock()
		l.must(m.FailQueue(l.ctx()))
		if live, err := (DM{}).look(u.wwn); err != nil || len(live.Table.Groups) > 0 {
			if err := m.Open(); err == nil {
				t.Error("opened without having been drained")
			}
		}
		l.must(m.Drain(l.ctx()))
		l.must(m.Open())
		l.ups(m, 2)
		must(a.name, reserve.Command{Op: reserve.Preempt, Key: k, Victim: victim})
	}
	claim(0x31, 0x22)
	w = l.writer(m.Device())
	l.more(w)
	l.cut(a)
	l.cut(b)
	l.until("queue", func() bool { return m.State().Queueing })
	at := w.acked.Load()
	must(thief.name, reserve.Command{Op: reserve.RegisterIgnore, New: 0x42, APTPL: true})
	must(thief.name, reserve.Command{Op: reserve.Preempt, Key: 0x42, Victim: 0x31})
	mu.Lock()
	fenced = true
	mu.Unlock()
	// The other node writes; this is what must stay.
	theirs := bytes.Repeat([]byte{0xee}, slot)
	fd, err := unix.Open("/dev/"+thief.name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	l.must(err)
	for i := range 32 {
		_, err := unix.Pwrite(fd, theirs, int64(i)*slot)
		l.must(err)
	}
	l.must(unix.Fsync(fd))
	unix.Close(fd)
	l.mend(a)
	l.mend(b)
	l.until("refused admissions", func() bool {
		n := 0
		for _, p := range m.State().Paths {
			if p.State == Refused && strings.Contains(p.Because, "fenced") {
				n++
			}
		}
		return n == 2
	})
	// A write that waits in the map waits on; one that was on its way to the target when the path was cut may be sent
	// again by the SCSI layer, and the disk refuses it.
	select {
	case <-w.done:
		if !errors.Is(w.err, unix.EBADE) {
			t.Errorf("the write that waits ended before the queue was failed: %v", w.err)
		}
	default:
	}
	// The new claim: registers only after the queue is failed and drained.
	l.must(m.FailQueue(l.ctx()))
	<-w.done
	if !errors.Is(w.err, unix.EIO) && !errors.Is(w.err, unix.EBADE) || w.acked.Load() > at+1 {
		t.Errorf("the write that waited: got %v, %d acknowledged of %d, want %v or %v", w.err, w.acked.Load(), at, unix.EIO, unix.EBADE)
	}
	l.must(m.Drain(l.ctx()))
	// Somebody still has the device: its pages would be written under the new key. An agent's restart does not forget.
	m.Close()
	m = l.start(Config{WWN: u.wwn, Admit: admit}, a, b)
	if s := m.State(); !s.Closed {
		t.Errorf("adopted: got %+v, want closed", s)
	}
	fd, err = unix.Open(m.Device(), unix.O_RDWR|unix.O_CLOEXEC, 0)
	l.must(err)
	if err := m.Open(); !errors.Is(err, ErrOpen) {
		t.Errorf("open of a map that is in use: got %v, want %v", err, ErrOpen)
	}
	unix.Close(fd)
	claim(0x51, 0x42)
	got := make([]byte, slot)
	for i := range 32 {
		_, err := u.file.ReadAt(got, int64(i)*slot)
		l.must(err)
		if !bytes.Equal(got, theirs) {
			t.Errorf("slot %d was overwritten by a write of the fenced claim", i)
		}
	}
	w = l.writer(m.Device())
	l.more(w)
	l.finish(w, u)
	if len(admitted) < 6 {
		t.Errorf("admitted: got %v, want both paths by each of three claims", admitted)
	}
	l.must(m.Remove())
	must(a.name, reserve.Command{Op: reserve.Clear, Key: 0x51})
}
