package reserve

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/skein-os/skein/agent/takeover"
)

// Nexus is one path to a disk: an initiator's port and a target's port. Device is one.
type Nexus interface {
	// Name is for messages.
	Name() string
	// Exec sends one command. Its error is one of this package's kinds.
	Exec(context.Context, Command) (Answer, error)
}

// Volume is one disk behind one or several paths, for package takeover. One goroutine at a time uses it: two
// claims of one node on one disk must come one after the other, since they share the nexus.
type Volume struct {
	codec Codec
	paths []*path
}

type path struct {
	Nexus
	out error // why it must not be used, since RegisterKey; nil: it is registered
}

// NewVolume makes a volume of its paths. That they lead to one disk is the caller's word (see SameDisk).
func NewVolume(codec Codec, paths ...Nexus) (*Volume, error) {
	if len(paths) == 0 {
		return nil, errors.New("a volume needs a path")
	}
	v := &Volume{codec: codec}
	for _, n := range paths {
		v.paths = append(v.paths, &path{Nexus: n})
	}
	return v, nil
}

// SameDisk checks that the devices are paths of one disk: by its worldwide name, since names like /dev/sdX
// are handed to another disk when a target changes its list of LUNs.
func SameDisk(devices ...*Device) error {
	first := ""
	for i, d := range devices {
		wwid, err := d.WWID()
		switch {
		case err != nil:
			return fmt.Errorf("%s: read its worldwide name: %w", d.Name(), err)
		case wwid == "":
			return fmt.Errorf("%s has no worldwide name: it cannot be told from another disk", d.Name())
		case i > 0 && wwid != first:
			return fmt.Errorf("%s is disk %s, but %s is disk %s", d.Name(), wwid, devices[0].Name(), first)
		}
		first = wwid
	}
	return nil
}

// Do does what a takeover.Storage is due to do, and returns what its Done takes:
//
//	RegisterKey    on every path; ok is false if a newer claim's key is there already, which is then left alone
//	ReserveVolume  write exclusive, registrants only, if nobody holds that; on one path
//	ReadKeys       on every path, all keys seen by any; ok is false if ours is missing on one, or if only ours is
//	               left and does not hold the reservation
//	PreemptAbort   victim's registrations on all its paths; ok is false if it had gone
//	MayWrite       the owner's audit: ok is false if our key or our reservation is gone. Kill what runs.
//	GiveUp         unregisters on every path, but not a key that holds the reservation: that one is parked
//
// An error is no outcome: Done must not be called; do it again, or give up. If it is ErrAttention, call
// Attention instead of Done. If it is ErrForeign or ErrUnsupported, doing it again does not help: people must.
// A path that fails in RegisterKey or later is out (Out) and the others go on; it must not be written through.
func (v *Volume) Do(ctx context.Context, op takeover.StorageOp, key, victim takeover.Key) (ok bool, keys []takeover.Key, err error) {
	own, err := v.codec.Encode(key)
	if err != nil {
		return false, nil, err
	}
	switch op {
	case takeover.RegisterKey:
		ok, err = v.register(ctx, own, key)
	case takeover.ReserveVolume:
		ok, err = v.reserve(ctx, own)
	case takeover.ReadKeys:
		ok, keys, err = v.readKeys(ctx, own, key)
	case takeover.PreemptAbort:
		ok, err = v.preempt(ctx, own, victim)
	case takeover.MayWrite:
		ok, err = v.audit(ctx, own, key)
	case takeover.GiveUp:
		ok, err = v.giveUp(ctx, own)
	default:
		err = fmt.Errorf("%q is not asked of a disk", op)
	}
	if err != nil {
		return false, nil, fmt.Errorf("%s in epoch %d: %w", op, key.Epoch, err)
	}
	return ok, keys, nil
}

// Out returns why paths are out of use, one error each.
func (v *Volume) Out() []error {
	var errs []error
	for _, p := range v.paths {
		if p.out != nil {
			errs = append(errs, p.out)
		}
	}
	return errs
}

// Registered returns the names of the paths that are in: after RegisterKey, those that have the key.
func (v *Volume) Registered() []string {
	var names []string
	for _, p := range v.paths {
		if p.out == nil {
			names = append(names, p.Name())
		}
	}
	return names
}

// pathFailed tells an error that is the path's, so that another may be tried. An attention or a refusal is the
// disk's. A context that has ended is the caller's.
func pathFailed(ctx context.Context, err error) bool {
	return errors.Is(err, ErrTransport) || errors.Is(err, ErrNoAnswer) && ctx.Err() == nil
}

// each runs the command on every path that is in; a path that fails is out from then on.
func (v *Volume) each(ctx context.Context, c Command, f func(Answer) error) error {
	used := 0
	for _, p := range v.paths {
		if p.out != nil {
			continue
		}
		a, err := p.Exec(ctx, c)
		switch {
		case err != nil && pathFailed(ctx, err):
			p.out = err
		case err != nil:
			return err
		default:
			used++
			if err := f(a); err != nil {
				return fmt.Errorf("%s: %w", p.Name(), err)
			}
		}
	}
	if used == 0 {
		return fmt.Errorf("no path is left: %w", errors.Join(v.Out()...))
	}
	return nil
}

// any runs the command on the first path that answers. The commands it is used for may be executed twice: what
// the first path did without telling, the second finds done.
func (v *Volume) any(ctx context.Context, c Command) (Answer, error) {
	for _, p := range v.paths {
		if p.out != nil {
			continue
		}
		a, err := p.Exec(ctx, c)
		if err != nil && pathFailed(ctx, err) {
			p.out = err
			continue
		}
		return a, err
	}
	return Answer{}, fmt.Errorf("no path is left: %w", errors.Join(v.Out()...))
}

// attentions is how often a first command is sent again because of unit attentions: nothing was proven yet, so
// what they tell is of no interest.
const attentions = 4

func calm(ctx context.Context, n Nexus, c Command) (a Answer, err error) {
	for range attentions {
		if a, err = n.Exec(ctx, c); !errors.Is(err, ErrAttention) {
			break
		}
	}
	return a, err
}

func (v *Volume) register(ctx context.Context, own Key, key takeover.Key) (bool, error) {
	in := 0
	for _, p := range v.paths {
		p.out = nil
		a, err := calm(ctx, p, Command{Op: ReadKeys})
		if err == nil {
			seen, ferr := v.decode(a.Keys, key.Epoch)
			if ferr != nil {
				return false, fmt.Errorf("%s: %w", p.Name(), ferr)
			}
			// A claim that comes late must not put its key in the place of a newer one's, on the same nexus.
			if slices.ContainsFunc(seen, func(k takeover.Key) bool { return k.Epoch > key.Epoch }) {
				return false, nil
			}
			_, err = calm(ctx, p, Command{Op: RegisterIgnore, New: own, APTPL: true})
		}
		switch {
		case err == nil:
			in++
		case errors.Is(err, ErrConflict):
			return false, nil
		case pathFailed(ctx, err):
			p.out = err
		default:
			return false, err
		}
	}
	if in == 0 {
		return false, fmt.Errorf("no path is left: %w", errors.Join(v.Out()...))
	}
	return true, nil
}

func (v *Volume) reserve(ctx context.Context, own Key) (bool, error) {
	// Twice: who held it may release it between our attempt and our look.
	for range 2 {
		_, err := v.any(ctx, Command{Op: Reserve, Key: own})
		if !errors.Is(err, ErrConflict) {
			return err == nil, err
		}
		a, err := v.any(ctx, Command{Op: ReadReservation})
		switch r := a.Reservation; {
		case err != nil:
			return false, err
		case r == nil:
			continue
		case r.Type != WriteExclusiveRegistrantsOnly || !v.codec.Own(r.Key):
			return false, fmt.Errorf("%w: %s by key %s", ErrForeign, r.Type, r.Key)
		}
		// Somebody holds it as we would: that does, if the conflict was not because our key is gone.
		keys, err := v.any(ctx, Command{Op: ReadKeys})
		return slices.Contains(keys.Keys, own), err
	}
	return false, nil
}

// decode reads keys, each once, in the order they were listed.
func (v *Volume) decode(keys []Key, near uint64) ([]takeover.Key, error) {
	var out []takeover.Key
	for _, k := range keys {
		t, ok := v.codec.Decode(k, near)
		if !ok {
			return nil, fmt.Errorf("%w: key %s is registered, which is not of this cluster", ErrForeign, k)
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out, nil
}

func (v *Volume) readKeys(ctx context.Context, own Key, key takeover.Key) (bool, []takeover.Key, error) {
	var all []Key
	everywhere := true
	err := v.each(ctx, Command{Op: ReadKeys}, func(a Answer) error {
		everywhere = everywhere && slices.Contains(a.Keys, own)
		all = append(all, a.Keys...)
		return nil
	})
	if err != nil {
		return false, nil, err
	}
	keys, err := v.decode(all, key.Epoch)
	if err != nil || !everywhere || len(keys) > 1 {
		return everywhere && err == nil, keys, err
	}
	// The last look before the ledger's: that all others are gone says nothing if the reservation is, too.
	held, err := v.held(ctx, own)
	return held, keys, err
}

// held tells whether the reservation is ours, as seen through every path.
func (v *Volume) held(ctx context.Context, own Key) (bool, error) {
	held := true
	err := v.each(ctx, Command{Op: ReadReservation}, func(a Answer) error {
		r := a.Reservation
		held = held && r != nil && r.Key == own && r.Type == WriteExclusiveRegistrantsOnly
		return nil
	})
	return held && err == nil, err
}

func (v *Volume) preempt(ctx context.Context, own Key, victim takeover.Key) (bool, error) {
	k := v.codec.encode(victim)
	if k == own {
		return false, fmt.Errorf("will not preempt the own key %s", own)
	}
	_, err := v.any(ctx, Command{Op: PreemptAbort, Key: own, Victim: k})
	if errors.Is(err, ErrConflict) {
		return false, nil // the victim had gone, or we have: the keys tell
	}
	return err == nil, err
}

func (v *Volume) audit(ctx context.Context, own Key, key takeover.Key) (bool, error) {
	there := true
	var all []Key
	err := v.each(ctx, Command{Op: ReadKeys}, func(a Answer) error {
		there = there && slices.Contains(a.Keys, own)
		all = append(all, a.Keys...)
		return nil
	})
	if err != nil || !there {
		return false, err
	}
	if held, err := v.held(ctx, own); err != nil || !held {
		return false, err
	}
	// Last, as it is no reason to stop: a stranger is an alarm, and may write; our own loss is the end.
	if _, err := v.decode(all, key.Epoch); err != nil {
		return false, err
	}
	return true, nil
}

func (v *Volume) giveUp(ctx context.Context, own Key) (bool, error) {
	var r *Reservation
	var errs []error
	looked := false
	for _, p := range v.paths { // also those that are out: they may be registered
		a, err := calm(ctx, p, Command{Op: ReadReservation})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r, looked = a.Reservation, true
		break
	}
	if !looked {
		return false, errors.Join(errs...)
	}
	if r != nil && r.Key == own {
		return true, nil // parked
	}
	errs = nil
	for _, p := range v.paths {
		// With APTPL, though it goes: the bit of the last REGISTER counts for everybody's registrations.
		_, err := calm(ctx, p, Command{Op: Register, Key: own, APTPL: true})
		switch {
		case err == nil || errors.Is(err, ErrConflict): // a conflict: this nexus is not registered, or not with this key
		case p.out != nil && pathFailed(ctx, err): // it stays listed, until the next owner preempts it
		default:
			errs = append(errs, err)
		}
	}
	return len(errs) == 0, errors.Join(errs...)
}

// Join takes in a path that came back, for the owner of key: it is registered if the owner is still owner as seen by the
// other paths, or by this one if there is no other, and by this one after. ok false says that it is owner no more, or that
// it could not be told; then this path is not used.
func (v *Volume) Join(ctx context.Context, n Nexus, key takeover.Key) (ok bool, err error) {
	own, err := v.codec.Encode(key)
	if err != nil {
		return false, err
	}
	p := &path{Nexus: n, out: fmt.Errorf("%s: it is just coming back", n.Name())}
	if i := slices.IndexFunc(v.paths, func(p *path) bool { return p.Name() == n.Name() }); i >= 0 {
		v.paths[i] = p
	} else {
		v.paths = append(v.paths, p)
	}
	if len(v.Registered()) == 0 { // all were away: this one is asked
		p.out = nil
	}
	if ok, err := v.audit(ctx, own, key); err != nil || !ok {
		p.out = errors.Join(fmt.Errorf("%s: not the owner any more, or it cannot be told", n.Name()), err)
		return false, err
	}
	if _, p.out = calm(ctx, n, Command{Op: RegisterIgnore, New: own, APTPL: true}); p.out != nil {
		return false, p.out
	}
	// If all other paths were preempted meanwhile, the key is listed for this one alone. The reservation tells.
	ok, err = v.audit(ctx, own, key)
	if ok {
		return true, nil
	}
	p.out = fmt.Errorf("%s: not the owner any more", n.Name())
	_, uerr := calm(ctx, n, Command{Op: Register, Key: own, APTPL: true})
	if errors.Is(uerr, ErrConflict) {
		uerr = nil
	}
	return false, errors.Join(err, uerr)
}
