package reserve

import (
	"errors"
	"fmt"
	"slices"
)

// A Step of the self-test is one command on one of two nexuses and what must come of it.
type Step struct {
	Nexus   int // 0 plays the owner, 1 the one that takes over
	Command Command
	Want    want
	// Otherwise is what a disk that fails this step does wrong, in the words of the verdict.
	Otherwise string
}

// want is what a step must come to. The zero value: executed.
type want struct {
	conflict bool
	keys     []Key        // of ReadKeys, if not nil
	holder   *Reservation // of ReadReservation; it must be this
	status   []Registrant // of ReadFullStatus: keys and holder; or the target does not have the command
	persists bool         // of ReadCapabilities
	told     bool         // a unit attention is as good: the command is sent again
}

// Plan is the self-test of one pair of nexuses. It is pure. a and b are the keys to use; capacity is the disk's.
// The disk must have no registrations; at the end it has none again. Blocks that are written hold what they held:
// the runner writes what it has read.
func Plan(a, b Key, capacity Capacity) []Step {
	held := func(k Key) *Reservation { return &Reservation{Key: k, Type: WriteExclusiveRegistrantsOnly} }
	read := Command{Op: ReadBlock, LBA: capacity.Blocks - 1, Size: capacity.BlockSize}
	write := Command{Op: WriteBlock, LBA: capacity.Blocks - 1}
	refused := want{conflict: true, told: true}
	return []Step{
		{0, Command{Op: ReadKeys}, want{keys: []Key{}, told: true}, "it does not list registrations (READ KEYS)"},
		{1, Command{Op: ReadKeys}, want{keys: []Key{}, told: true}, "it does not list registrations (READ KEYS) through every path"},
		{0, read, want{told: true}, "it cannot be read"},

		// Registering, reserving, and that all paths see the same.
		{0, Command{Op: RegisterIgnore, New: a, APTPL: true}, want{told: true},
			"it does not take registrations that outlast the target's power (APTPL)"},
		{0, Command{Op: ReadCapabilities}, want{persists: true},
			"it took a registration that should outlast the target's power (APTPL) but says that it will not (PTPL_A)"},
		{1, Command{Op: ReadKeys}, want{keys: []Key{a}, told: true}, "a registration is not seen through the other path"},
		{0, Command{Op: Reserve, Key: a}, want{}, "it does not reserve for writing by registrants only"},
		{0, Command{Op: ReadReservation}, want{holder: held(a)}, "the reservation that it took is not the one it shows"},
		{1, Command{Op: ReadReservation}, want{holder: held(a), told: true}, "a reservation is not seen through the other path"},

		// The second nexus is refused until it registers.
		{1, write, refused, "it lets a second node write that is not registered"},
		{1, Command{Op: ReadBlock, LBA: read.LBA, Size: read.Size}, want{}, "it does not let a second node read"},
		{0, write, want{}, "it does not let the owner write"},
		{1, Command{Op: PreemptAbort, Key: b, Victim: a}, refused, "it lets one who is not registered take over"},
		{1, Command{Op: RegisterIgnore, New: b, APTPL: true}, want{}, "it does not register a second node"},
		{1, Command{Op: Reserve, Key: b}, want{conflict: true}, "it gives a reservation to two"},
		{1, write, want{}, "it does not let a registered second node write"},

		// Taking over.
		{1, Command{Op: PreemptAbort, Key: b, Victim: a}, want{}, "it does not have PREEMPT AND ABORT: writes under way would land later"},
		{0, write, refused, "a node whose key was taken can still write"},
		{1, Command{Op: ReadKeys}, want{keys: []Key{b}}, "a key that was taken is still listed"},
		{0, Command{Op: ReadKeys}, want{keys: []Key{b}, told: true}, "a key that was taken is still listed through the victim's path"},
		{1, Command{Op: ReadReservation}, want{holder: held(b)}, "the reservation did not pass to the one who took over"},
		{1, Command{Op: ReadFullStatus}, want{status: []Registrant{{Key: b, Holder: true}}}, "what it tells of registrations (READ FULL STATUS) contradicts the rest"},
		{0, Command{Op: Register, Key: a, New: a, APTPL: true}, refused, "a node whose key was taken is still registered"},
		{0, Command{Op: PreemptAbort, Key: a, Victim: b}, refused, "a node whose key was taken can take over back"},
		{1, Command{Op: PreemptAbort, Key: b, Victim: a}, want{conflict: true}, "it takes the same key away twice"},
		{1, write, want{}, "it does not let the new owner write"},

		// And back to nothing.
		{1, Command{Op: Clear, Key: b}, want{}, "it does not clear registrations (CLEAR)"},
		{0, Command{Op: ReadKeys}, want{keys: []Key{}, told: true}, "registrations stay when cleared"},
		{0, write, want{told: true}, "writing is refused though nothing is reserved"},
	}
}

// errAgain asks the runner to send the step's command again.
var errAgain = errors.New("again")

// check judges a step by what came of its command: nil, errAgain, a failure of the disk as *Fault, or an
// error that says nothing about the disk, such as a broken path.
func (s Step) check(a Answer, err error) error {
	fault := func(format string, args ...any) error {
		return &Fault{Step: s, Seen: fmt.Sprintf(format, args...)}
	}
	switch {
	case errors.Is(err, ErrAttention) && s.Want.told:
		return errAgain
	case errors.Is(err, ErrTransport) || errors.Is(err, ErrNoAnswer):
		return err
	case s.Want.status != nil && errors.Is(err, ErrUnsupported):
		return nil // it only serves people
	case s.Want.conflict && errors.Is(err, ErrConflict):
		return nil
	case s.Want.conflict && err == nil:
		return fault("the command was executed")
	case err != nil:
		return fault("%v", err)
	case s.Want.keys != nil && !slices.Equal(a.Keys, s.Want.keys):
		return fault("listed are %v, want %v", a.Keys, s.Want.keys)
	case s.Want.holder != nil && (a.Reservation == nil || *a.Reservation != *s.Want.holder):
		return fault("%s", reservationText(a.Reservation))
	case s.Want.persists && !a.Capabilities.Persists:
		return fault("can persist: %v, does persist: no", a.Capabilities.CanPersist)
	case s.Want.status != nil && !slices.EqualFunc(a.Registrants, s.Want.status, func(x, y Registrant) bool {
		return x.Key == y.Key && x.Holder == y.Holder
	}):
		return fault("%+v", a.Registrants)
	}
	return nil
}

func reservationText(r *Reservation) string {
	if r == nil {
		return "nothing is reserved"
	}
	return fmt.Sprintf("%s by key %s", r.Type, r.Key)
}

// Fault is a step that a disk failed.
type Fault struct {
	Step Step
	Path string
	Seen string
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s (%s through %s: %s)", f.Step.Otherwise, f.Step.Command.Op, f.Path, f.Seen)
}
