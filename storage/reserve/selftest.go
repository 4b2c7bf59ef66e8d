package reserve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verdict of a self-test.
type Verdict struct {
	// FastFenced: a takeover may rely on this disk's reservations alone (proof L0).
	FastFenced bool
	// Because is why not, in plain words.
	Because string
	// Paths that played, and how many commands it took.
	Paths    []string
	Commands int
	// Preempt is how long the disk takes to take a key away together with what is under way, and ReadKeys to name the
	// keys: medians of what was sent from this machine, 0 if nothing was.
	Preempt, ReadKeys time.Duration
}

func (v Verdict) String() string {
	if v.FastFenced {
		took := ""
		if v.Preempt > 0 {
			took = fmt.Sprintf("; a key is taken away in %s", v.Preempt.Round(100*time.Microsecond))
		}
		return fmt.Sprintf("fast-fenced: %d commands through %s went as they must%s", v.Commands, strings.Join(v.Paths, ", "), took)
	}
	return "not fast-fenced, because " + v.Because
}

// TestOptions of a self-test.
type TestOptions struct {
	// TakeAway clears whatever registrations the disk has, strangers' and running claims' alike. Without it a
	// disk that has any but an earlier self-test's is refused with ErrForeign or ErrInUse, untouched.
	TakeAway bool
}

// ErrInUse: a node of this cluster has a key on the disk.
var ErrInUse = errors.New("in use by this cluster")

// SelfTest finds out whether the disk behind these paths keeps what the takeover's argument needs, with every
// path once as the owner's and once as the other's. The disk must not be in use: for moments it is reserved, and
// its last block is written with what it holds. Afterwards nobody is registered.
//
// A verdict needs two paths: with one there is nobody to be refused. What no initiator can see is whether
// registrations really outlast the target's power; the target's word is taken (PTPL_A). An error
// is no verdict: a path failed, or the disk is somebody's.
func SelfTest(ctx context.Context, codec Codec, o TestOptions, paths ...Nexus) (v Verdict, err error) {
	for _, p := range paths {
		v.Paths = append(v.Paths, p.Name())
	}
	if len(paths) < 2 {
		v.Because = "it has one path only: a second one is needed to see it refused"
		return v, nil
	}
	if err := vacate(ctx, codec, o, paths); err != nil {
		var e *Error
		if errors.As(err, &e) && errors.Is(err, ErrUnsupported) {
			v.Because = fmt.Sprintf("it has no persistent reservations (%v)", err)
			return v, nil
		}
		return v, err
	}
	took := map[Op][]time.Duration{}
	for i := range paths {
		pair := []Nexus{paths[i], paths[(i+1)%len(paths)]}
		n, err := play(ctx, codec, pair, took)
		v.Commands += n
		var fault *Fault
		switch {
		case errors.As(err, &fault):
			v.Because = fault.Error()
			return v, tidyAfter(ctx, codec, paths)
		case err != nil:
			return v, errors.Join(err, tidyAfter(ctx, codec, paths))
		}
	}
	v.FastFenced, v.Preempt, v.ReadKeys = true, median(took[PreemptAbort]), median(took[ReadKeys])
	return v, nil
}

func median(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// away tells whether a nexus is another machine's: a command takes longer there than at the disk.
func away(n Nexus) bool {
	r, ok := n.(interface{ Away() bool })
	return ok && r.Away()
}

// vacate makes sure that nobody is registered: leftovers of an earlier self-test are cleared.
func vacate(ctx context.Context, codec Codec, o TestOptions, paths []Nexus) error {
	left := false
	for _, p := range paths {
		a, err := calm(ctx, p, Command{Op: ReadKeys})
		if err != nil {
			return err
		}
		for _, k := range a.Keys {
			left = true
			switch {
			case o.TakeAway || codec.isTest(k):
			case codec.Own(k):
				return fmt.Errorf("%s: %w: node %d has registered with key %s; stop what runs on it, then take the keys away",
					p.Name(), ErrInUse, uint8(k>>nodeShift), k)
			default:
				return fmt.Errorf("%s: %w: key %s; another cluster or program uses the disk; take the keys away only if you know whose it is",
					p.Name(), ErrForeign, k)
			}
		}
	}
	if !left {
		return nil
	}
	return tidy(ctx, codec, paths)
}

// tidyTime is how long tidying up may take after a test that failed or was given up.
const tidyTime = 30 * time.Second

// tidyAfter tidies though the test may have been cancelled: the disk must not stay reserved for that.
func tidyAfter(ctx context.Context, codec Codec, paths []Nexus) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	return tidy(ctx, codec, paths)
}

// tidy clears all registrations, whosoever they are. What counts is that none is left: a target that cannot
// save them says so each time, and does what it was told.
func tidy(ctx context.Context, codec Codec, paths []Nexus) error {
	var errs []error
	for _, p := range paths {
		k := codec.Test(0)
		for _, c := range []Command{{Op: RegisterIgnore, New: k}, {Op: Clear, Key: k}} { // without APTPL: some refuse it
			if _, err := calm(ctx, p, c); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, p := range paths {
		a, err := calm(ctx, p, Command{Op: ReadKeys})
		switch {
		case err != nil:
			return errors.Join(fmt.Errorf("keys may be left after the self-test; look with 'read keys' and clear them: %w", err), errors.Join(errs...))
		case len(a.Keys) > 0:
			return errors.Join(fmt.Errorf("%s: keys %v are left after the self-test; clear them at the target", p.Name(), a.Keys), errors.Join(errs...))
		}
	}
	return nil
}

// play runs the plan on one pair and returns how many commands it took.
func play(ctx context.Context, codec Codec, pair []Nexus, took map[Op][]time.Duration) (int, error) {
	n := 1
	capacity, err := calm(ctx, pair[0], Command{Op: ReadCapacity})
	if err != nil {
		return n, err
	}
	var block []byte
	for _, s := range Plan(codec.Test(1), codec.Test(2), capacity.Capacity) {
		c := s.Command
		if c.Op == WriteBlock {
			c.Data = slices.Clone(block)
		}
		p := pair[s.Nexus]
		for tries := 1; ; tries++ {
			n++
			begin := time.Now()
			a, err := p.Exec(ctx, c)
			if err == nil && !away(p) {
				took[c.Op] = append(took[c.Op], time.Since(begin))
			}
			if c.Op == ReadBlock && err == nil && block == nil {
				block = a.Data
			}
			err = s.check(a, err)
			if err == errAgain && tries <= attentions {
				continue
			}
			if err == errAgain {
				err = &Fault{Step: s, Seen: "nothing but unit attentions"}
			}
			var fault *Fault
			if errors.As(err, &fault) {
				fault.Path = p.Name()
			}
			if err != nil {
				return n, err
			}
			break
		}
	}
	return n, nil
}
