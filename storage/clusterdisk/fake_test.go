package clusterdisk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
)

var errPower = errors.New("the power is off")

// fakeDisk keeps what was flushed. What was written since is seen by readers, and lost, kept or torn as it comes when
// the power goes: each write by itself, in any order.
type fakeDisk struct {
	size    int64
	wwn     string
	kept    map[int64][]byte // by block
	cache   []fakeWrite
	ops     int // writes and flushes so far
	failAt  int // the power goes at this one, 0: never
	rng     *rand.Rand
	refuse  func() bool // a reservation conflict
	written func(off int64)
}

type fakeWrite struct {
	off  int64
	data []byte
}

func newFake(size int64) *fakeDisk {
	return &fakeDisk{size: size, wwn: "naa.6001405", kept: map[int64][]byte{}, rng: rand.New(rand.NewPCG(1, 1))}
}

func (f *fakeDisk) Size() int64 { return f.size }
func (f *fakeDisk) WWN() string { return f.wwn }

func (f *fakeDisk) ReadAt(p []byte, off int64) (int, error) {
	if off%Block != 0 || len(p)%Block != 0 || off < 0 || off+int64(len(p)) > f.size {
		return 0, fmt.Errorf("read of %d bytes at %d", len(p), off)
	}
	if f.dead() {
		return 0, errPower
	}
	for i := int64(0); i < int64(len(p)); i += Block {
		clear(p[i : i+Block])
		copy(p[i:], f.kept[off+i])
	}
	for _, w := range f.cache {
		overlay(p, off, w)
	}
	return len(p), nil
}

func overlay(p []byte, off int64, w fakeWrite) {
	from, to := max(off, w.off), min(off+int64(len(p)), w.off+int64(len(w.data)))
	if from < to {
		copy(p[from-off:to-off], w.data[from-w.off:])
	}
}

func (f *fakeDisk) dead() bool { return f.failAt > 0 && f.ops >= f.failAt }

func (f *fakeDisk) WriteAt(p []byte, off int64) (int, error) {
	if off%Block != 0 || len(p)%Block != 0 || off < 0 || off+int64(len(p)) > f.size {
		return 0, fmt.Errorf("write of %d bytes at %d", len(p), off)
	}
	if f.refuse != nil && f.refuse() {
		return 0, ErrFenced
	}
	if f.dead() {
		return 0, errPower
	}
	if f.written != nil {
		f.written(off)
	}
	f.cache = append(f.cache, fakeWrite{off, slices.Clone(p)})
	if f.ops++; f.dead() {
		return 0, errPower // it may be there all the same
	}
	return len(p), nil
}

func (f *fakeDisk) Flush() error {
	if f.dead() {
		return errPower
	}
	if f.ops++; f.dead() {
		return errPower
	}
	for _, w := range f.cache {
		f.keep(w)
	}
	f.cache = nil
	return nil
}

func (f *fakeDisk) keep(w fakeWrite) {
	for i := int64(0); i < int64(len(w.data)); i += Block {
		f.kept[w.off+i] = slices.Clone(w.data[i : i+Block])
	}
}

// powerCut is what is left on the disk: of each write that was not flushed all, nothing, or some of its sectors.
func (f *fakeDisk) powerCut() *fakeDisk {
	n := newFake(f.size)
	n.wwn, n.rng = f.wwn, f.rng
	for off, b := range f.kept {
		n.kept[off] = slices.Clone(b)
	}
	cache := slices.Clone(f.cache)
	f.rng.Shuffle(len(cache), func(i, j int) { cache[i], cache[j] = cache[j], cache[i] })
	const sector = 512
	for _, w := range cache {
		switch f.rng.IntN(3) {
		case 0:
		case 1:
			n.keep(w)
		case 2:
			old := make([]byte, len(w.data))
			_, _ = n.ReadAt(old, w.off)
			for i := 0; i < len(old); i += sector {
				if f.rng.IntN(2) == 0 {
					copy(old[i:i+sector], w.data[i:])
				}
			}
			n.keep(fakeWrite{w.off, old})
		}
	}
	return n
}
