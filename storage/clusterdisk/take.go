package clusterdisk

import "github.com/skein-os/skein/agent/takeover"

// TakeOp is what taking the disk needs done next.
type TakeOp string

const (
	TakeRegister TakeOp = "register"          // the own key, on every path, and reserve if nothing is reserved
	TakeKeys     TakeOp = "read keys"         // of everybody
	TakePreempt  TakeOp = "preempt and abort" // Take.Victim
	TakeRead     TakeOp = "read"              // header and slots, after a flush: only now does nobody else write
	TakeCopy     TakeOp = "copy"              // what goes on to the own slot
	TakeHeader   TakeOp = "header"            // the next incarnation, this node alone
	TakeDone     TakeOp = "alone"             // commits may be acknowledged, each when it is in the own slot
	TakeLost     TakeOp = "stand down"        // forget everything. Again from the beginning only, and in another boot
)

// Take is the way of one node to be the only one at the disk, in the order that the model has shown to be
// needed (docs/design/two-nodes.md, rule 2; package model runs this very type). It is pure: Next tells what to do, Done
// takes the outcome. An operation without an answer is no outcome: do it again.
//
// Why at most one gets through: each registers before it reads the keys, so of two that try at once one sees the
// other's key; who is preempted has its writes refused from then on, and cannot preempt. What it had under way was
// aborted before the preemption was answered, so what is read then is what will stay.
type Take struct {
	own    takeover.Key
	next   TakeOp
	victim takeover.Key
}

// NewTake begins. The key's epoch is the generation of the claim that is about to be made.
func NewTake(own takeover.Key) Take { return Take{own: own, next: TakeRegister} }

// ResumeTake begins for a node that is registered in this boot already, as one of two that fell silent to each other.
// It never registers: a key that is not there any more was preempted, and the other one has the disk.
func ResumeTake(own takeover.Key) Take { return Take{own: own, next: TakeKeys} }

// Next is the operation that is due, and its victim if it is TakePreempt.
func (t *Take) Next() (TakeOp, takeover.Key) { return t.next, t.victim }

// Done takes the outcome of what was due. ok is false if the disk refused it, keys is the answer to TakeKeys. A victim
// that had gone is a refusal too: the keys tell.
func (t *Take) Done(ok bool, keys []takeover.Key) {
	switch t.next {
	case TakeRegister:
		t.then(ok, TakeKeys)
	case TakePreempt:
		t.victim, t.next = takeover.Key{}, TakeKeys
	case TakeKeys:
		t.look(ok, keys)
	case TakeRead:
		t.then(ok, TakeCopy)
	case TakeCopy:
		t.then(ok, TakeHeader)
	case TakeHeader:
		t.then(ok, TakeDone)
	case TakeDone:
		t.then(ok, TakeDone)
	}
}

func (t *Take) then(ok bool, next TakeOp) {
	if t.next = TakeLost; ok {
		t.next = next
	}
}

// look: all others must go, older or newer, one by one and by name. Unlike a volume this disk has no rightful
// owner that the ledger would know: whoever comes through is it.
func (t *Take) look(ok bool, keys []takeover.Key) {
	mine := false
	t.next = TakeRead
	for _, k := range keys {
		if k == t.own {
			mine = true
		} else {
			t.next, t.victim = TakePreempt, k
		}
	}
	if !ok || !mine {
		t.next, t.victim = TakeLost, takeover.Key{}
	}
}
