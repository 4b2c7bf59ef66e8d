package clusterdisk

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/reserve"
)

// Keys is the registrations at the cluster disk, through all of its paths. All members are registered and all may
// write (write exclusive, registrants only): which member writes where is agreed on, and the keys shut out who is
// no member any more. A key's epoch is the generation of a claim.
//
// An error is no outcome, but ErrFenced; a path that fails makes the operation fail, for what is written may go
// down any of them.
type Keys struct {
	codec reserve.Codec
	paths []reserve.Nexus
	near  uint64
}

// NewKeys is for the cluster with this ID.
func NewKeys(clusterID string, paths ...reserve.Nexus) (*Keys, error) {
	if len(paths) == 0 {
		return nil, errors.New("the cluster disk has no path")
	}
	c, err := reserve.NewCodec(clusterID)
	return &Keys{codec: c, paths: paths, near: 1}, err
}

// again repeats a command that told of something that happened before: nothing was executed.
func again(ctx context.Context, n reserve.Nexus, c reserve.Command) (a reserve.Answer, err error) {
	for range 4 {
		if a, err = n.Exec(ctx, c); !errors.Is(err, reserve.ErrAttention) {
			break
		}
	}
	return a, err
}

// Register puts the key on every path, and reserves the disk if nobody has. ok is false if the disk refuses: who
// reserved it is no member, or the key was preempted at once.
func (k *Keys) Register(ctx context.Context, key takeover.Key) (ok bool, err error) {
	own, err := k.codec.Encode(key)
	if err != nil {
		return false, err
	}
	k.near = key.Epoch
	for _, p := range k.paths {
		if _, err := again(ctx, p, reserve.Command{Op: reserve.RegisterIgnore, New: own, APTPL: true}); err != nil {
			return false, fmt.Errorf("register at the cluster disk: %w", err)
		}
	}
	_, err = again(ctx, k.paths[0], reserve.Command{Op: reserve.Reserve, Key: own})
	if err != nil && !errors.Is(err, reserve.ErrConflict) {
		return false, fmt.Errorf("reserve the cluster disk: %w", err)
	}
	a, err := again(ctx, k.paths[0], reserve.Command{Op: reserve.ReadReservation})
	if err != nil {
		return false, fmt.Errorf("reservation of the cluster disk: %w", err)
	}
	if r := a.Reservation; r == nil || r.Type != reserve.WriteExclusiveRegistrantsOnly || !k.codec.Own(r.Key) {
		if r != nil {
			return false, fmt.Errorf("the cluster disk: %w: %s by key %s", reserve.ErrForeign, r.Type, r.Key)
		}
		return false, nil
	}
	return true, nil
}

// Read lists all keys, each once. ok is false if the own one is missing on a path, or nothing is reserved. A key of
// somebody else is an error: it is not ours to take away.
func (k *Keys) Read(ctx context.Context, key takeover.Key) (ok bool, keys []takeover.Key, err error) {
	ok = true
	for _, p := range k.paths {
		a, err := again(ctx, p, reserve.Command{Op: reserve.ReadKeys})
		if err != nil {
			return false, nil, fmt.Errorf("keys at the cluster disk: %w", err)
		}
		mine := false
		for _, raw := range a.Keys {
			t, own := k.codec.Decode(raw, k.near)
			if !own {
				return false, nil, fmt.Errorf("the cluster disk: %w: key %s is registered, which is not of this cluster", reserve.ErrForeign, raw)
			}
			mine = mine || t == key
			if !slices.Contains(keys, t) {
				keys = append(keys, t)
			}
		}
		ok = ok && mine
	}
	a, err := again(ctx, k.paths[0], reserve.Command{Op: reserve.ReadReservation})
	if err != nil {
		return false, nil, fmt.Errorf("reservation of the cluster disk: %w", err)
	}
	return ok && a.Reservation != nil, keys, nil
}

// Preempt takes a key away and aborts what its owner has under way. ok is false if it had gone, or we have.
func (k *Keys) Preempt(ctx context.Context, key, victim takeover.Key) (ok bool, err error) {
	own, err := k.codec.Encode(key)
	if err != nil {
		return false, err
	}
	v, err := k.codec.Encode(victim)
	if err != nil {
		return false, err
	}
	_, err = again(ctx, k.paths[0], reserve.Command{Op: reserve.PreemptAbort, Key: own, Victim: v})
	if errors.Is(err, reserve.ErrConflict) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("shut node %d off from the cluster disk: %w", victim.Node, err)
	}
	return true, nil
}

// ErrLost: another node took the disk at the same time. This one stands down.
var ErrLost = errors.New("another node has taken the cluster disk")

// Registry is what Keys does.
type Registry interface {
	Register(context.Context, takeover.Key) (bool, error)
	Read(context.Context, takeover.Key) (bool, []takeover.Key, error)
	Preempt(ctx context.Context, key, victim takeover.Key) (bool, error)
}

// Seize takes the disk for a boot of a node, in the order that Take gives: all others are shut off, then the disk is
// read, choose says what to go on from, that is written to the slot, and the header names this node alone in the
// ledger's incarnation, which must be higher. The slot is returned for what is committed from then on. ErrLost and
// ErrFenced: stand down. Any other error: nothing is decided, and nothing was acknowledged.
func Seize(ctx context.Context, d *Disk, keys Registry, slot int, o Owner, choose func(*Contents) (*Ledger, error)) (*Slot, *Ledger, error) {
	gen, err := d.NextGeneration()
	if err != nil {
		return nil, nil, fmt.Errorf("take the cluster disk: %w", err)
	}
	o.Generation = gen
	return seize(ctx, d, keys, nil, slot, o, NewTake(takeover.Key{Node: o.Number, Epoch: o.Generation}), choose)
}

// SeizeAgain is Seize for one of two members that no longer hears the other: it has its slot and is registered, and
// does not register again, for if its key is gone, the other was faster.
func SeizeAgain(ctx context.Context, d *Disk, keys Registry, s *Slot, choose func(*Contents) (*Ledger, error)) (*Slot, *Ledger, error) {
	return seize(ctx, d, keys, s, s.index, s.owner, ResumeTake(takeover.Key{Node: s.owner.Number, Epoch: s.owner.Generation}), choose)
}

func seize(ctx context.Context, d *Disk, keys Registry, s *Slot, slot int, o Owner, t Take, choose func(*Contents) (*Ledger, error)) (*Slot, *Ledger, error) {
	own := t.own
	var l *Ledger
	for {
		var ok bool
		var seen []takeover.Key
		op, victim := t.Next()
		err := ctx.Err()
		if err == nil {
			switch op {
			case TakeRegister:
				ok, err = keys.Register(ctx, own)
			case TakeKeys:
				ok, seen, err = keys.Read(ctx, own)
			case TakePreempt:
				ok, err = keys.Preempt(ctx, own, victim)
			case TakeRead:
				var c *Contents
				if c, err = d.Load(true); err == nil {
					l, err = choose(c)
				}
				if err == nil && l.Incarnation <= c.Header.Incarnation {
					err = fmt.Errorf("incarnation %d does not follow %d", l.Incarnation, c.Header.Incarnation)
				}
				if err == nil && s == nil {
					s, err = d.Claim(slot, o)
				}
				ok = err == nil
			case TakeCopy:
				err = s.Rebase(l)
				ok = err == nil
			case TakeHeader:
				h := d.Header()
				h.Incarnation, h.Members = l.Incarnation, []string{o.Node}
				err = d.WriteHeader(h)
				ok = err == nil
			case TakeDone:
				return s, l, nil
			case TakeLost:
				return nil, nil, ErrLost
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("take the cluster disk (%s): %w", op, err)
		}
		t.Done(ok, seen)
	}
}
