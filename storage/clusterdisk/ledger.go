package clusterdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Entry is one record of the ledger, with the revisions that it had: epochs are made of them.
type Entry struct {
	Key, Value              []byte
	Created, Changed, Times int64 // etcd's create revision, mod revision and version
}

// Ledger is all of it at one revision. Entries are sorted by key.
type Ledger struct {
	Incarnation uint64
	Revision    int64
	Entries     []Entry
}

// Change is one transaction: what it wrote, and the keys that it deleted.
type Change struct {
	Revision int64
	Puts     []Entry
	Deletes  [][]byte
}

// maxField bounds a key or a value, bytes: etcd takes no request over 1.5 MiB.
const maxField = 16 << 20

// apply makes the ledger that of the change, which must be the next one. One that is in it already changes nothing.
func (l *Ledger) apply(c Change) error {
	if c.Revision <= l.Revision {
		return nil
	}
	if c.Revision != l.Revision+1 {
		return fmt.Errorf("revision %d follows %d: what is between is missing", c.Revision, l.Revision)
	}
	find := func(key []byte) (int, bool) {
		return slices.BinarySearchFunc(l.Entries, key, func(e Entry, k []byte) int { return bytes.Compare(e.Key, k) })
	}
	for _, k := range c.Deletes {
		if i, ok := find(k); ok {
			l.Entries = slices.Delete(l.Entries, i, i+1)
		}
	}
	for _, e := range c.Puts {
		if i, ok := find(e.Key); ok {
			l.Entries[i] = e
		} else {
			l.Entries = slices.Insert(l.Entries, i, e)
		}
	}
	l.Revision = c.Revision
	return nil
}

// Get is the value of a key, nil if there is none.
func (l *Ledger) Get(key string) []byte {
	i, ok := slices.BinarySearchFunc(l.Entries, []byte(key), func(e Entry, k []byte) int { return bytes.Compare(e.Key, k) })
	if !ok {
		return nil
	}
	return l.Entries[i].Value
}

type writer struct{ b []byte }

func (w *writer) number(n uint64) { w.b = binary.AppendUvarint(w.b, n) }
func (w *writer) field(f []byte)  { w.number(uint64(len(f))); w.b = append(w.b, f...) }
func (w *writer) entry(e *Entry) {
	w.field(e.Key)
	w.field(e.Value)
	w.number(uint64(e.Created))
	w.number(uint64(e.Changed))
	w.number(uint64(e.Times))
}

// reader reads what writer wrote; the first error stays.
type reader struct {
	b   []byte
	err error
}

var errCut = errors.New("a record ends too early")

func (r *reader) number() uint64 {
	n, k := binary.Uvarint(r.b)
	if k <= 0 {
		r.err, r.b = errCut, nil
		return 0
	}
	r.b = r.b[k:]
	return n
}

func (r *reader) field() []byte {
	n := r.number()
	if n > uint64(len(r.b)) || n > maxField {
		r.err, r.b = errCut, nil
		return nil
	}
	f := r.b[:n:n]
	r.b = r.b[n:]
	return f
}

func (r *reader) entry() Entry {
	return Entry{Key: r.field(), Value: r.field(), Created: int64(r.number()), Changed: int64(r.number()), Times: int64(r.number())}
}

// count of things of which each takes a byte at least.
func (r *reader) count() int {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.err, r.b = errCut, nil
		return 0
	}
	return int(n)
}

var compressor = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		panic("clusterdisk: " + err.Error()) // its options are constants
	}
	return e
})

// maxLedger bounds what a copy takes in memory, bytes: twice what a voter takes (store.DefaultQuota).
const maxLedger = 512 << 20

var decompressor = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxLedger))
	if err != nil {
		panic("clusterdisk: " + err.Error())
	}
	return d
})

func (l *Ledger) encode() []byte {
	var w writer
	w.number(l.Incarnation)
	w.number(uint64(l.Revision))
	w.number(uint64(len(l.Entries)))
	for i := range l.Entries {
		w.entry(&l.Entries[i])
	}
	return compressor().EncodeAll(w.b, nil)
}

func decodeLedger(data []byte) (*Ledger, error) {
	raw, err := decompressor().DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("copy of the ledger: %w", err)
	}
	r := reader{b: raw}
	l := &Ledger{Incarnation: r.number(), Revision: int64(r.number())}
	for range r.count() {
		e := r.entry()
		if n := len(l.Entries); n > 0 && r.err == nil && bytes.Compare(l.Entries[n-1].Key, e.Key) >= 0 {
			return nil, errors.New("copy of the ledger: its keys are not in order")
		}
		l.Entries = append(l.Entries, e)
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = errors.New("there is more than its number of keys")
	}
	if r.err != nil {
		return nil, fmt.Errorf("copy of the ledger: %w", r.err)
	}
	return l, nil
}

func encodeChanges(list []Change) []byte {
	var w writer
	w.number(uint64(len(list)))
	for i := range list {
		c := &list[i]
		w.number(uint64(c.Revision))
		w.number(uint64(len(c.Puts)))
		for j := range c.Puts {
			w.entry(&c.Puts[j])
		}
		w.number(uint64(len(c.Deletes)))
		for _, k := range c.Deletes {
			w.field(k)
		}
	}
	return w.b
}

func decodeChanges(data []byte) ([]Change, error) {
	r := reader{b: data}
	var list []Change
	for range r.count() {
		c := Change{Revision: int64(r.number())}
		for range r.count() {
			c.Puts = append(c.Puts, r.entry())
		}
		for range r.count() {
			c.Deletes = append(c.Deletes, r.field())
		}
		list = append(list, c)
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = errors.New("there is more than its number of changes")
	}
	if r.err != nil {
		return nil, fmt.Errorf("changes to the ledger: %w", r.err)
	}
	return list, nil
}
