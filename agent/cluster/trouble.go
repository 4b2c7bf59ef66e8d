package cluster

import (
	"fmt"
	"slices"
	"time"
)

// When a node is put in quarantine, and for how long.
const (
	// QuarantineLosses within QuarantineWindow put a node in quarantine. Fewer punish a node for one bad cable;
	// more let a node that reboots every minute take services down with it again and again.
	QuarantineLosses = 3
	QuarantineWindow = 10 * time.Minute
	// QuarantineFirst is how long it must be calm the first time; doubled each time, up to QuarantineMost.
	QuarantineFirst = time.Minute
	QuarantineMost  = time.Hour
	// QuarantineForget is how long it must be calm after a quarantine for the next one to be a first one.
	QuarantineForget = time.Hour
)

// Trouble is what is remembered of a node that was lost, over its boots; nil: nothing. A node in quarantine is a
// member like any other, but is given no work that another node could do.
//
// Its times are counted by the coordinator on its own CLOCK_BOOTTIME and credited to the record in steps (package
// node). Wall clocks of nodes differ and jump; a count that is kept in the ledger goes on with the next
// coordinator, which knows nothing of the last one's clock. What passes while there is no coordinator, and the
// last step of one that is lost, is not counted: a quarantine then lasts longer, never shorter. Nothing in safety
// depends on it: it only chooses between nodes.
type Trouble struct {
	// Ago is how long ago it was lost, newest first, of losses within QuarantineWindow that nobody asked for.
	Ago []time.Duration `json:"lost_ago_ns,omitempty"`
	// Term is how long it must be calm before it gets work again; 0: it is not in quarantine.
	Term time.Duration `json:"term_ns,omitempty"`
	// Calm is for how long it has been a member and was heard, since its last loss or its last quarantine.
	Calm time.Duration `json:"calm_ns,omitempty"`
	// Times is how many quarantines there were without QuarantineForget between them.
	Times int `json:"times,omitempty"`
}

// Lost is the trouble of a node that was lost once more, just now.
func (t *Trouble) Lost() *Trouble {
	var next Trouble
	if t != nil {
		next = *t
	}
	next.Calm = 0
	next.Ago = slices.Insert(slices.Clone(next.Ago), 0, 0)
	next.Ago = next.Ago[:min(len(next.Ago), QuarantineLosses)]
	// Who is lost in quarantine has not been calm: one more is enough.
	if next.Term > 0 || len(next.Ago) >= QuarantineLosses {
		next.Term = QuarantineFirst
		for range next.Times {
			if next.Term = min(2*next.Term, QuarantineMost); next.Term == QuarantineMost {
				break
			}
		}
		next.Times++
	}
	return &next
}

// Pass lets time pass, for calm of which the node was calm; nil if nothing is worth remembering any more.
func (t *Trouble) Pass(d, calm time.Duration) *Trouble {
	if t == nil {
		return nil
	}
	next := *t
	next.Ago = nil
	for _, ago := range t.Ago {
		if ago += d; ago <= QuarantineWindow {
			next.Ago = append(next.Ago, ago)
		}
	}
	next.Calm += calm
	if next.Term > 0 && next.Calm >= next.Term {
		next.Term, next.Calm = 0, 0
	}
	if next.Term == 0 && len(next.Ago) == 0 && (next.Times == 0 || next.Calm >= QuarantineForget) {
		return nil
	}
	return &next
}

// Released is the trouble of a node that an operator lets out of quarantine: its losses are forgiven. If it goes
// on as before, the next quarantine is a longer one.
func (t *Trouble) Released() *Trouble {
	if t == nil || t.Times == 0 {
		return nil
	}
	return &Trouble{Times: t.Times}
}

// Quarantined tells whether the node gets no work that another could do.
func (t *Trouble) Quarantined() bool { return t != nil && t.Term > 0 }

// Left is how long it must still be calm.
func (t *Trouble) Left() time.Duration {
	if !t.Quarantined() {
		return 0
	}
	return t.Term - t.Calm
}

// Quarantine is a clause about a node in quarantine, for people: empty if it is in none.
func (n *Node) Quarantine() string {
	if !n.Trouble.Quarantined() {
		return ""
	}
	t := n.Trouble
	why := fmt.Sprintf("it was lost %d times within %v", len(t.Ago), QuarantineWindow)
	if len(t.Ago) < QuarantineLosses {
		why = "it was lost again and again"
	}
	return fmt.Sprintf("in quarantine for %v more of calm, as %s", t.Left().Round(time.Second), why)
}

// Leave is an operator's word that a boot of a node is to end: then its loss is no trouble.
type Leave struct {
	BootID string `json:"boot_id"`
	Why    string `json:"why"`
}

// Leaves is why somebody asked for the end of this boot; empty: nobody has.
func (n *Node) Leaves() string {
	if n.Leaving == nil || n.Leaving.BootID != n.BootID {
		return ""
	}
	return n.Leaving.Why
}

// Returns carries over what is remembered of a node from its last boot's record to that of a new boot. If that
// boot was never declared lost and nobody asked for its end, it was lost all the same.
func (n *Node) Returns(old *Node) {
	n.Trouble = old.Trouble
	if old.State != NodeLost && old.BootID != n.BootID && old.Leaves() == "" && !old.Witness {
		n.Trouble = old.Trouble.Lost()
	}
}
