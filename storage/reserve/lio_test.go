package reserve

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/takeover"
)

const (
	slotSize  = 4096
	slotCount = 32
)

// stamp is what a write leaves behind.
type stamp struct {
	Node, Epoch, Seq uint64
}

// stamps reads from the file behind the disk who wrote each slot last. A slot that is not of one write all
// through is torn, which a target must not do to 4 KiB here.
func (l *lioTarget) stamps() [slotCount]stamp {
	l.t.Helper()
	var out [slotCount]stamp
	buf := make([]byte, slotSize)
	for i := range out {
		if _, err := l.file.ReadAt(buf, int64(i*slotSize)); err != nil {
			l.t.Errorf("read the file behind the disk: %v", err)
		} else if !bytes.Equal(buf[:24], buf[slotSize-24:]) {
			l.t.Errorf("slot %d is torn", i)
		}
		out[i] = stamp{binary.LittleEndian.Uint64(buf), binary.LittleEndian.Uint64(buf[8:]), binary.LittleEndian.Uint64(buf[16:])}
	}
	return out
}

// lioWriter is an owner that knows nothing but its disk: it writes without the page cache, one write after
// the other, through its paths in turn. When it is refused it goes on for a while, as a fenced owner with a
// queue does.
type lioWriter struct {
	fds    []int
	key    takeover.Key
	acked  atomic.Uint64 // sequence number of the last write that was acknowledged
	stop   atomic.Bool
	done   chan struct{}
	err    error // the first refusal
	late   int   // writes tried after that
	landed int   // of those, how many were acknowledged
}

// lateWrites is how many a refused owner tries.
const lateWrites = 25

func (l *lioTarget) writer(k takeover.Key, nexuses ...int) *lioWriter {
	l.t.Helper()
	w := &lioWriter{key: k, done: make(chan struct{})}
	for _, i := range nexuses {
		fd, err := unix.Open(l.nexus[i], unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		l.must(err)
		w.fds = append(w.fds, fd)
	}
	buf, err := unix.Mmap(-1, 0, slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	l.must(err)
	go func() {
		defer close(w.done)
		defer func() {
			for _, fd := range w.fds {
				unix.Close(fd)
			}
			_ = unix.Munmap(buf)
		}()
		for seq := uint64(1); !w.stop.Load() && w.late < lateWrites; seq++ {
			err := w.one(buf, seq)
			switch {
			case w.err != nil:
				w.late++
				if err == nil {
					w.landed++
				}
			case err != nil:
				w.err = err
			default:
				w.acked.Store(seq)
			}
		}
	}()
	return w
}

func (w *lioWriter) one(buf []byte, seq uint64) error {
	for _, at := range []int{0, slotSize - 24} {
		binary.LittleEndian.PutUint64(buf[at:], uint64(w.key.Node))
		binary.LittleEndian.PutUint64(buf[at+8:], w.key.Epoch)
		binary.LittleEndian.PutUint64(buf[at+16:], seq)
	}
	n, err := unix.Pwrite(w.fds[seq%uint64(len(w.fds))], buf, int64(seq%slotCount)*slotSize)
	if err == nil && n != slotSize {
		err = fmt.Errorf("%d bytes written", n)
	}
	return err
}

// end waits for a writer that was refused.
func (l *lioTarget) end(w *lioWriter) {
	l.t.Helper()
	select {
	case <-w.done:
	case <-time.After(maxWait):
		l.t.Errorf("node %d, epoch %d, was never refused: it has written %d times", w.key.Node, w.key.Epoch, w.acked.Load())
		w.stop.Store(true)
		<-w.done
	}
	if !errors.Is(w.err, unix.EBADE) {
		l.t.Errorf("the fenced owner's write: got %v, want %v, a reservation conflict", w.err, unix.EBADE)
	}
	if w.landed != 0 || w.late != lateWrites {
		l.t.Errorf("%d of the fenced owner's %d late writes were acknowledged", w.landed, w.late)
	}
}

// judge compares what the file holds at the new owner's first moment with what it holds when the fenced
// one has ended, and both with what was acknowledged.
func (l *lioTarget) judge(w *lioWriter, first, last [slotCount]stamp) {
	l.t.Helper()
	for i := range first {
		if first[i] != last[i] {
			l.t.Errorf("slot %d changed after the takeover: %+v, then %+v", i, first[i], last[i])
		}
		// The newest acknowledged write of each slot must be there, or a newer one that nobody was told of.
		acked := w.acked.Load()
		if acked < slotCount {
			continue
		}
		newest := acked - (acked-uint64(i))%slotCount
		if s := first[i]; s.Node != uint64(w.key.Node) || s.Epoch != w.key.Epoch || s.Seq < newest {
			l.t.Errorf("slot %d: write %d was acknowledged, the file has %+v", i, newest, s)
		}
	}
}

func (l *lioTarget) volume(nexuses ...int) *Volume {
	l.t.Helper()
	var paths []Nexus
	var devices []*Device
	for _, i := range nexuses {
		d := l.device(i)
		paths, devices = append(paths, d), append(devices, d)
	}
	l.must(SameDisk(devices...))
	v, err := NewVolume(testCodec, paths...)
	l.must(err)
	return v
}

// TestLIOTakeover: two nodes with two paths each take one disk from each other, by the real machine, while
// the owner of the moment writes as fast as it can.
func TestLIOTakeover(t *testing.T) {
	l := startLIO(t, 4)
	nodes := [2][]int{{0, 1}, {2, 3}}
	volumes := [2]*Volume{l.volume(nodes[0]...), l.volume(nodes[1]...)}
	var w *lioWriter
	total, slowest := uint64(0), time.Duration(0)
	for round := range 4 {
		n := round % 2
		k := key(uint8(n+1), 1000+uint64(round))
		if w != nil {
			l.until("writes of the owner", func() bool { return w.acked.Load() > slotCount+slotCount/4 })
		}
		begin := time.Now()
		ok, ops, err := take(l.ctx(), volumes[n], k, yes)
		took := time.Since(begin)
		first := l.stamps()
		if !ok || err != nil || len(volumes[n].Out()) > 0 {
			t.Fatalf("round %d: got %v, %v, out %v after %v", round, ok, err, volumes[n].Out(), ops)
		}
		if w != nil {
			slowest = max(slowest, took)
			l.end(w)
			l.judge(w, first, l.stamps())
			total += w.acked.Load()
			if ok, _, err := volumes[1-n].Do(l.ctx(), takeover.MayWrite, w.key, takeover.Key{}); ok {
				t.Errorf("round %d: the fenced owner's audit says that it is the owner, %v", round, err)
			}
			// Its claim, tried again, finds the newer key and leaves the disk alone.
			if ok, ops, err := take(l.ctx(), volumes[1-n], w.key, yes); ok || err != nil {
				t.Errorf("round %d: the old claim again: got %v, %v after %v", round, ok, err, ops)
			}
		}
		if ok, _, err := volumes[n].Do(l.ctx(), takeover.MayWrite, k, takeover.Key{}); !ok || err != nil {
			t.Errorf("round %d: the owner's audit: got %v, %v", round, ok, err)
		}
		w = l.writer(k, nodes[n]...)
	}
	w.stop.Store(true)
	<-w.done
	if w.err != nil {
		t.Errorf("the last owner was refused: %v", w.err)
	}
	t.Logf("3 takeovers, the slowest %v; %d writes acknowledged, all in the file, none of %d late ones", slowest, total, 3*lateWrites)
}

// TestLIOWriteInFlight: the disk holds the owner's write back while its key is taken. Until PREEMPT AND ABORT
// has answered, the write may land; after that, never.
func TestLIOWriteInFlight(t *testing.T) {
	l := startLIO(t, 2)
	a, b := l.volume(0), l.volume(1)
	if ok, ops, err := take(l.ctx(), a, key(1, 10), yes); !ok || err != nil {
		t.Fatalf("got %v, %v after %v", ok, err, ops)
	}
	l.hold()
	w := l.writer(key(1, 10), 0)
	l.untilHeld()
	type outcome struct {
		ok    bool
		err   error
		first [slotCount]stamp
	}
	taken := make(chan outcome, 1)
	go func() {
		ok, _, err := take(context.Background(), b, key(2, 20), yes)
		taken <- outcome{ok, err, l.stamps()}
	}()
	// The key goes first, then what is under way is waited for. Seen from a third: the victim's own path.
	look := l.device(0)
	own := mustEncode(t, key(1, 10))
	l.until("end of the victim's registration", func() bool { return !slices.Contains(l.ask(look, Command{Op: ReadKeys}).Keys, own) })
	for range 5 { // time for an answer that should not come
		l.ask(look, Command{Op: TestUnitReady})
	}
	select {
	case o := <-taken:
		t.Errorf("the takeover ended with %v, %v while a write was held in the disk", o.ok, o.err)
		taken <- o
	default:
	}
	if got := l.stamps(); got != ([slotCount]stamp{}) {
		t.Errorf("a write that is held is in the file: %+v", got)
	}
	// A command without an answer is an unknown outcome, and the next one must not overtake it.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := b.paths[0].Exec(ctx, Command{Op: ReadKeys}); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("a command behind one that has no answer: got %v, want %v", err, ErrNoAnswer)
	}
	l.let()
	select {
	case o := <-taken:
		if !o.ok || o.err != nil {
			t.Fatalf("takeover: got %v, %v", o.ok, o.err)
		}
		l.end(w)
		if last := l.stamps(); last != o.first {
			t.Errorf("a write landed after the takeover: %+v, then %+v", o.first, last)
		}
		t.Logf("the held write: landed before the answer: %v, acknowledged: %v; then %v", o.first != [slotCount]stamp{}, w.acked.Load() > 0, w.err)
	case <-time.After(maxWait):
		t.Fatal("the takeover did not end")
	}
}

// TestLIOPreemptAlone: the same with PREEMPT that does not abort. The held write lands after the answer, which is
// why nothing here falls back to it; and the judge of the test above sees such a write.
func TestLIOPreemptAlone(t *testing.T) {
	l := startLIO(t, 2)
	if ok, ops, err := take(l.ctx(), l.volume(0), key(1, 10), yes); !ok || err != nil {
		t.Fatalf("got %v, %v after %v", ok, err, ops)
	}
	l.hold()
	w := l.writer(key(1, 10), 0)
	l.untilHeld()
	b := l.device(1)
	l.ask(b, Command{Op: RegisterIgnore, New: mustEncode(t, key(2, 20)), APTPL: true})
	l.ask(b, Command{Op: Preempt, Key: mustEncode(t, key(2, 20)), Victim: mustEncode(t, key(1, 10))})
	first := l.stamps()
	l.let()
	l.end(w)
	if last := l.stamps(); first != ([slotCount]stamp{}) || last == first {
		t.Errorf("got %+v, then %+v, want that the held write lands after the answer", first, last)
	}
}

// TestLIOTimeout: PREEMPT AND ABORT gets no answer in time. It is done again, and the takeover goes on.
func TestLIOTimeout(t *testing.T) {
	l := startLIO(t, 2)
	a, b := l.volume(0), l.volume(1)
	if ok, ops, err := take(l.ctx(), a, key(1, 10), yes); !ok || err != nil {
		t.Fatalf("got %v, %v after %v", ok, err, ops)
	}
	if ok, _, err := b.Do(l.ctx(), takeover.RegisterKey, key(2, 20), takeover.Key{}); !ok || err != nil {
		t.Fatalf("got %v, %v", ok, err)
	}
	l.hold()
	w := l.writer(key(1, 10), 0)
	l.untilHeld()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	ok, _, err := b.Do(ctx, takeover.PreemptAbort, key(2, 20), key(1, 10))
	l.let()
	if ok || !errors.Is(err, ErrNoAnswer) || !strings.Contains(fmt.Sprint(err), l.nexus[1]) {
		t.Errorf("preempt without an answer: got %v, %v, want %v that names %s", ok, err, ErrNoAnswer, l.nexus[1])
	}
	if ok, ops, err := take(l.ctx(), b, key(2, 20), yes); !ok || err != nil {
		t.Errorf("done again: got %v, %v after %v", ok, err, ops)
	}
	first := l.stamps()
	l.end(w)
	if last := l.stamps(); first != last {
		t.Errorf("a write landed after the takeover: %+v, then %+v", first, last)
	}
}

// TestLIORestart: the target's configuration is taken away and made again.
func TestLIORestart(t *testing.T) {
	l := startLIO(t, 2)
	if ok, ops, err := take(l.ctx(), l.volume(0), key(1, 10), yes); !ok || err != nil {
		t.Fatalf("got %v, %v after %v", ok, err, ops)
	}
	if ok, ops, err := take(l.ctx(), l.volume(1), key(2, 20), yes); !ok || err != nil {
		t.Fatalf("got %v, %v after %v", ok, err, ops)
	}
	audit := func() (bool, error) {
		ok, _, err := l.volume(1).Do(l.ctx(), takeover.MayWrite, key(2, 20), takeover.Key{})
		return ok, err
	}
	late := func() error {
		w := l.writer(key(1, 10), 0)
		l.until("a write's end", func() bool {
			select {
			case <-w.done: // refused, and tired of it
				return true
			default:
				return w.acked.Load() > 0
			}
		})
		w.stop.Store(true)
		<-w.done
		return w.err
	}
	// With what it saved.
	saved := l.saved()
	if len(saved) != 1 || !strings.Contains(saved[0], "res_holder=1") {
		t.Errorf("the target saved %q, want the owner's registration, which holds the reservation", saved)
	}
	l.down()
	l.up(2, true)
	if err := late(); !errors.Is(err, unix.EBADE) {
		t.Errorf("the fenced owner's write after the restart: got %v, want %v", err, unix.EBADE)
	}
	if ok, err := audit(); !ok || err != nil {
		t.Errorf("the owner's audit after the restart: got %v, %v, want that it is the owner still", ok, err)
	}
	if got := l.stamps(); got != ([slotCount]stamp{}) {
		t.Errorf("the fenced owner's writes are in the file: %+v", got)
	}
	// Without: this is what APTPL is for. The owner's audit must see it.
	l.down()
	l.up(2, false)
	if ok, err := audit(); ok || err != nil {
		t.Errorf("the owner's audit at a target that forgot: got %v, %v, want that it is the owner no more", ok, err)
	}
	if err := late(); err != nil {
		t.Errorf("a write at a target that forgot: got %v, want that nothing stops it", err)
	}
	if ok, ops, err := take(l.ctx(), l.volume(1), key(2, 30), yes); !ok || err != nil {
		t.Errorf("a new claim: got %v, %v after %v", ok, err, ops)
	}
	// Registered without the bit: nothing is saved.
	d := l.device(0)
	l.ask(l.device(1), Command{Op: Clear, Key: mustEncode(t, key(2, 30))})
	l.ask(d, Command{Op: RegisterIgnore, New: testCodec.Test(1)})
	l.ask(d, Command{Op: Reserve, Key: testCodec.Test(1)})
	if c := l.ask(d, Command{Op: ReadCapabilities}).Capabilities; c.Persists || !c.CanPersist {
		t.Errorf("registered without APTPL: got %+v, want that it can persist and does not", c)
	}
	l.down()
	l.up(2, true)
	if keys := l.ask(l.device(0), Command{Op: ReadKeys}).Keys; len(keys) != 0 {
		t.Errorf("registered without APTPL, then restarted: got keys %v, want none", keys)
	}
}

func mustEncode(t *testing.T, k takeover.Key) Key {
	t.Helper()
	out, err := testCodec.Encode(k)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLIOSelfTest: the verdict on the kernel's target, as it is, and as it is when it cannot save.
func TestLIOSelfTest(t *testing.T) {
	l := startLIO(t, 3)
	paths := []Nexus{l.device(0), l.device(1), l.device(2)}
	verdict := func() Verdict {
		t.Helper()
		v, err := SelfTest(l.ctx(), testCodec, TestOptions{}, paths...)
		l.must(err)
		t.Log(v)
		return v
	}
	if v := verdict(); !v.FastFenced {
		t.Errorf("got %v, want fast-fenced", v)
	}
	l.must(os.Rename(l.dbroot+"/pr", l.dbroot+"/off"))
	if v := verdict(); v.FastFenced || !strings.Contains(v.Because, "(APTPL)") {
		t.Errorf("a target that cannot save registrations: got %v", v)
	}
	l.must(os.Rename(l.dbroot+"/off", l.dbroot+"/pr"))
	if v := verdict(); !v.FastFenced {
		t.Errorf("mended: got %v, want fast-fenced", v)
	}
	// Somebody else's key.
	l.ask(l.device(2), Command{Op: RegisterIgnore, New: 0x22})
	if v, err := SelfTest(l.ctx(), testCodec, TestOptions{}, paths...); !errors.Is(err, ErrForeign) {
		t.Errorf("a foreign key: got %v, %v, want %v", v, err, ErrForeign)
	}
	if v, err := SelfTest(l.ctx(), testCodec, TestOptions{TakeAway: true}, paths...); !v.FastFenced {
		t.Errorf("a foreign key, to be taken away: got %v, %v", v, err)
	}
	r := l.ask(l.device(0), Command{Op: ReadCapabilities}).Capabilities
	if !r.CanPersist || !r.WriteExclRO {
		t.Errorf("capabilities: got %+v", r)
	}
	fd, err := unix.Open(l.nexus[0], unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	l.must(err)
	if d, err := OpenUnused(l.nexus[0]); !errors.Is(err, unix.EBUSY) {
		t.Errorf("open a disk in use: got %v, %v, want %v", d, err, unix.EBUSY)
	}
	unix.Close(fd)
	// The kernel's own ioctls keep the same promises.
	var kernel []Nexus
	for _, i := range []int{0, 1} {
		d, err := OpenKernel(l.nexus[i])
		l.must(err)
		l.opened = append(l.opened, d)
		kernel = append(kernel, d)
	}
	v, err := NewVolume(testCodec, kernel[0])
	l.must(err)
	if ok, ops, err := take(l.ctx(), v, key(1, 10), yes); !ok || err != nil {
		t.Errorf("by the kernel's ioctls: got %v, %v after %v", ok, err, ops)
	}
	v, err = NewVolume(testCodec, kernel[1])
	l.must(err)
	if ok, ops, err := take(l.ctx(), v, key(2, 20), yes); !ok || err != nil {
		t.Errorf("taken over by the kernel's ioctls: got %v, %v after %v", ok, err, ops)
	}
	status := l.ask(l.device(0), Command{Op: ReadFullStatus}).Registrants
	if len(status) != 1 || !status[0].Holder || status[0].Type != WriteExclusiveRegistrantsOnly || !strings.HasPrefix(status[0].Initiator, "iqn.2026-11.os.skein.test:path1") {
		t.Errorf("full status: got %+v, want the one owner by its name", status)
	}
}
