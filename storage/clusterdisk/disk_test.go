package clusterdisk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var token = []byte("thirty-two bytes of a join token")

func format(t testing.TB, dev Device) *Disk {
	t.Helper()
	d, err := Format(dev, Header{Cluster: "demo", ClusterID: "0123456789abcdef", CA: "ca", Incarnation: 1}, token, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// get is a result that cannot fail in the test.
func get[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// history is a ledger that goes on: revision r writes key k(r%7), and deletes another now and then.
func history(l *Ledger, n int) (*Ledger, []Change) {
	next := &Ledger{Incarnation: l.Incarnation, Revision: l.Revision, Entries: append([]Entry(nil), l.Entries...)}
	var list []Change
	for range n {
		r := next.Revision + 1
		c := Change{Revision: r, Puts: []Entry{{Key: fmt.Appendf(nil, "/k%d", r%7), Value: fmt.Appendf(nil, "value of revision %d", r), Created: r, Changed: r, Times: 1}}}
		if r%5 == 0 {
			c.Deletes = [][]byte{fmt.Appendf(nil, "/k%d", (r+3)%7)}
		}
		if err := next.apply(c); err != nil {
			panic(err)
		}
		list = append(list, c)
	}
	return next, list
}

// sameLedger is nil if got is what l was at got's revision.
func sameLedger(got, want *Ledger) error {
	if got.Incarnation != want.Incarnation || got.Revision != want.Revision || !bytes.Equal(got.encode(), want.encode()) {
		return fmt.Errorf("got incarnation %d, revision %d, %d entries; want %d, %d, %d", got.Incarnation, got.Revision, len(got.Entries), want.Incarnation, want.Revision, len(want.Entries))
	}
	return nil
}

func TestSlotKeepsTheLedger(t *testing.T) {
	dev := newFake(MinSize)
	d := format(t, dev)
	slot := get(get(Open(dev, token)).Claim(1, Owner{Node: "n2", Number: 2, Generation: 1}))
	l, _ := history(&Ledger{Incarnation: 1, Revision: 40}, 3)
	if err := slot.Append([]Change{{Revision: 44}}); !errors.Is(err, ErrFull) {
		t.Errorf("appended to nothing: %v", err)
	}
	noError(t, slot.Rebase(l))
	next, changes := history(l, 30)
	for len(changes) > 0 {
		n := min(len(changes), 1+len(changes)%3)
		noError(t, slot.Append(changes[:n]))
		changes = changes[n:]
	}
	if err := slot.Append([]Change{{Revision: next.Revision + 2}}); err == nil {
		t.Error("a revision was left out and nobody noticed")
	}
	noError(t, slot.Sign())
	c := get(get(Open(dev.powerCut(), token)).Load(true))
	if n := c.Newest(); n == nil || n.Node != "n2" || n.Slot != 1 {
		t.Fatalf("newest copy: %+v", c.Slots)
	}
	noError(t, sameLedger(c.Newest().Ledger, next))
	if o := c.Owners[1]; o == nil || o.Node != "n2" || c.Owners[0] != nil {
		t.Errorf("owners %v", c.Owners)
	}
	if d.Header().Incarnation != 1 || c.Old != nil {
		t.Errorf("header %+v, old %v", d.Header(), c.Old)
	}
}

func TestFullSlotIsRebased(t *testing.T) {
	dev := newFake(MinSize)
	slot := get(format(t, dev).Claim(0, Owner{Node: "n1", Generation: 1}))
	l := &Ledger{Incarnation: 1, Revision: 1}
	noError(t, slot.Rebase(l))
	big := bytes.Repeat([]byte("0123456789abcdef"), 40<<10)
	full := 0
	for range 60 {
		c := Change{Revision: l.Revision + 1, Puts: []Entry{{Key: []byte("/big"), Value: big, Created: 2, Changed: l.Revision + 1, Times: 1}}}
		err := slot.Append([]Change{c})
		if errors.Is(err, ErrFull) {
			full++
			noError(t, slot.Rebase(l))
			err = slot.Append([]Change{c})
		}
		noError(t, err)
		noError(t, l.apply(c))
	}
	if full == 0 {
		t.Error("the slot was never full")
	}
	noError(t, sameLedger(get(get(Open(dev, token)).Load(true)).Newest().Ledger, l))

	// A ledger that does not fit is refused in words, and what is there stays.
	noise := make([]byte, 6<<20)
	for i := range noise {
		noise[i] = byte(rand.IntN(256))
	}
	err := slot.Rebase(&Ledger{Incarnation: 1, Revision: 99, Entries: []Entry{{Key: []byte("/x"), Value: noise}}})
	if !errors.Is(err, ErrTooSmall) {
		t.Errorf("got %v, want %v", err, ErrTooSmall)
	}
	noError(t, sameLedger(get(get(Open(dev, token)).Load(true)).Newest().Ledger, l))
}

// TestPowerCutAtEveryWrite cuts the power of nodes and disk at each write and flush of a life: formatted, claimed,
// copied, appended to, rebased, restored in the next incarnation, with a snapshot. What was acknowledged is there
// afterwards, and what is there was written.
func TestPowerCutAtEveryWrite(t *testing.T) {
	type acked struct {
		ledger  *Ledger // newest that an Append or Rebase of the header's incarnation returned for
		tried   *Ledger // what was under way
		inc     uint64  // of the header
		header  bool    // a header was acknowledged
		nextInc uint64  // of a header under way
		snap    int64
	}
	life := func(dev *fakeDisk, a *acked) error {
		d, err := Format(dev, Header{Cluster: "demo", ClusterID: "0123", Incarnation: 1}, token, time.Unix(1, 0))
		if err != nil {
			return err
		}
		a.header, a.inc, a.nextInc = true, 1, 1
		l, _ := history(&Ledger{Incarnation: 1, Revision: 7}, 2)
		var gen uint64
		for inc := uint64(1); inc <= 3; inc++ {
			gen++
			slot, err := d.Claim(int(inc)%2, Owner{Node: fmt.Sprintf("n%d", inc), Generation: gen})
			if err != nil {
				return err
			}
			if inc > 1 { // restored by the next node
				l = &Ledger{Incarnation: inc, Revision: l.Revision + 1000, Entries: l.Entries}
			}
			a.tried = l
			if err := slot.Rebase(l); err != nil {
				return err
			}
			if inc > 1 {
				h := d.Header()
				h.Incarnation, h.Members = inc, []string{slot.owner.Node}
				a.nextInc = inc
				if err := d.WriteHeader(h); err != nil {
					return err
				}
			}
			a.inc, a.ledger = inc, l
			for i := range 5 {
				var list []Change
				if a.tried, list = history(l, 1+i%3); i == 3 {
					l = a.tried
					if err := slot.Rebase(l); err != nil {
						return err
					}
				} else if err := slot.Append(list); err != nil {
					return err
				}
				l = a.tried
				a.ledger = l
				if err := slot.Sign(); err != nil {
					return err
				}
			}
			if err := d.Snapshot(l, slot.owner); err != nil {
				return err
			}
			a.snap = l.Revision
		}
		return nil
	}
	whole := newFake(MinSize)
	noError(t, life(whole, &acked{}))
	runs := 4
	if testing.Short() {
		runs = 1
	}
	for at := 1; at <= whole.ops; at++ {
		for seed := range runs {
			dev := newFake(MinSize)
			dev.failAt, dev.rng = at, rand.New(rand.NewPCG(uint64(seed), uint64(at)))
			var a acked
			if err := life(dev, &a); !errors.Is(err, errPower) {
				t.Fatalf("cut at %d: %v", at, err)
			}
			left := dev.powerCut()
			d, err := Open(left, token)
			if !a.header {
				if err != nil && !errors.Is(err, ErrBlank) && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) {
					t.Errorf("cut at %d, before there was a header: %v", at, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("cut at %d: %v", at, err)
			}
			c, err := d.Load(true)
			if err != nil || c.Old != nil {
				t.Fatalf("cut at %d: %v, %v", at, err, c)
			}
			if got := c.Header.Incarnation; got != a.inc && got != a.nextInc {
				t.Errorf("cut at %d: header of incarnation %d, want %d or %d", at, got, a.inc, a.nextInc)
			}
			n := c.Newest()
			if a.ledger == nil {
				continue
			}
			if n == nil {
				t.Fatalf("cut at %d: nothing is left of revision %d: %+v", at, a.ledger.Revision, c.Slots)
			}
			e1, e2 := sameLedger(n.Ledger, a.ledger), sameLedger(n.Ledger, a.tried)
			if e1 != nil && e2 != nil {
				t.Errorf("cut at %d: %v; %v", at, e1, e2)
			}
			if a.snap > 0 && (len(c.Snapshots) == 0 || c.Snapshots[0].Ledger.Revision < a.snap) {
				t.Errorf("cut at %d: the snapshot of revision %d is lost", at, a.snap)
			}
		}
	}
	t.Logf("%d places to cut, %d times each", whole.ops, runs)
}

// A flush that is missing shows: the test above would be worth nothing if it did not.
func TestPowerCutSeesMissingFlush(t *testing.T) {
	lost := 0
	for seed := range 20 {
		dev := newFake(MinSize)
		dev.rng = rand.New(rand.NewPCG(uint64(seed), 3))
		d := format(t, dev)
		slot := get(d.Claim(0, Owner{Node: "n1", Generation: 1}))
		l := &Ledger{Incarnation: 1, Revision: 1}
		noError(t, slot.Rebase(l))
		d.dev = lazy{dev}
		_, list := history(l, 1)
		noError(t, slot.Append(list))
		if n := get(get(Open(dev.powerCut(), token)).Load(true)).Newest(); n.Ledger.Revision != 2 {
			lost++
		}
	}
	if lost == 0 {
		t.Error("a disk that does not flush lost nothing in 20 power cuts")
	}
}

type lazy struct{ *fakeDisk }

func (lazy) Flush() error { return nil }

func TestWhatIsNotOurs(t *testing.T) {
	blank := newFake(MinSize)
	if _, err := Open(blank, token); !errors.Is(err, ErrBlank) {
		t.Errorf("blank: %v", err)
	}
	if _, err := Identify(newFake(MinSize - Block)); !errors.Is(err, ErrForeign) {
		t.Errorf("too small: %v", err)
	}
	for _, off := range []int64{0, Block, 1 << 20, MinSize - Block} {
		foreign := newFake(MinSize)
		noError(t, err1(foreign.WriteAt(bytes.Repeat([]byte{1}, Block), off)))
		if _, err := Format(foreign, Header{ClusterID: "x", Incarnation: 1}, token, time.Now()); !errors.Is(err, ErrForeign) {
			t.Errorf("data at %d: %v", off, err)
		}
	}
	dev := newFake(MinSize)
	format(t, dev)
	if _, err := Format(dev, Header{ClusterID: "other", Incarnation: 1}, token, time.Now()); err == nil || !strings.Contains(err.Error(), "demo") {
		t.Errorf("formatted twice: %v", err)
	}
	if _, err := Open(dev, []byte("another token, of another cluster")); !errors.Is(err, ErrWrongToken) {
		t.Errorf("wrong token: %v", err)
	}
	h, err := Identify(dev)
	if err != nil || h.Cluster != "demo" || h.WWN != dev.wwn {
		t.Errorf("identify: %+v, %v", h, err)
	}
	for _, off := range []int64{0, headerSecond} { // the second time both are gone
		noError(t, err1(dev.WriteAt(append([]byte(magic), make([]byte, Block-len(magic))...), off)))
		_, err := Open(dev, token)
		if damaged := errors.Is(err, ErrDamaged); damaged != (off > 0) {
			t.Errorf("header at %d destroyed: %v", off, err)
		}
	}
}

func err1[T any](_ T, err error) error { return err }

// A header with a good sum that nobody with the token wrote.
func TestForgedHeader(t *testing.T) {
	dev := newFake(MinSize)
	d := format(t, dev)
	h := d.Header()
	h.Incarnation, h.Sequence = 99, 99
	noError(t, err1(dev.WriteAt(get(frame(kindHeader, []byte("a guess"), h)), 0)))
	if got := get(Open(dev, token)).Header().Incarnation; got != 1 {
		t.Errorf("incarnation %d of a forged header, want that of the other copy", got)
	}
}

// Bits that flip in the copy that counts are found, and a copy in another slot is taken.
func TestFlippedBits(t *testing.T) {
	for _, where := range []string{"copy", "record", "head"} {
		dev := newFake(MinSize)
		d := format(t, dev)
		l, _ := history(&Ledger{Incarnation: 1, Revision: 5}, 3)
		next, list := history(l, 2)
		var slots []*Slot
		for i := range 2 {
			s := get(d.Claim(i, Owner{Node: fmt.Sprintf("n%d", i+1), Generation: uint64(i + 1)}))
			noError(t, s.Rebase(l))
			noError(t, s.Append(list[:1]))
			noError(t, s.Append(list[1:]))
			noError(t, s.Sign())
			slots = append(slots, s)
		}
		b := d.slotBank(0, slots[0].bank)
		off := map[string]int64{"copy": b.off + Block, "record": b.off + slots[0].at.end - 2*Block, "head": b.off}[where]
		block := make([]byte, Block)
		noError(t, err1(dev.ReadAt(block, off)))
		block[60] ^= 4
		noError(t, err1(dev.WriteAt(block, off)))
		c := get(get(Open(dev, token)).Load(true))
		if n := c.Newest(); n == nil || n.Node != "n2" {
			t.Fatalf("%s: newest %+v", where, n)
		}
		noError(t, sameLedger(c.Newest().Ledger, next))
		damaged := false
		for _, s := range c.Slots {
			damaged = damaged || s.Slot == 0 && s.Damage != nil
		}
		if !damaged {
			t.Errorf("%s: nobody noticed: %+v", where, c.Slots)
		}
	}
}

// Whoever is shut off is told so, by whatever it writes.
func TestFencedWrites(t *testing.T) {
	dev := newFake(MinSize)
	d := format(t, dev)
	s := get(d.Claim(0, Owner{Node: "n1", Generation: 1}))
	l := &Ledger{Incarnation: 1, Revision: 1}
	noError(t, s.Rebase(l))
	dev.refuse = func() bool { return true }
	_, list := history(l, 1)
	for what, err := range map[string]error{
		"append": s.Append(list), "rebase": s.Rebase(l), "sign": s.Sign(), "header": d.WriteHeader(d.Header()), "snapshot": d.Snapshot(l, s.owner),
		"claim": err1(d.Claim(1, Owner{Generation: 9})),
	} {
		if !errors.Is(err, ErrFenced) {
			t.Errorf("%s: got %v, want %v", what, err, ErrFenced)
		}
	}
}

func TestClaimNeedsANewGeneration(t *testing.T) {
	d := format(t, newFake(MinSize))
	noError(t, err1(d.Claim(0, Owner{Node: "n1", Generation: 3})))
	if _, err := d.Claim(1, Owner{Node: "n2", Generation: 3}); err == nil {
		t.Error("two claims in one generation")
	}
	if g := get(d.NextGeneration()); g != 4 {
		t.Errorf("next generation %d, want 4", g)
	}
	if _, err := d.Claim(DefaultSlots, Owner{Node: "n2", Generation: 4}); err == nil {
		t.Error("a slot that is not there was claimed")
	}
}

// An old copy of a disk contradicts itself if a slot knows of an incarnation that the header does not.
func TestHeaderOlderThanSlots(t *testing.T) {
	dev := newFake(MinSize)
	d := format(t, dev)
	h := d.Header()
	h.Incarnation = 2
	noError(t, d.WriteHeader(h))
	s := get(d.Claim(0, Owner{Node: "n1", Generation: 1}))
	l := &Ledger{Incarnation: 2, Revision: 1}
	noError(t, s.Rebase(l))
	_, list := history(l, 1)
	noError(t, s.Append(list))
	h.Incarnation = 1
	noError(t, d.WriteHeader(h))
	if c := get(d.Load(true)); c.Old == nil || c.Newest() != nil {
		t.Errorf("got %v and %+v", c.Old, c.Slots)
	}
}

func TestOnAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	noError(t, os.WriteFile(path, nil, 0o600))
	noError(t, os.Truncate(path, MinSize))
	dev, c, err := OpenDevice(path, "naa.1")
	noError(t, err)
	defer c.Close()
	slot := get(format(t, dev).Claim(0, Owner{Node: "n1", Generation: 1}))
	l, _ := history(&Ledger{Incarnation: 1, Revision: 3}, 5)
	noError(t, slot.Rebase(l))
	next, list := history(l, 4)
	noError(t, slot.Append(list))
	again, c2, err := OpenDevice(path, "naa.1")
	noError(t, err)
	defer c2.Close()
	noError(t, sameLedger(get(get(Open(again, token)).Load(true)).Newest().Ledger, next))
	if _, _, err := OpenDevice(filepath.Join(t.TempDir(), "none"), ""); err == nil {
		t.Error("opened nothing")
	}
}

func FuzzDecode(f *testing.F) {
	l, list := history(&Ledger{Incarnation: 1, Revision: 3}, 5)
	f.Add(l.encode())
	f.Add(encodeChanges(list))
	f.Add(get(frame(kindHeader, nil, Header{Slots: 1})))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := decodeLedger(data); err == nil {
			if again, err := decodeLedger(got.encode()); err != nil || sameLedger(again, got) != nil {
				t.Errorf("it does not come back: %v", err)
			}
		}
		if got, err := decodeChanges(data); err == nil {
			if _, err := decodeChanges(encodeChanges(got)); err != nil {
				t.Errorf("they do not come back: %v", err)
			}
		}
		var h Header
		_ = unframe(data, kindHeader, nil, &h)
	})
}

// FuzzDisk puts anything anywhere on a disk that is in use. It is refused, or what is read was written.
func FuzzDisk(f *testing.F) {
	dev := newFake(MinSize)
	d, err := Format(dev, Header{Cluster: "demo", ClusterID: "0123", Incarnation: 1}, token, time.Unix(1, 0))
	if err != nil {
		f.Fatal(err)
	}
	slot := get(d.Claim(0, Owner{Node: "n1", Generation: 1}))
	states := map[int64]*Ledger{}
	l, _ := history(&Ledger{Incarnation: 1, Revision: 5}, 3)
	states[l.Revision] = l
	if err := slot.Rebase(l); err != nil {
		f.Fatal(err)
	}
	for range 4 {
		next, list := history(l, 1)
		if err := slot.Append(list); err != nil {
			f.Fatal(err)
		}
		l, states[next.Revision] = next, next
	}
	f.Add(uint32(0), []byte("x"))
	f.Add(uint32(d.slotBank(0, slot.bank).off), []byte{0})
	f.Add(uint32(d.slotBank(0, slot.bank).off+2*Block+3), []byte{0xff})
	f.Fuzz(func(t *testing.T, off uint32, data []byte) {
		if len(data) > Block {
			return
		}
		hurt := newFake(MinSize)
		for o, b := range dev.kept {
			hurt.kept[o] = b
		}
		at := int64(off) % (MinSize - 2*Block)
		span := make([]byte, 2*Block)
		if _, err := hurt.ReadAt(span, at/Block*Block); err != nil {
			t.Fatal(err)
		}
		copy(span[at%Block:], data)
		hurt.keep(fakeWrite{at / Block * Block, span})
		d, err := Open(hurt, token)
		if err != nil {
			return
		}
		c, err := d.Load(true)
		if err != nil {
			return
		}
		for _, s := range c.Slots {
			if s.Ledger == nil {
				continue
			}
			want := states[s.Ledger.Revision]
			if want == nil || sameLedger(s.Ledger, want) != nil {
				t.Errorf("read revision %d, which never was", s.Ledger.Revision)
			}
		}
	})
}

// What an earlier copy in the same place left behind is not taken for records of the new one, though the same number
// of writings led there.
func TestLeftOversAreNotRecords(t *testing.T) {
	dev := newFake(MinSize)
	d := format(t, dev)
	l, _ := history(&Ledger{Incarnation: 1, Revision: 5}, 3)
	_, list := history(l, 3)
	b := d.slotBank(0, 0)
	c := get(d.writeCopy(b, bankHead{Sequence: 5}, l, 0))
	for i := range list {
		noError(t, d.appendRecord(b, &c, list[i:i+1]))
	}
	again := get(d.writeCopy(b, bankHead{Sequence: 5}, l, 0))
	if again.end != Block+up(again.Length) {
		t.Fatalf("the new copy ends at %d", again.end)
	}
	if got := get(d.readBank(b)); got.records != 0 || got.Revision != l.Revision {
		t.Errorf("read %d records and revision %d, want none and %d", got.records, got.Revision, l.Revision)
	}
}
