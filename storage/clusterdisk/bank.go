package clusterdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"
)

// bankHead is the first block of a bank. It is written when what it speaks of is there.
type bankHead struct {
	Sequence    uint64    `json:"sequence"` // of all writings of banks of this slot
	Salt        uint64    `json:"salt"`     // random: what an earlier writing left behind is not of this one
	Node        string    `json:"node"`
	Generation  uint64    `json:"generation"`
	Incarnation uint64    `json:"incarnation"`
	Revision    int64     `json:"revision"`
	Length      int64     `json:"length"` // bytes of the sealed copy after this block
	Time        time.Time `json:"time"`   // for people
}

// copyIn is what a bank has.
type copyIn struct {
	bankHead
	ledger  *Ledger
	records uint64 // that follow the copy
	end     int64  // where the next would be, from the bank's start
}

// recordHead precedes a sealed record: magic, length of what is sealed, the bank's salt, the record's index.
const (
	recordMagic = "SKRC"
	recordHead  = 24
)

// about is what a sealed record is bound to, so that one cannot stand in another's place.
func about(b bank, salt, index uint64) []byte {
	var a []byte
	a = binary.BigEndian.AppendUint64(a, uint64(b.off))
	a = binary.BigEndian.AppendUint64(a, salt)
	return binary.BigEndian.AppendUint64(a, index)
}

// theCopy is the index of the copy itself; records count from 0.
const theCopy = ^uint64(0)

// ErrTooSmall: the ledger does not fit on this disk.
var ErrTooSmall = errors.New("the cluster disk is too small for the ledger")

// writeCopy replaces what is in a bank. Until it returns the bank may be worth nothing. room is what must be left for
// records, bytes.
func (d *Disk) writeCopy(b bank, h bankHead, l *Ledger, room int64) (copyIn, error) {
	h.Salt = mathrand.Uint64()
	sealed, err := seal(d.key, l.encode(), about(b, h.Salt, theCopy))
	if err != nil {
		return copyIn{}, err
	}
	h.Incarnation, h.Revision, h.Length = l.Incarnation, l.Revision, int64(len(sealed))
	end := Block + up(h.Length)
	if end+room > b.size {
		return copyIn{}, fmt.Errorf("%w: a copy of it takes %d bytes and has room for %d; grow it, or format a bigger one", ErrTooSmall, h.Length, b.size-Block-room)
	}
	head, err := frame(kindBank, d.mac, h)
	if err != nil {
		return copyIn{}, err
	}
	// The old head goes first: it must not speak of what is not there any more.
	if err := d.write(make([]byte, Block), b.off); err != nil {
		return copyIn{}, err
	}
	data := make([]byte, up(h.Length))
	copy(data, sealed)
	const piece = 1 << 20
	for at := int64(0); at < int64(len(data)); at += piece {
		if _, err := d.dev.WriteAt(data[at:min(at+piece, int64(len(data)))], b.off+Block+at); err != nil {
			return copyIn{}, err
		}
	}
	// The record that was once behind the copy has another salt, so nobody takes it for the next.
	if err := d.dev.Flush(); err != nil {
		return copyIn{}, err
	}
	if err := d.write(head, b.off); err != nil {
		return copyIn{}, err
	}
	return copyIn{bankHead: h, end: end}, nil
}

var errFull = errors.New("there is no room for another record")

// appendRecord writes the next record and flushes.
func (d *Disk) appendRecord(b bank, c *copyIn, list []Change) error {
	sealed, err := seal(d.key, encodeChanges(list), about(b, c.Salt, c.records))
	if err != nil {
		return err
	}
	n := up(recordHead + int64(len(sealed)))
	if c.end+n > b.size {
		return errFull
	}
	data := make([]byte, n)
	copy(data, recordMagic)
	binary.BigEndian.PutUint32(data[4:], uint32(len(sealed)))
	binary.BigEndian.PutUint64(data[8:], c.Salt)
	binary.BigEndian.PutUint64(data[16:], c.records)
	copy(data[recordHead:], sealed)
	if err := d.write(data, b.off+c.end); err != nil {
		return err
	}
	c.end += n
	c.records++
	return nil
}

// readBank reads a copy and all records that follow it. A record that is torn, or is one of an earlier writing, is
// the end.
func (d *Disk) readBank(b bank) (*copyIn, error) {
	head, err := d.read(b.off, Block)
	if err != nil {
		return nil, err
	}
	c := &copyIn{}
	if err := unframe(head, kindBank, d.mac, &c.bankHead); err != nil {
		return nil, err
	}
	if c.Length < 0 || Block+up(c.Length) > b.size {
		return nil, fmt.Errorf("%w: its copy would have %d bytes", errNoFrame, c.Length)
	}
	data, err := d.read(b.off+Block, up(c.Length))
	if err != nil {
		return nil, err
	}
	raw, err := open(d.key, data[:c.Length], about(b, c.Salt, theCopy))
	if err != nil {
		return nil, fmt.Errorf("the copy of the ledger at revision %d is damaged: %w", c.Revision, err)
	}
	if c.ledger, err = decodeLedger(raw); err != nil {
		return nil, err
	}
	if c.ledger.Incarnation != c.Incarnation || c.ledger.Revision != c.Revision {
		return nil, fmt.Errorf("the copy of the ledger is not the one its head speaks of (revision %d, %d)", c.ledger.Revision, c.Revision)
	}
	c.end = Block + up(c.Length)
	for c.end+Block <= b.size {
		list, n, err := d.readRecord(b, c)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		for _, ch := range list {
			if err := c.ledger.apply(ch); err != nil {
				return nil, err
			}
		}
		c.end += n
		c.records++
	}
	c.Revision = c.ledger.Revision
	return c, nil
}

// readRecord reads the next record; n is 0 if there is none.
func (d *Disk) readRecord(b bank, c *copyIn) (list []Change, n int64, err error) {
	data, err := d.read(b.off+c.end, Block)
	if err != nil {
		return nil, 0, err
	}
	length := int64(binary.BigEndian.Uint32(data[4:]))
	n = up(recordHead + length)
	if string(data[:4]) != recordMagic || binary.BigEndian.Uint64(data[8:]) != c.Salt ||
		binary.BigEndian.Uint64(data[16:]) != c.records || c.end+n > b.size {
		return nil, 0, nil
	}
	if n > Block {
		if data, err = d.read(b.off+c.end, n); err != nil {
			return nil, 0, err
		}
	}
	raw, err := open(d.key, data[recordHead:recordHead+length], about(b, c.Salt, c.records))
	if err != nil {
		return nil, 0, nil // torn: nobody was told that it is there
	}
	list, err = decodeChanges(raw)
	return list, n, err
}
