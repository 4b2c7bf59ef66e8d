package takeover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Evidence is what a node knows of one lost incarnation.
type Evidence struct {
	// LeaseExpired is package member's proof L1: the incarnation has no lease and never will again.
	LeaseExpired bool `json:"lease_expired,omitempty"`
	// Dark: it said farewell (package member), which is proof L1 too: it answers on no guarded address any more.
	Dark bool `json:"dark,omitempty"`
	// NewBoot: the node was heard, authenticated, in another boot; this one has ended.
	NewBoot bool `json:"new_boot,omitempty"`
	// PoweredOff is the boot that ended with its machine's power: read off by its controller (L2), or by an
	// operator's word (L4). It proves nothing of any other boot.
	PoweredOff string `json:"powered_off,omitempty"`
	// UnackedFor is for how long at least no majority can have acknowledged anything of it (package member),
	// in whole seconds; only of an incarnation whose watchdog is bound.
	UnackedFor time.Duration `json:"unacked_for_ns,omitempty"`
	// Reset: it has been so for long enough, at some time: its watchdog has reset it (L3). What was proven once
	// stays so.
	Reset bool `json:"reset,omitempty"`
	// Fencing is what came of fencing it so far, a clause for people.
	Fencing string `json:"fencing,omitempty"`
	// GoneFor is for how long the ledger, as far as this node has seen, has had no record of the node.
	GoneFor time.Duration `json:"gone_for_ns,omitempty"`
}

// Proof is the answer of Prove. Text is a clause for people: "its lease has expired", or what is missing.
type Proof struct {
	OK   bool
	Text string
}

// GoneGrace is how long after the removal of a node's record its lease is over for certain: the longest
// lease that package member allows, and margin. Nobody who has read the removal acknowledges it, and it
// finds itself removed; the grace covers who reads it late.
const GoneGrace = 5 * time.Second

// Prove tells whether the incarnation can do no more harm to what a service of this safety class
// affects. node is the ledger's record of the owner's node now, nil if there is none.
//
// A removed record counts as the operator's word that the node is off (L4): `node remove` of a node
// that did not hand over its work is exactly that statement.
func Prove(safety cluster.Safety, o cluster.Owner, node *cluster.Node, e Evidence) Proof {
	switch {
	case e.NewBoot:
		return Proof{true, fmt.Sprintf("%s is back in a new boot", o.Node)}
	case node != nil && node.BootID != o.BootID:
		return Proof{true, fmt.Sprintf("%s has rejoined in a new boot", o.Node)}
	case node == nil && e.GoneFor >= GoneGrace:
		return Proof{true, fmt.Sprintf("%s was removed from the cluster", o.Node)}
	case e.PoweredOff != "" && e.PoweredOff == o.BootID:
		return Proof{true, fmt.Sprintf("%s is off: %s", o.Node, e.Fencing)}
	case node.ResetAfter() > 0 && (e.Reset || e.UnackedFor > node.ResetAfter()):
		return Proof{true, fmt.Sprintf("the watchdog of %s has reset it: it is fed only while a majority hears it, and none has for %v", o.Node, node.ResetAfter().Round(time.Second))}
	case !safety.LeaseGuards() && node.ResetAfter() > 0:
		return Proof{false, fmt.Sprintf("proof is missing that %s is off: %s", o.Node, strings.Join(slices.DeleteFunc([]string{e.Fencing, resetIn(node, e)}, func(s string) bool { return s == "" }), "; "))}
	case !safety.LeaseGuards() && e.Fencing != "":
		return Proof{false, fmt.Sprintf("proof is missing that %s is off: %s; if you know that it is off: 'skein fence confirm %[1]s'", o.Node, e.Fencing)}
	case !safety.LeaseGuards(): // an unknown class gets the strict answer
		return Proof{false, fmt.Sprintf("proof is missing that %s is off: nothing else confines its effects; power it on again, or if you know that it is off: 'skein fence confirm %[1]s'", o.Node)}
	case e.Dark:
		return Proof{true, fmt.Sprintf("%s said farewell: it has closed its addresses for good", o.Node)}
	case e.LeaseExpired:
		return Proof{true, fmt.Sprintf("the lease of %s has expired", o.Node)}
	case node == nil:
		return Proof{false, fmt.Sprintf("%s was removed a moment ago, its lease may not have ended", o.Node)}
	}
	return Proof{false, fmt.Sprintf("proof is missing that the lease of %s has expired", o.Node)}
}

// resetStep is how coarse the time that is left is told: what is told is committed at each change.
const resetStep = 5 * time.Second

// resetIn is a clause about a watchdog that will give the proof.
func resetIn(node *cluster.Node, e Evidence) string {
	left := node.ResetAfter() - e.UnackedFor
	if e.UnackedFor == 0 {
		return "its watchdog will have reset it " + node.ResetAfter().Round(time.Second).String() + " after the last time a majority heard it"
	}
	return fmt.Sprintf("its watchdog will have reset it in at most %v", max(left+resetStep-1, resetStep).Truncate(resetStep))
}
