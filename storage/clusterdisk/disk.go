package clusterdisk

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Where things are. Slots and snapshots take what is left, in whole blocks.
const (
	MinSize      = 64 << 20 // bytes
	MaxSlots     = 8
	DefaultSlots = 4 // three voters, and one more for who takes the place of a lost one
	snapshots    = 2

	headerSecond = 512 << 10 // the header's second copy, out of reach of what tears or overwrites the first
	slotHeads    = 1 << 20
	slotHead     = 64 << 10
	areas        = 2 << 20
)

// Header says whose disk this is and what counts on it.
type Header struct {
	Sequence    uint64    `json:"sequence"` // of writings of the header
	Disk        string    `json:"disk"`     // random, from Format: a copy of a disk has it too
	WWN         string    `json:"wwn"`      // of the disk that was formatted: a copy has another
	Cluster     string    `json:"cluster"`  // its name
	ClusterID   string    `json:"cluster_id"`
	CA          string    `json:"ca"` // SHA-256 of the CA's certificate, hex
	Incarnation uint64    `json:"incarnation"`
	Members     []string  `json:"members"` // nodes whose slots are whole in this incarnation
	Slots       int       `json:"slots"`
	Formatted   time.Time `json:"formatted"`
	// LedgerEnd is where slots and snapshots end and images begin, bytes. 0: they take the whole disk, as
	// they did before there was room for images.
	LedgerEnd int64  `json:"ledger_end,omitempty"`
	Key       []byte `json:"key"` // of the copies, sealed by the join token
}

// Disk is an opened cluster disk. One goroutine at a time uses it, and each of its slots.
type Disk struct {
	dev    Device
	key    []byte // of copies
	mac    []byte // of header and slot heads
	token  []byte // its key
	header Header
}

// Errors of Identify and Open, for errors.Is.
var (
	// ErrBlank: nothing but zeros where a header would be.
	ErrBlank = errors.New("there is nothing on the disk")
	// ErrForeign: something else is on the disk. It is not touched.
	ErrForeign = errors.New("something else is on the disk")
	// ErrDamaged: it was a cluster disk, and neither copy of its header is whole.
	ErrDamaged = errors.New("both copies of the header are damaged")
	// ErrWrongToken: a cluster disk, and not written with this join token.
	ErrWrongToken = errors.New("this join token does not open the disk")
)

// Identify reads the header without the token. It is for people and for finding the disk; nothing in it is
// proven. A reader cannot always flush (a write-exclusive reservation forbids that to others), so what another
// node has just written may still be lost; Load after Take is what to rely on.
func Identify(dev Device) (*Header, error) {
	h, _, err := readHeader(dev, nil)
	return h, err
}

func readHeader(dev Device, key []byte) (newest *Header, at int64, err error) {
	if dev.Size() < MinSize {
		return nil, 0, fmt.Errorf("%w: it has %d bytes, and a cluster disk %d at least", ErrForeign, dev.Size(), MinSize)
	}
	var errs []error
	seen, blank := false, true
	for _, off := range []int64{0, headerSecond} {
		b := make([]byte, Block)
		if _, err := dev.ReadAt(b, off); err != nil {
			errs = append(errs, err)
			blank = false
			continue
		}
		blank = blank && isZero(b)
		seen = seen || bytes.HasPrefix(b, []byte(magic))
		var h Header
		switch err := unframe(b, kindHeader, key, &h); {
		case err != nil:
			errs = append(errs, err)
		case newest == nil || h.Sequence > newest.Sequence:
			newest, at = &h, off
		}
	}
	switch {
	case newest != nil:
		return newest, at, newest.check(dev)
	case blank:
		return nil, 0, ErrBlank
	case !seen:
		return nil, 0, fmt.Errorf("%w: %w", ErrForeign, errors.Join(errs...))
	default:
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, errors.Join(errs...))
	}
}

func (h *Header) check(dev Device) error {
	if h.LedgerEnd != 0 && (h.LedgerEnd < MinSize || h.LedgerEnd > dev.Size()) {
		return fmt.Errorf("%w: the ledger's part ends at %d, and the disk at %d", ErrDamaged, h.LedgerEnd, dev.Size())
	}
	if h.Slots < 1 || h.Slots > MaxSlots || h.Incarnation == 0 || h.ClusterID == "" {
		return fmt.Errorf("%w: %d slots, incarnation %d, cluster %q", ErrDamaged, h.Slots, h.Incarnation, h.ClusterID)
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Format makes an empty disk that of a running cluster. cluster, its id, the CA's fingerprint and the incarnation
// are taken from h. Only a disk with zeros at both ends is taken: anything else is somebody's data.
func Format(dev Device, h Header, token []byte, now time.Time) (*Disk, error) {
	old, err := Identify(dev)
	switch {
	case err == nil:
		return nil, fmt.Errorf("format the cluster disk: it is that of cluster %s (%.8s) already", old.Cluster, old.ClusterID)
	case !errors.Is(err, ErrBlank):
		return nil, fmt.Errorf("format the cluster disk: %w", err)
	}
	for _, at := range []struct{ off, n int64 }{{0, areas}, {dev.Size() - areas/2, areas / 2}} {
		b := make([]byte, at.n)
		if _, err := dev.ReadAt(b, at.off); err != nil {
			return nil, fmt.Errorf("format the cluster disk: %w", err)
		}
		if !isZero(b) {
			return nil, fmt.Errorf("format the cluster disk: %w, between bytes %d and %d: if it is of no use any more, overwrite it with zeros", ErrForeign, at.off, at.off+at.n)
		}
	}
	tk, err := tokenKey(token)
	if err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	h.Disk, h.WWN, h.Formatted, h.Sequence = hex.EncodeToString(id), dev.WWN(), now, 0
	h.LedgerEnd = divide(dev.Size())
	if h.Slots == 0 {
		h.Slots = DefaultSlots
	}
	d := &Disk{dev: dev, key: newKey(), token: tk}
	if d.mac, err = macKey(d.key); err != nil {
		return nil, err
	}
	if h.Key, err = seal(tk, d.key, []byte(h.Disk)); err != nil {
		return nil, err
	}
	if err := h.check(dev); err != nil {
		return nil, err
	}
	return d, d.WriteHeader(h)
}

// Open opens the disk with the join token. WWN and cluster are the caller's to compare (Decide does).
func Open(dev Device, token []byte) (*Disk, error) {
	d := &Disk{dev: dev}
	var err error
	if d.token, err = tokenKey(token); err != nil {
		return nil, err
	}
	h, err := Identify(dev)
	if err != nil {
		return nil, fmt.Errorf("open the cluster disk: %w", err)
	}
	if d.key, err = open(d.token, h.Key, []byte(h.Disk)); err != nil {
		return nil, fmt.Errorf("open the cluster disk of %s (%.8s): %w", h.Cluster, h.ClusterID, ErrWrongToken)
	}
	if d.mac, err = macKey(d.key); err != nil {
		return nil, err
	}
	if err := d.readHeader(); err != nil {
		return nil, fmt.Errorf("open the cluster disk: %w", err)
	}
	return d, nil
}

func (d *Disk) readHeader() error {
	h, _, err := readHeader(d.dev, d.mac)
	if err == nil {
		d.header = *h
	}
	return err
}

// Header is as last read or written.
func (d *Disk) Header() Header { return d.header }

// WWN is that of the disk itself.
func (d *Disk) WWN() string { return d.dev.WWN() }

// WriteHeader replaces the header. The copy that counts now is written last, so that one of the two is whole at any
// time; the new one counts as soon as its first copy is there, and outlasts a loss of power when this returns.
func (d *Disk) WriteHeader(h Header) error {
	_, at, err := readHeader(d.dev, d.mac)
	if err != nil && !errors.Is(err, ErrBlank) {
		return fmt.Errorf("write the cluster disk's header: %w", err)
	}
	h.Sequence = d.header.Sequence + 1
	b, err := frame(kindHeader, d.mac, h)
	if err != nil {
		return fmt.Errorf("write the cluster disk's header: %w", err)
	}
	if err := d.pair(b, 0, headerSecond, at); err != nil {
		return fmt.Errorf("write the cluster disk's header: %w", err)
	}
	d.header = h
	return nil
}

// pair writes both copies of a record, the one at last after the other, and a flush after each.
func (d *Disk) pair(b []byte, first, second, last int64) error {
	order := []int64{first, second}
	if last == first {
		order = []int64{second, first}
	}
	for _, off := range order {
		if err := d.write(b, off); err != nil {
			return err
		}
	}
	return nil
}

// readError: the disk did not answer, so nothing is known of what is there.
type readError struct{ err error }

func (e readError) Error() string { return e.err.Error() }
func (e readError) Unwrap() error { return e.err }

func isRead(err error) bool {
	var r readError
	return errors.As(err, &r)
}

func (d *Disk) read(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := d.dev.ReadAt(b, off); err != nil {
		return nil, readError{err}
	}
	return b, nil
}

func (d *Disk) write(b []byte, off int64) error {
	if _, err := d.dev.WriteAt(b, off); err != nil {
		return err
	}
	return d.dev.Flush()
}

// bank is where one copy of the ledger is, with the changes after it, if there is room for them.
type bank struct{ off, size int64 }

// ledgerEnd is where slots and snapshots end.
func (d *Disk) ledgerEnd() int64 { return cmp.Or(d.header.LedgerEnd, d.dev.Size()) }

func (d *Disk) unit() int64 { return (d.ledgerEnd() - areas) / 8 / Block * Block }

func (d *Disk) snapshotBank(i int) bank { return bank{areas + int64(i)*d.unit(), d.unit()} }

func (d *Disk) slotBank(slot, i int) bank {
	size := 6 * d.unit() / int64(2*d.header.Slots) / Block * Block
	return bank{areas + snapshots*d.unit() + int64(2*slot+i)*size, size}
}
