package clusterdisk

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/skein-os/skein/agent/takeover"
)

// Action is what a machine does that may found the cluster, as far as its disks are concerned.
type Action int

// The actions.
const (
	Wait    Action = iota // for Verdict.Reasons
	Found                 // a new cluster: there is none on any disk
	Restore               // the ledger, from Verdict.Copy
	Refuse                // people must do something: Verdict.Reasons
)

func (a Action) String() string { return [...]string{"wait", "found", "restore", "refuse"}[a] }

// Voter is a node that the newest copy of the ledger names.
type Voter struct {
	Name, MachineID, BootID string
	Marked                  bool // it votes, or was chosen to
	Member                  bool // it is known to vote
	Lost                    bool // committed as lost: its vote may have been taken away
}

// Machine is one that was heard, the own one too.
type Machine struct {
	Name, MachineID, BootID string
	Fresh                   bool // it is in no cluster in this boot
}

// FoundDisk is what was found on one disk. Contents or Err is set.
type FoundDisk struct {
	Name     string // for people
	WWN      string
	Contents *Contents
	Err      error          // ErrForeign and ErrBlank are not of the kind that is looked for, and left out by the caller
	Voters   []Voter        // of Contents.Newest
	Keys     []takeover.Key // registered at the disk, of this cluster: node and generation
}

// OrderParameter on the kernel's command line, with the incarnation of the disk's header, is an Order.
const OrderParameter = "skein.restore="

// ReadOrder finds an order on a kernel's command line; nil if there is none.
func ReadOrder(cmdline string) (*Order, error) {
	for _, w := range strings.Fields(cmdline) {
		value, is := strings.CutPrefix(w, OrderParameter)
		if !is {
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("kernel parameter %s: want the incarnation of the cluster disk, as the refusal names it", w)
		}
		return &Order{Incarnation: n, By: "who booted this machine with " + w}, nil
	}
	return nil, nil
}

// Order is an operator's command. It is for one incarnation of the disk, so that it does not come true again after
// the next loss of power.
type Order struct {
	Incarnation uint64 // of the header when it was given
	By          string // who gave it
}

// Evidence is all that the decision depends on.
type Evidence struct {
	Cluster string // the name in the seed
	// Missing is what of the storage network is not there yet ("portal 10.9.0.5 is not logged in"): a disk may still
	// turn up.
	Missing  []string
	Disks    []FoundDisk // that are, or were, cluster disks
	Machines []Machine
	// Epoch is the highest in any reservation key of this cluster on any volume, 0 if none is known: the ledger gave
	// it, so a copy that ends before it is not all there was.
	Epoch uint64
	Order *Order
}

// Verdict of Decide.
type Verdict struct {
	Action  Action
	Reasons []string // in clauses, all that is missing
	Disk    int      // index in Evidence.Disks, for Restore
	Copy    *Copy
	// Lossy: an operator ordered it, and what came after the copy is lost.
	Lossy bool
}

// Decide says what a machine does that hears no cluster and could found one.
//
// A ledger is restored by itself only if nothing that was acknowledged can be missing and nobody can have it
// still. Nothing is missing: a commit is acknowledged when it is in some slot, all slots are on this disk, and the
// newest that is whole is taken, none being damaged. Nobody has it: voters keep it in memory, and so many of them are
// seen in new boots that those that may be left are no majority (gone).
func Decide(e Evidence) Verdict {
	at, v := e.pick()
	if at < 0 {
		return v
	}
	d := &e.Disks[at]
	c := d.Contents
	order := e.Order != nil && e.Order.Incarnation == c.Header.Incarnation
	v = Verdict{Disk: at, Copy: c.Newest()}
	var doubts []string
	doubt := func(format string, a ...any) { doubts = append(doubts, fmt.Sprintf(format, a...)) }
	if c.Old != nil {
		doubt("%s is an old copy of itself: %v", d.Name, c.Old)
	}
	for _, k := range d.Keys {
		if g := generation(c.Owners); k.Epoch > g {
			doubt("%s is an old copy of itself: a key of generation %d is registered, and its slots know of %d only", d.Name, k.Epoch, g)
			break
		}
	}
	for i := range c.Slots {
		if s := &c.Slots[i]; s.Damage != nil {
			doubt("%s: %v", d.Name, s.Damage)
		}
	}
	switch {
	case v.Copy == nil:
		doubt("%s has no copy of the ledger of incarnation %d", d.Name, c.Header.Incarnation)
	case uint64(v.Copy.Ledger.Revision) < e.Epoch:
		doubt("the newest copy on %s ends at revision %d, and a volume was claimed in epoch %d", d.Name, v.Copy.Ledger.Revision, e.Epoch)
	}
	var waits []string
	if v.Copy != nil {
		waits = e.gone(d.Voters)
	}
	if order {
		// The operator says that nobody has it any more, and takes what there is.
		v.Lossy = len(doubts) > 0 || len(waits) > 0
		if v.Copy = c.best(); v.Copy == nil {
			return Verdict{Action: Refuse, Disk: at, Reasons: append(doubts, "there is no snapshot either, so there is nothing to restore: overwrite the disk with zeros, and the machines form a new cluster")}
		}
		v.Action, v.Reasons = Restore, append([]string{"ordered by " + e.Order.By}, append(doubts, waits...)...)
		return v
	}
	if len(doubts) > 0 {
		v.Action = Refuse
		if b := c.best(); b != nil {
			doubts = append(doubts, fmt.Sprintf("to go on from revision %d of %s all the same, and lose what came later, boot the machines with %s%d", b.Ledger.Revision, b.Time.UTC().Format("2006-01-02 15:04:05"), OrderParameter, c.Header.Incarnation))
		}
		v.Reasons, v.Copy = doubts, nil
		return v
	}
	if len(waits) > 0 {
		v.Action, v.Reasons, v.Copy = Wait, waits, nil
		return v
	}
	v.Action = Restore
	v.Reasons = []string{fmt.Sprintf("%s has the ledger at revision %d, and a majority of its voters is here in new boots", d.Name, v.Copy.Ledger.Revision)}
	return v
}

// pick finds the disk to look at; -1 and a verdict if there is none, or not one.
func (e *Evidence) pick() (int, Verdict) {
	at := -1
	var refuse []string
	for i := range e.Disks {
		d := &e.Disks[i]
		switch {
		case d.Err != nil:
			refuse = append(refuse, fmt.Sprintf("%s: %v", d.Name, d.Err))
		case d.Contents.Header.Cluster != e.Cluster:
			// Somebody else's, by its own word. It is left alone.
		case d.WWN != d.Contents.Header.WWN:
			refuse = append(refuse, fmt.Sprintf("%s is disk %s, and a copy of %s: show the nodes the original only", d.Name, d.WWN, d.Contents.Header.WWN))
		case at >= 0:
			o := &e.Disks[at]
			refuse = append(refuse, fmt.Sprintf("%s (of %.8s) and %s (of %.8s) are both cluster disks of %s: take one of them away",
				o.Name, o.Contents.Header.ClusterID, d.Name, d.Contents.Header.ClusterID, e.Cluster))
		default:
			at = i
		}
	}
	switch {
	case len(refuse) > 0:
		return -1, Verdict{Action: Refuse, Reasons: refuse}
	case at >= 0:
		return at, Verdict{}
	case len(e.Missing) > 0:
		return -1, Verdict{Action: Wait, Reasons: append([]string{"the cluster may be on a disk that is not there yet"}, e.Missing...)}
	default:
		return -1, Verdict{Action: Found, Reasons: []string{"there is no cluster disk of " + e.Cluster}}
	}
}

func generation(owners []*Owner) uint64 {
	g := uint64(0)
	for _, o := range owners {
		if o != nil {
			g = max(g, o.Generation)
		}
	}
	return g
}

// best is the newest of all copies that are whole, slots and snapshots.
func (c *Contents) best() *Copy {
	var best *Copy
	for _, list := range [][]Copy{c.Slots, c.Snapshots} {
		for i := range list {
			if p := &list[i]; p.Damage == nil && (best == nil || newer(*p, *best) > 0) {
				best = p
			}
		}
	}
	return best
}

// gone tells what is missing until no majority of the voters can have the ledger in memory. Who votes in truth is
// among the nodes that are marked, or known to vote; and all that are known to vote, and are not lost, do. At worst the
// voters are those and all others that may be left in their boots. With more of the former seen in new boots than
// there may be of the latter, these are no majority; and one more: a change of voters that the copy has not heard of
// does not matter, neither one too many nor one too few.
func (e *Evidence) gone(voters []Voter) []string {
	sure, left := 0, 0
	var missing []string
	for _, v := range voters {
		if !v.Marked && !v.Member {
			continue
		}
		ended, why := e.ended(v)
		switch {
		case !ended:
			left++
			missing = append(missing, why)
		case v.Member && !v.Lost:
			sure++
		}
	}
	if sure > left {
		return nil
	}
	if sure+left == 0 {
		return []string{"the copy of the ledger names no voter"}
	}
	return append([]string{fmt.Sprintf("%d voters are here in a new boot, and %d may still have the ledger: the former must be more", sure, left)}, missing...)
}

// ended tells whether the boot in which a node voted is known to be over, and what is missing if not.
func (e *Evidence) ended(v Voter) (bool, string) {
	impostor := false
	for _, m := range e.Machines {
		switch {
		case m.MachineID == v.MachineID && m.BootID != v.BootID && m.Fresh:
			return true, ""
		case m.MachineID == v.MachineID && m.BootID == v.BootID:
			return false, fmt.Sprintf("%s is in the boot in which it voted, so it may have the ledger: restart it", v.Name)
		case m.MachineID == v.MachineID:
			return false, fmt.Sprintf("%s is in a cluster", v.Name)
		case m.Name == v.Name:
			impostor = true
		}
	}
	if impostor {
		return false, fmt.Sprintf("the machine that calls itself %s is another one: power on the right one", v.Name)
	}
	return false, fmt.Sprintf("%s has not been heard: power it on", v.Name)
}

func (v Verdict) String() string { return v.Action.String() + ": " + strings.Join(v.Reasons, "; ") }
