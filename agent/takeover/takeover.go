package takeover

import "github.com/skein-os/skein/agent/cluster"

// Step is where the takeover of one slot stands, seen from its new owner.
type Step string

const (
	Proving   Step = "proving"   // no effects yet: proof is missing
	Verifying Step = "verifying" // proof is there; a write conditional on the claim must be committed
	Cleared   Step = "cleared"   // may have effects, while the own lease lasts
	Refused   Step = "refused"   // the slot has another owner by now: never any effects
)

// Takeover is the state of one. Its zero value is not useful: use New.
type Takeover struct {
	step  Step
	proof Proof
}

// New begins with a claim that was committed. Without a lost owner there is nothing to prove: the claim
// itself was conditional on the slot being free.
func New(i *cluster.Instance) Takeover {
	if i.After == nil {
		return Takeover{step: Cleared, proof: Proof{OK: true, Text: "nobody owned it before"}}
	}
	return Takeover{step: Proving}
}

// Resume begins for an owner whose agent was restarted, maybe: status is what the ledger has of this very
// claim. Under SafetyPower nothing but pending is reported before the takeover is
// cleared, so anything else is the word of the earlier agent that it was: what runs is not stopped to be
// proved again. A floating address behind the lease guard is proved again, since its instance runs either way.
func Resume(i *cluster.Instance, status *cluster.Status) Takeover {
	if i.After != nil && !i.Spec.Safety.LeaseGuards() && status != nil && status.Node == i.Node && status.State != cluster.InstancePending {
		return Takeover{step: Cleared, proof: Proof{OK: true, Text: "it was cleared before the agent was restarted"}}
	}
	return New(i)
}

// Step tells where it stands.
func (t *Takeover) Step() Step { return t.step }

// Proof is the last one looked at.
func (t *Takeover) Proof() Proof { return t.proof }

// Proved takes a new look at the proof. Proof, once there, stays.
func (t *Takeover) Proved(p Proof) {
	if t.step != Proving {
		return
	}
	if t.proof = p; p.OK {
		t.step = Verifying
	}
}

// Verified takes the outcome of the verify write, known for certain. An unknown outcome is not told
// here; the write is repeated.
func (t *Takeover) Verified(ok bool) {
	if t.step != Verifying {
		return
	}
	t.step = Refused
	if ok {
		t.step = Cleared
	}
}

// MayRun tells whether the instance may be started. Under SafetyLease it has no effect before its
// address is held, so it is made ready at once, under SafetyStorage when its volumes are its own too; under SafetyPower running is the effect.
func (t *Takeover) MayRun(s cluster.Safety) bool {
	return t.step == Cleared || s.LeaseGuards() && t.step != Refused
}
