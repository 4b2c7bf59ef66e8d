package clusterdisk

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Copy is what was found in a slot, or as a snapshot.
type Copy struct {
	Slot       int  // or the snapshot's index
	Snapshot   bool // of one moment: what came later is not in it
	Node       string
	Generation uint64
	Ledger     *Ledger
	Time       time.Time // when it was begun, for people
	// Damage tells why a slot's copy is worth nothing, or is not all there was; nil if it is whole.
	Damage error
}

// Contents of the disk.
type Contents struct {
	Header    Header
	Owners    []*Owner
	Slots     []Copy // those of the header's incarnation, whole ones first, newest first
	Snapshots []Copy // of any incarnation, newest first
	// Old tells how the disk contradicts itself such that it must be an older copy of itself; nil if it does not.
	Old error
}

// Newest is the copy to go on from, nil if there is none.
func (c *Contents) Newest() *Copy {
	if len(c.Slots) > 0 && c.Slots[0].Damage == nil {
		return &c.Slots[0]
	}
	return nil
}

// Load reads the whole disk. With settle it flushes before, which only a registered node can: what another node
// had written, and the disk had not yet saved, can be relied on then.
func (d *Disk) Load(settle bool) (*Contents, error) {
	if settle {
		if err := d.dev.Flush(); err != nil {
			return nil, fmt.Errorf("read the cluster disk: %w", err)
		}
	}
	if err := d.readHeader(); err != nil {
		return nil, fmt.Errorf("read the cluster disk: %w", err)
	}
	c := &Contents{Header: d.header}
	var err error
	if c.Owners, err = d.Owners(); err != nil {
		return nil, fmt.Errorf("read the cluster disk: %w", err)
	}
	lives, err := d.Lives()
	if err != nil {
		return nil, fmt.Errorf("read the cluster disk: %w", err)
	}
	for i := range d.header.Slots {
		cp, old, err := d.loadSlot(i, lives[i])
		if err != nil {
			return nil, fmt.Errorf("read the cluster disk: slot %d: %w", i, err)
		}
		if cp != nil {
			c.Slots = append(c.Slots, *cp)
		}
		c.Old = errors.Join(c.Old, old)
	}
	slices.SortStableFunc(c.Slots, func(a, b Copy) int { return newer(b, a) })
	for i := range snapshots {
		in, err := d.readBank(d.snapshotBank(i))
		switch {
		case err == nil:
			c.Snapshots = append(c.Snapshots, Copy{Slot: i, Snapshot: true, Node: in.Node, Generation: in.Generation, Ledger: in.ledger, Time: in.Time})
		case isRead(err):
			return nil, fmt.Errorf("read the cluster disk: snapshot %d: %w", i, err)
		}
	}
	slices.SortStableFunc(c.Snapshots, func(a, b Copy) int { return newer(b, a) })
	return c, nil
}

// newer compares copies: a whole one is worth more, then the incarnation counts, then the revision.
func newer(a, b Copy) int {
	rank := func(c Copy) [3]int64 {
		r := [3]int64{}
		if c.Damage == nil {
			r[0] = 1
		}
		if c.Ledger != nil {
			r[1], r[2] = int64(c.Ledger.Incarnation), c.Ledger.Revision
		}
		return r
	}
	return slices.Compare(sl(rank(a)), sl(rank(b)))
}

func sl(a [3]int64) []int64 { return a[:] }

// loadSlot is the copy in a slot that counts, nil if there is none of the header's incarnation.
func (d *Disk) loadSlot(i int, life Life) (cp *Copy, old, err error) {
	var best *copyIn
	var damage error
	for j := range 2 {
		in, err := d.readBank(d.slotBank(i, j))
		switch {
		case err == nil:
		case isRead(err):
			return nil, nil, err
		default:
			if !errors.Is(err, errNoFrame) {
				damage = errors.Join(damage, err)
			}
			continue
		}
		if in.Incarnation > d.header.Incarnation && in.records > 0 {
			// Records come after the header. It was written, and is not there.
			old = fmt.Errorf("slot %d was written in incarnation %d, and the header is of %d", i, in.Incarnation, d.header.Incarnation)
		}
		if in.Incarnation == d.header.Incarnation && (best == nil || in.Sequence > best.Sequence) {
			best = in
		}
	}
	lived := life.Incarnation == d.header.Incarnation && life.Revision > 0
	switch {
	case best == nil && !lived:
		return nil, old, nil // never used in this incarnation
	case best == nil:
		damage = errors.Join(fmt.Errorf("slot %d had revision %d, and no copy of this incarnation is readable", i, life.Revision), damage)
		return &Copy{Slot: i, Damage: damage}, old, nil
	}
	cp = &Copy{Slot: i, Node: best.Node, Generation: best.Generation, Ledger: best.ledger, Time: best.Time}
	if lived && life.Revision > best.Revision {
		cp.Damage = errors.Join(fmt.Errorf("slot %d had revision %d, and its copy ends at %d", i, life.Revision, best.Revision), damage)
	}
	return cp, old, nil
}

// Snapshot keeps the ledger as it is now, in the place of the older one of two. Who calls it is the coordinator; a
// snapshot is for when the slots are gone.
func (d *Disk) Snapshot(l *Ledger, by Owner) error {
	at, high, oldest := 0, uint64(0), ^uint64(0)
	for i := range snapshots {
		in, err := d.readBank(d.snapshotBank(i))
		if err != nil && isRead(err) {
			return fmt.Errorf("snapshot of the ledger: %w", err)
		}
		seq := uint64(0)
		if err == nil {
			seq = in.Sequence
		}
		high = max(high, seq)
		if seq < oldest {
			at, oldest = i, seq
		}
	}
	h := bankHead{Sequence: high + 1, Node: by.Node, Generation: by.Generation, Time: time.Now()}
	if _, err := d.writeCopy(d.snapshotBank(at), h, l, 0); err != nil {
		return fmt.Errorf("snapshot of the ledger: %w", err)
	}
	return nil
}
