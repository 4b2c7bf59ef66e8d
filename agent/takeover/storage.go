package takeover

// Key is a reservation key: who holds it and since which epoch. It is used in one epoch only, so that a
// late preemption cannot hit a newer life.
type Key struct {
	Node  uint8
	Epoch uint64
}

// StorageOp is what the taking over of a reserved volume needs done next. Each is one command to the
// target, but VerifyClaim, which is a write to the ledger conditional on the claim.
type StorageOp string

const (
	RegisterKey   StorageOp = "register"
	ReserveVolume StorageOp = "reserve" // write exclusive, registrants only; if there is none
	ReadKeys      StorageOp = "read keys"
	PreemptAbort  StorageOp = "preempt and abort"
	VerifyClaim   StorageOp = "verify"
	MayWrite      StorageOp = "may write" // replay the journal, mount, start
	GiveUp        StorageOp = "give up"   // kill what runs; the key that holds the reservation stays. Never again in this epoch
)

// Storage is the taking over of one volume in one epoch, from the committed claim to the first write. It
// is pure: Next tells what to do, Done takes the outcome. A command without an answer is no outcome: do
// it again.
//
// Why no two write: each registers before it reads the keys, so of two claims at least one sees the
// other's key; the higher epoch preempts, the lower one gives up. The verify write covers a target that
// has forgotten keys between: who was paused since before then finds nobody, and is refused by the ledger.
//
// Why a key stays when its owner gives up: a reservation ends with its holder, or with the last registrant where
// all hold it. If B has preempted A, is refused by the ledger and takes its key away, A, who knows nothing yet, can
// write again, unseen by the next owner, who finds no key to preempt; what A has queued is executed after the next
// owner's writes. A key that is left is lower than the next owner's, who preempts it. Package model found this, and
// proves the rest; there are also the rules that whoever carries the commands out has to keep.
type Storage struct {
	key    Key
	next   StorageOp
	victim Key
}

// NewStorage begins with a claim that is committed, in the epoch of its key. Never before.
func NewStorage(k Key) Storage { return Storage{key: k, next: RegisterKey} }

// Next is the operation that is due, and its victim if it is PreemptAbort.
func (s *Storage) Next() (op StorageOp, victim Key) { return s.next, s.victim }

// Done takes the outcome of the operation that was due: ok is false if the target answered with a
// conflict, or the ledger that the claim is not the slot's any more. keys are the answer to ReadKeys.
func (s *Storage) Done(ok bool, keys []Key) {
	switch s.next {
	case GiveUp:
	case PreemptAbort:
		s.next = ReadKeys // a victim that had gone is a conflict too: the keys tell
	case RegisterKey:
		s.then(ok, ReserveVolume)
	case ReserveVolume:
		s.then(ok, ReadKeys)
	case VerifyClaim:
		s.then(ok, MayWrite)
	case MayWrite:
		s.then(ok, MayWrite)
	case ReadKeys:
		s.look(ok, keys)
	}
}

func (s *Storage) then(ok bool, next StorageOp) {
	s.next = GiveUp
	if ok {
		s.next = next
	}
}

// look decides by the keys: all others must go, one at a time and by name.
func (s *Storage) look(ok bool, keys []Key) {
	mine := false
	s.next = VerifyClaim
	for _, k := range keys {
		switch {
		case k == s.key:
			mine = true
		case k.Epoch >= s.key.Epoch:
			s.next = GiveUp
			return
		default:
			s.next, s.victim = PreemptAbort, k
		}
	}
	if !ok || !mine {
		s.next = GiveUp
	}
}

// ResumeStorage goes on for an agent that was restarted in this epoch. It never registers: a key that is not
// there any more was preempted.
func ResumeStorage(k Key) Storage { return Storage{key: k, next: ReadKeys} }

// Foreign is a key that is to be preempted, though the volume is our own: somebody registered late, or is
// no member at all.
func Foreign(mine Key, keys []Key) (Key, bool) {
	for _, k := range keys {
		if k != mine && k.Epoch < mine.Epoch {
			return k, true
		}
	}
	return Key{}, false
}

// Audit takes what a look at the keys found while the volume is written. What it has of older epochs can
// write as well: see Foreign.
func (s *Storage) Audit(keys []Key) {
	mine := false
	for _, k := range keys {
		mine = mine || k == s.key
		if k != s.key && k.Epoch >= s.key.Epoch {
			s.next = GiveUp
			return
		}
	}
	if !mine {
		s.next = GiveUp
	}
}

// Attention is to be called when the target says that it was reset or that keys were preempted (UNIT
// ATTENTION): whatever was proven is proven no more.
func (s *Storage) Attention() { s.next = GiveUp }
