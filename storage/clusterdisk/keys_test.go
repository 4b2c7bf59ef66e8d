package clusterdisk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/skein-os/skein/storage/reserve"
)

// fakeTarget is the disk's reservation: write exclusive, registrants only (SPC-4, 5.13). A nexus is a path of a node.
type fakeTarget struct {
	keys   map[string]reserve.Key // by nexus
	holder reserve.Key
	disk   *fakeDisk
	log    []string
}

func newFakeTarget() *fakeTarget {
	return &fakeTarget{keys: map[string]reserve.Key{}, disk: newFake(MinSize)}
}

type fakeNexus struct {
	t    *fakeTarget
	name string
	down bool
}

func (n *fakeNexus) Name() string { return n.name }

func (n *fakeNexus) Exec(_ context.Context, c reserve.Command) (a reserve.Answer, err error) {
	t := n.t
	fail := func(kind error) (reserve.Answer, error) {
		return reserve.Answer{}, &reserve.Error{Device: n.name, Op: c.Op, Kind: kind}
	}
	if n.down {
		return fail(reserve.ErrTransport)
	}
	t.log = append(t.log, n.name+" "+string(c.Op))
	mine, in := t.keys[n.name]
	switch c.Op {
	case reserve.RegisterIgnore:
		t.keys[n.name] = c.New
		if t.holder != 0 && t.holder == mine {
			t.holder = c.New
		}
	case reserve.ReadKeys:
		for _, k := range t.keys {
			a.Keys = append(a.Keys, k)
		}
		slices.Sort(a.Keys)
	case reserve.ReadReservation:
		if t.holder != 0 {
			a.Reservation = &reserve.Reservation{Key: t.holder, Type: reserve.WriteExclusiveRegistrantsOnly}
		}
	case reserve.Reserve:
		if !in || mine != c.Key || t.holder != 0 && t.holder != mine {
			return fail(reserve.ErrConflict)
		}
		t.holder = mine
	case reserve.PreemptAbort:
		gone := 0
		for name, k := range t.keys {
			if in && mine == c.Key && k == c.Victim {
				delete(t.keys, name)
				gone++
			}
		}
		if gone == 0 {
			return fail(reserve.ErrConflict)
		}
		if t.holder == c.Victim {
			t.holder = mine
		}
	default:
		return fail(reserve.ErrUnsupported)
	}
	return a, nil
}

// view is the disk as a node sees it: refused when none of its paths is registered.
type view struct {
	*fakeDisk
	t    *fakeTarget
	node string
}

func (v view) refused() bool {
	for name := range v.t.keys {
		if name[:2] == v.node {
			return false
		}
	}
	return v.t.holder != 0
}

func (v view) WriteAt(p []byte, off int64) (int, error) {
	if v.refused() {
		return 0, ErrFenced
	}
	return v.fakeDisk.WriteAt(p, off)
}

func (v view) Flush() error {
	if v.refused() {
		return ErrFenced
	}
	return v.fakeDisk.Flush()
}

// fakeNode is a node at the disk by two paths.
type fakeNode struct {
	disk  *Disk
	keys  *Keys
	paths [2]*fakeNexus
	owner Owner
}

func newNode(t *testing.T, target *fakeTarget, n uint8) *fakeNode {
	t.Helper()
	f := &fakeNode{owner: Owner{Node: fmt.Sprintf("n%d", n), Number: n}}
	for i := range f.paths {
		f.paths[i] = &fakeNexus{t: target, name: fmt.Sprintf("n%d path %d", n, i)}
	}
	f.disk = get(Open(view{target.disk, target, f.owner.Node}, token))
	f.keys = get(NewKeys("0123456789abcdef", f.paths[0], f.paths[1]))
	return f
}

// goOn restores the newest copy, or begins at revision 10.
func goOn(c *Contents) (*Ledger, error) {
	if c.Old != nil {
		return nil, c.Old
	}
	l := &Ledger{Revision: 10}
	if n := c.Newest(); n != nil {
		l.Revision, l.Entries = n.Ledger.Revision+1000, n.Ledger.Entries
	}
	l.Incarnation = c.Header.Incarnation + 1
	return l, nil
}

// Two take the disk from each other. Whoever has it has all that the other was told is there, and the other cannot
// write any more, nor take it back without registering anew.
func TestSeize(t *testing.T) {
	ctx := context.Background()
	target := newFakeTarget()
	format(t, target.disk)
	nodes := []*fakeNode{newNode(t, target, 1), newNode(t, target, 2)}
	var slots [2]*Slot
	var want *Ledger
	for round := range 6 {
		me, it := nodes[round%2], nodes[1-round%2]
		s, l, err := Seize(ctx, me.disk, me.keys, round%2, me.owner, goOn)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if want != nil && (l.Revision != want.Revision+1000 || len(l.Entries) != len(want.Entries)) {
			t.Fatalf("round %d: goes on from revision %d, %d entries; want %d, %d", round, l.Revision, len(l.Entries), want.Revision+1000, len(want.Entries))
		}
		if h := me.disk.Header(); h.Incarnation != uint64(round)+2 || !slices.Equal(h.Members, []string{me.owner.Node}) {
			t.Errorf("round %d: header %+v", round, h)
		}
		next, list := history(l, 3)
		noError(t, s.Append(list))
		noError(t, s.Sign())
		slots[round%2], want = s, next
		if old := slots[1-round%2]; old != nil {
			_, list := history(&Ledger{Revision: old.Revision()}, 1)
			if err := old.Append(list); !errors.Is(err, ErrFenced) {
				t.Errorf("round %d: %s can still write: %v", round, it.owner.Node, err)
			}
			if _, _, err := SeizeAgain(ctx, it.disk, it.keys, old, goOn); !errors.Is(err, ErrLost) {
				t.Errorf("round %d: %s took it back: %v", round, it.owner.Node, err)
			}
		}
	}
	// One that is still registered goes on without registering.
	before := len(target.log)
	if _, l, err := SeizeAgain(ctx, nodes[1].disk, nodes[1].keys, slots[1], goOn); err != nil || l.Revision != want.Revision+1000 {
		t.Errorf("again: %v", err)
	}
	for _, c := range target.log[before:] {
		if c == "n2 path 0 "+string(reserve.RegisterIgnore) {
			t.Error("it registered again")
		}
	}
}

// Nothing is taken away from strangers, and nothing is decided over a path that does not answer.
func TestSeizeRefuses(t *testing.T) {
	ctx := context.Background()
	target := newFakeTarget()
	format(t, target.disk)
	n := newNode(t, target, 1)
	target.keys["x"] = 0xabcdef
	if _, _, err := Seize(ctx, n.disk, n.keys, 0, n.owner, goOn); !errors.Is(err, reserve.ErrForeign) {
		t.Errorf("a stranger's key: %v", err)
	}
	if target.keys["x"] == 0 {
		t.Error("a stranger's key was taken away")
	}
	delete(target.keys, "x")
	n.paths[1].down = true
	if _, _, err := Seize(ctx, n.disk, n.keys, 0, n.owner, goOn); !errors.Is(err, reserve.ErrTransport) {
		t.Errorf("a path that is down: %v", err)
	}
	n.paths[1].down = false
	no := errors.New("nothing to go on from")
	if _, _, err := Seize(ctx, n.disk, n.keys, 0, n.owner, func(*Contents) (*Ledger, error) { return nil, no }); !errors.Is(err, no) {
		t.Errorf("got %v, want %v", err, no)
	}
	if _, _, err := Seize(ctx, n.disk, n.keys, 0, n.owner, func(c *Contents) (*Ledger, error) { return &Ledger{Incarnation: c.Header.Incarnation}, nil }); err == nil {
		t.Error("went on in the same incarnation")
	}
	if h := n.disk.Header(); h.Incarnation != 1 {
		t.Errorf("the header is of incarnation %d", h.Incarnation)
	}
	if _, err := NewKeys("0123"); err == nil {
		t.Error("a disk without a path")
	}
}

// Whoever loses power in the middle of taking the disk has decided nothing; the next one finds what was there.
func TestPowerCutWhileSeizing(t *testing.T) {
	ctx := context.Background()
	for at := 1; ; at++ {
		target := newFakeTarget()
		format(t, target.disk)
		a := newNode(t, target, 1)
		s, l, err := Seize(ctx, a.disk, a.keys, 0, a.owner, goOn)
		noError(t, err)
		want, list := history(l, 4)
		noError(t, s.Append(list))
		b := newNode(t, target, 2)
		target.disk.failAt = target.disk.ops + at
		_, _, err = Seize(ctx, b.disk, b.keys, 1, b.owner, goOn)
		if err == nil {
			if at < 8 {
				t.Errorf("only %d places to cut", at-1)
			}
			return
		}
		if !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		target.disk = target.disk.powerCut()
		c := newNode(t, target, 2)
		_, l, err = Seize(ctx, c.disk, c.keys, 1, c.owner, goOn)
		if err != nil {
			t.Fatalf("cut at %d: %v", at, err)
		}
		// All of it, from the first copy or from the one that b had just made.
		if r := l.Revision - want.Revision; r != 1000 && r != 2000 || len(l.Entries) != len(want.Entries) {
			t.Errorf("cut at %d: goes on from revision %d with %d entries; there was %d with %d", at, l.Revision-1000, len(l.Entries), want.Revision, len(want.Entries))
		}
	}
}

var _ Registry = (*Keys)(nil)
