package reserve

import (
	"context"
	"fmt"
	"slices"
)

// fakeDisk is a target with the semantics of SPC-4 and, on demand, a defect. Its nexuses are fakePaths.
type fakeDisk struct {
	paths    []*fakePath
	holder   *fakePath
	kind     Type
	block    []byte
	writes   []string // names of the paths that wrote
	persists bool
	defect   string
}

type fakePath struct {
	disk  *fakeDisk
	name  string
	key   Key
	told  []error        // unit attentions to be told
	fails map[Op]error   // every time
	lose  map[Op]error   // executed, but the answer is lost; once
	log   []string       // commands executed
	hook  map[Op]func()  // before the command, once
	extra func(Op) []Key // keys that only this path lists
}

func newFakeDisk(paths int) *fakeDisk {
	d := &fakeDisk{block: make([]byte, 512)}
	for i := range paths {
		d.paths = append(d.paths, &fakePath{disk: d, name: fmt.Sprintf("sd%c", 'a'+i), fails: map[Op]error{}, lose: map[Op]error{}, hook: map[Op]func(){}})
	}
	return d
}

func (d *fakeDisk) nexuses(which ...int) []Nexus {
	var out []Nexus
	for i, p := range d.paths {
		if len(which) == 0 || slices.Contains(which, i) {
			out = append(out, p)
		}
	}
	return out
}

func (p *fakePath) Name() string { return p.name }

func (p *fakePath) attention(asc, ascq uint8) {
	p.told = append(p.told, &Error{p.name, "", ErrAttention, Sense{Key: senseAttention, ASC: asc, ASCQ: ascq}.String()})
}

func (p *fakePath) Exec(ctx context.Context, c Command) (Answer, error) {
	if h := p.hook[c.Op]; h != nil {
		delete(p.hook, c.Op)
		h()
	}
	if ctx.Err() != nil {
		return Answer{}, &Error{p.name, c.Op, ErrNoAnswer, ""}
	}
	if kind := p.fails[c.Op]; kind != nil {
		return Answer{}, &Error{p.name, c.Op, kind, ""}
	}
	if len(p.told) > 0 {
		err := p.told[0]
		p.told = p.told[1:]
		return Answer{}, err
	}
	a, kind := p.execute(c)
	if kind != nil {
		return Answer{}, &Error{p.name, c.Op, kind, ""}
	}
	p.log = append(p.log, string(c.Op))
	if kind := p.lose[c.Op]; kind != nil {
		delete(p.lose, c.Op)
		return Answer{}, &Error{p.name, c.Op, kind, "answer lost"}
	}
	return a, nil
}

func (d *fakeDisk) bad(defect string) bool { return d.defect == defect }

func (d *fakeDisk) others(p *fakePath) []*fakePath {
	return slices.DeleteFunc(slices.Clone(d.paths), func(q *fakePath) bool { return q == p || q.key == 0 })
}

func (p *fakePath) execute(c Command) (a Answer, kind error) {
	d := p.disk
	registered := p.key != 0 && p.key == c.Key
	switch c.Op {
	case ReadKeys:
		for _, q := range d.paths {
			if q.key != 0 && (q == p || !d.bad("keys are per path")) {
				a.Keys = append(a.Keys, q.key)
			}
		}
		if p.extra != nil {
			a.Keys = append(a.Keys, p.extra(c.Op)...)
		}
	case ReadReservation:
		if d.holder != nil && !(d.bad("reservation is per path") && d.holder != p) {
			a.Reservation = &Reservation{Key: d.holder.key, Type: d.kind}
		}
	case ReadCapabilities:
		a.Capabilities = Capabilities{CanPersist: true, Persists: d.persists && !d.bad("does not persist"), TypesListed: true, WriteExclRO: true}
	case ReadFullStatus:
		if d.bad("no full status") {
			return a, ErrUnsupported
		}
		for _, q := range d.paths {
			if q.key != 0 {
				a.Registrants = append(a.Registrants, Registrant{Key: q.key, Holder: q == d.holder && !d.bad("wrong full status")})
			}
		}
	case ReadCapacity:
		a.Capacity = Capacity{Blocks: 100, BlockSize: len(d.block)}
	case ReadBlock:
		a.Data = slices.Clone(d.block)
	case WriteBlock:
		if d.holder != nil && p.key == 0 && !d.bad("writes are not checked") {
			return a, ErrConflict
		}
		d.writes = append(d.writes, p.name)
		d.block = slices.Clone(c.Data)
	case Register, RegisterIgnore:
		if c.Op == Register && p.key != c.Key {
			return a, ErrConflict
		}
		if c.APTPL && d.bad("refuses APTPL") {
			return a, ErrUnsupported
		}
		if p.key == c.New && c.New == 0 {
			return a, nil
		}
		p.key, d.persists = c.New, c.APTPL
		if c.New == 0 && d.holder == p {
			d.holder = nil
			for _, q := range d.others(p) {
				q.attention(0x2a, 0x04)
			}
		}
		if c.APTPL && d.bad("fails but registers") {
			return a, ErrTarget
		}
	case Reserve:
		if !registered || d.holder != nil && d.holder != p && !d.bad("two reservations") {
			return a, ErrConflict
		}
		d.holder, d.kind = p, WriteExclusiveRegistrantsOnly
	case Clear:
		if !registered {
			return a, ErrConflict
		}
		for _, q := range d.others(p) {
			q.attention(0x2a, 0x03)
		}
		if !d.bad("clear does nothing") || c.Key == p.disk.codecTest0() {
			for _, q := range d.paths {
				q.key = 0
			}
		}
		d.holder = nil
	case Preempt, PreemptAbort:
		if c.Op == PreemptAbort && d.bad("no abort") {
			return a, ErrUnsupported
		}
		if !registered && !d.bad("anybody may preempt") {
			return a, ErrConflict
		}
		victims := slices.DeleteFunc(slices.Clone(d.paths), func(q *fakePath) bool { return q == p || q.key != c.Victim || c.Victim == 0 })
		if len(victims) == 0 {
			return a, ErrConflict
		}
		for _, q := range victims {
			if q == d.holder && !d.bad("reservation is lost") {
				d.holder, d.kind = p, WriteExclusiveRegistrantsOnly
			} else if q == d.holder {
				d.holder = nil
			}
			if !d.bad("preempt does nothing") {
				q.key = 0
				q.attention(0x2a, 0x05)
			}
		}
	}
	return a, nil
}

// codecTest0 is the key that tidy uses, so that a disk with a broken CLEAR can be tidied in the test.
func (d *fakeDisk) codecTest0() Key { return testCodec.Test(0) }

var testCodec = func() Codec {
	c, err := NewCodec("3f1c9a52-cluster")
	if err != nil {
		panic(err)
	}
	return c
}()
