package clusterdisk

import (
	"errors"
	"fmt"
	"time"
)

// Owner is the boot of a node that uses a slot.
type Owner struct {
	Node      string `json:"node"`
	Number    uint8  `json:"number"`
	MachineID string `json:"machine_id"`
	BootID    string `json:"boot_id"`
	// Generation rises with each claim of any slot. It is in the reservation key, which outlasts everything: a disk
	// whose slots know less than the keys registered at it is an old copy of itself.
	Generation uint64 `json:"generation"`
}

// Life is the sign of life in a slot. Who is alone and was shut off finds out by it, though nobody asks it for
// anything; and Revision is what a later reader must find in the copy.
type Life struct {
	Generation  uint64 `json:"generation"`
	Count       uint64 `json:"count"`
	Incarnation uint64 `json:"incarnation"`
	Revision    int64  `json:"revision"`
}

// Slot is where one voter keeps its copy. Only the boot that claimed it writes there.
type Slot struct {
	disk  *Disk
	index int
	owner Owner
	bank  int // that counts
	at    copyIn
	whole bool // at is a copy that records may follow
	high  uint64
	life  Life
}

func (d *Disk) headOff(slot int) int64 { return slotHeads + int64(slot)*slotHead }

// Owners are who last claimed the slots; nil for one that was never claimed.
func (d *Disk) Owners() ([]*Owner, error) {
	list := make([]*Owner, d.header.Slots)
	for i := range list {
		for _, off := range []int64{0, Block} {
			b, err := d.read(d.headOff(i)+off, Block)
			if err != nil {
				return nil, fmt.Errorf("slot %d: %w", i, err)
			}
			var o Owner
			if unframe(b, kindSlot, d.mac, &o) == nil && (list[i] == nil || o.Generation > list[i].Generation) {
				list[i] = &o
			}
		}
	}
	return list, nil
}

// NextGeneration is higher than that of all owners.
func (d *Disk) NextGeneration() (uint64, error) {
	owners, err := d.Owners()
	g := uint64(0)
	for _, o := range owners {
		if o != nil {
			g = max(g, o.Generation)
		}
	}
	return g + 1, err
}

// Claim takes a slot for a boot. That no other node has it is the caller's to know, from the ledger, or because it
// has taken the disk; and it must be registered. What is in the slot stays until Rebase has replaced it.
func (d *Disk) Claim(slot int, o Owner) (*Slot, error) {
	if slot < 0 || slot >= d.header.Slots {
		return nil, fmt.Errorf("there is no slot %d on the cluster disk: it has %d", slot, d.header.Slots)
	}
	owners, err := d.Owners()
	if err != nil {
		return nil, err
	}
	for i, old := range owners {
		if old != nil && old.Generation >= o.Generation {
			return nil, fmt.Errorf("claim slot %d in generation %d: slot %d is in generation %d", slot, o.Generation, i, old.Generation)
		}
	}
	b, err := frame(kindSlot, d.mac, o)
	if err != nil {
		return nil, err
	}
	// Either may be the one that counts; the generation tells.
	if err := d.pair(b, d.headOff(slot), d.headOff(slot)+Block, d.headOff(slot)); err != nil {
		return nil, fmt.Errorf("claim slot %d: %w", slot, err)
	}
	s := &Slot{disk: d, index: slot, owner: o, life: Life{Generation: o.Generation}}
	// The copy that counts is not written over: it may be the only one that has everything.
	keep, high, err := d.current(slot)
	if err != nil {
		return nil, err
	}
	s.bank, s.high = keep, high
	return s, nil
}

// current is the bank of a slot that counts, and the highest sequence in use: the newest copy of the header's
// incarnation, else the newest.
func (d *Disk) current(slot int) (at int, high uint64, err error) {
	best := [2]uint64{}
	for i := range 2 {
		c, err := d.readBank(d.slotBank(slot, i))
		if err != nil {
			if isRead(err) {
				return 0, 0, err
			}
			continue
		}
		rank := [2]uint64{0, c.Sequence}
		if c.Incarnation == d.header.Incarnation {
			rank[0] = 1
		}
		if rank[0] > best[0] || rank[0] == best[0] && rank[1] > best[1] {
			best, at = rank, i
		}
		high = max(high, c.Sequence)
	}
	return at, high, nil
}

// Rebase replaces the copy in the slot by the ledger as it is. What was there counts until this has returned.
func (s *Slot) Rebase(l *Ledger) error {
	other := 1 - s.bank
	if s.whole && s.at.Incarnation > s.disk.header.Incarnation {
		other = s.bank // the header does not speak of it yet, but of what is in the other one
	}
	h := bankHead{Sequence: s.high + 1, Node: s.owner.Node, Generation: s.owner.Generation, Time: time.Now()}
	s.high++ // even if it fails: half of it may be there
	b := s.disk.slotBank(s.index, other)
	at, err := s.disk.writeCopy(b, h, l, b.size/4)
	if err != nil {
		return fmt.Errorf("copy the ledger to slot %d: %w", s.index, err)
	}
	s.bank, s.at, s.whole = other, at, true
	s.life.Incarnation, s.life.Revision = l.Incarnation, l.Revision
	return nil
}

// ErrFull: the slot has no room for another record: Rebase.
var ErrFull = errors.New("the slot is full")

// Append adds changes to the copy; they must be the next ones. When it returns nil they outlast any loss of power.
// After any other error than ErrFull it is not known whether they do, and the slot has to be rebased.
func (s *Slot) Append(list []Change) error {
	if !s.whole {
		return fmt.Errorf("slot %d has no copy to add to: %w", s.index, ErrFull)
	}
	for i, c := range list {
		if want := s.life.Revision + int64(i) + 1; c.Revision != want {
			return fmt.Errorf("slot %d: revision %d would follow %d", s.index, c.Revision, want-1)
		}
	}
	switch err := s.disk.appendRecord(s.disk.slotBank(s.index, s.bank), &s.at, list); {
	case errors.Is(err, errFull):
		return ErrFull
	case err != nil:
		s.whole = false
		return fmt.Errorf("write to slot %d: %w", s.index, err)
	}
	s.life.Revision = list[len(list)-1].Revision
	return nil
}

// Confirm has the header name the incarnation of the copy. lead tells that this node may write it: it is the
// coordinator, so nobody else does. ErrFenced: the header is of a later one, so another cluster has the disk.
func (s *Slot) Confirm(lead bool) error {
	if err := s.disk.readHeader(); err != nil {
		return fmt.Errorf("header of the cluster disk: %w", err)
	}
	h := s.disk.header
	switch inc := s.at.Incarnation; {
	case !s.whole:
		return fmt.Errorf("slot %d has no copy", s.index)
	case h.Incarnation > inc:
		return fmt.Errorf("the cluster disk is in incarnation %d, and this node's ledger in %d: %w", h.Incarnation, inc, ErrFenced)
	case h.Incarnation == inc:
		return nil
	case !lead:
		return fmt.Errorf("the cluster disk is still in incarnation %d, and the ledger in %d: the coordinator writes the header", h.Incarnation, inc)
	default:
		h.Incarnation, h.Members = inc, []string{s.owner.Node}
		return s.disk.WriteHeader(h)
	}
}

// Revision is the newest that is in the slot for good.
func (s *Slot) Revision() int64 { return s.life.Revision }

// Index of the slot on its disk.
func (s *Slot) Index() int { return s.index }

// Owner is who claimed it.
func (s *Slot) Owner() Owner { return s.owner }

// Sign writes a sign of life.
func (s *Slot) Sign() error {
	s.life.Count++
	b, err := frame(kindLife, s.disk.mac, s.life)
	if err == nil {
		err = s.disk.write(b, s.disk.headOff(s.index)+2*Block)
	}
	if err != nil {
		return fmt.Errorf("sign of life in slot %d: %w", s.index, err)
	}
	return nil
}

// Lives reads the signs of life of all slots; zero where there is none.
func (d *Disk) Lives() ([]Life, error) {
	list := make([]Life, d.header.Slots)
	for i := range list {
		b, err := d.read(d.headOff(i)+2*Block, Block)
		if err != nil {
			return nil, fmt.Errorf("slot %d: %w", i, err)
		}
		if unframe(b, kindLife, d.mac, &list[i]) != nil {
			list[i] = Life{}
		}
	}
	return list, nil
}
