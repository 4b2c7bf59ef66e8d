package shared

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Member is a node that uses a shared file system, in one run of its kernel.
type Member struct {
	Node        string     `json:"node"`
	ID          uint32     `json:"id"`          // the lock manager's number of the node, 1 or more, never given to another node
	Incarnation uint64     `json:"incarnation"` // rises with each boot of the node
	Address     netip.Addr `json:"address"`     // where its lock manager listens
}

func (m Member) String() string { return fmt.Sprintf("%s/%d", m.Node, m.Incarnation) }

// same is true for the same run of the same node.
func (m Member) same(o Member) bool { return m.ID == o.ID && m.Incarnation == o.Incarnation }

// Membership is who uses a file system together. The zero value is nobody, ever.
type Membership struct {
	Generation uint64   `json:"generation"`
	Members    []Member `json:"members,omitempty"` // by ID
	// Left are those of the generation before that went in order, their journals clean. Who vanished otherwise
	// has failed.
	Left []Member `json:"left,omitempty"`
}

// Has tells whether this run of the node is a member.
func (m Membership) Has(who Member) bool { return slices.ContainsFunc(m.Members, who.same) }

func (m Membership) has(id uint32) (Member, bool) {
	i := slices.IndexFunc(m.Members, func(o Member) bool { return o.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return m.Members[i], true
}

func (m Membership) String() string {
	var names []string
	for _, o := range m.Members {
		names = append(names, o.String())
	}
	return fmt.Sprintf("generation %d: %s", m.Generation, strings.Join(names, " "))
}

// MaxMembers is how many nodes may use one file system: what Red Hat tests GFS2 with.
const MaxMembers = 16

// Validate refuses a membership that a lock manager must not see.
func (m Membership) Validate() error {
	if len(m.Members) > MaxMembers {
		return fmt.Errorf("%d members; a shared file system has %d at most", len(m.Members), MaxMembers)
	}
	for i, o := range m.Members {
		switch {
		case o.ID == 0:
			return fmt.Errorf("member %q has the number 0; numbers begin at 1", o.Node)
		case !o.Address.IsValid() || o.Address.IsUnspecified():
			return fmt.Errorf("member %q has no address", o.Node)
		case i > 0 && m.Members[i-1].ID >= o.ID:
			return fmt.Errorf("member %q: numbers are not in order or given twice", o.Node)
		case slices.ContainsFunc(m.Members[:i], func(p Member) bool { return p.Address == o.Address }):
			return fmt.Errorf("member %q has the address of another one", o.Node)
		case slices.ContainsFunc(m.Left, o.same):
			return fmt.Errorf("member %q is also listed as one that left", o.Node)
		}
	}
	return nil
}

// Want is what a node asks for.
type Want string

// What a node may ask for.
const (
	WantNothing Want = ""
	WantJoin    Want = "join"  // its lock manager waits to be let in
	WantLeave   Want = "leave" // unmounted in order: its lock manager has let go of everything and waits to be let out
)

// Report is what a node says of itself. It replaces the one before.
type Report struct {
	Member Member `json:"member"`
	Wants  Want   `json:"wants,omitempty"`
	// Stopped is the last generation for which its lock manager was stopped, with the failed ones cut off.
	Stopped uint64 `json:"stopped,omitempty"`
	// Started is the last generation with which its lock manager was started.
	Started uint64 `json:"started,omitempty"`
	// Again is the last generation that does not do for this node, because its lock manager was stopped outside of
	// a change (the agent was restarted): a later one with the same members does.
	Again uint64 `json:"again,omitempty"`
	// Broken is why this node cannot use the file system until it has been reset.
	Broken string `json:"broken,omitempty"`
}

// Plan makes the membership after cur, given what nodes report and of which runs there is proof that they write no
// more. journals is how many the file system has, one for each member. It returns why, for the log, and false if
// nothing is to be changed now. It is to be committed on condition that cur still holds.
func Plan(cur Membership, reports []Report, journals int, dead func(Member) bool) (next Membership, why string, ok bool) {
	next = Membership{Generation: cur.Generation + 1}
	var reasons []string
	urgent := false // may interrupt a change that is under way
	settled := true // cur is started everywhere
	for _, m := range cur.Members {
		r, heard := find(reports, m)
		switch {
		case dead(m):
			urgent = true
			reasons = append(reasons, m.String()+" has failed")
			continue
		case heard && r.Started > cur.Generation || heard && r.Stopped > cur.Generation:
			// The ledger lost what this node has seen. Another membership in its place could be one of two.
			return cur, "", false
		case heard && r.Again >= cur.Generation && r.Again > 0:
			urgent = true
			reasons = append(reasons, m.String()+" was interrupted")
		}
		if !heard || r.Started != cur.Generation {
			settled = false
		}
		if heard && r.Wants == WantLeave && r.Broken == "" {
			reasons = append(reasons, m.String()+" leaves")
			next.Left = append(next.Left, m)
			continue
		}
		next.Members = append(next.Members, m)
	}
	if !settled {
		// Some may go from the generation before cur straight to next, and are still to hear who left in cur.
		for _, m := range cur.Left {
			if _, back := next.has(m.ID); !back {
				next.Left = append(next.Left, m)
			}
		}
	}
	for _, r := range reports {
		if slices.ContainsFunc(next.Left, r.Member.same) {
			continue // in the generation after, when everybody has seen it go
		}
		if r.Wants != WantJoin || r.Broken != "" || cur.Has(r.Member) || dead(r.Member) {
			continue
		}
		if r.Started > cur.Generation || r.Stopped > cur.Generation {
			return cur, "", false
		}
		if _, taken := next.has(r.Member.ID); taken || len(next.Members) >= min(journals, MaxMembers) {
			continue // its run before is not proven to be over, or there is no journal for it
		}
		next.Members = append(next.Members, r.Member)
		reasons = append(reasons, r.Member.String()+" joins")
	}
	slices.SortFunc(next.Members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	if len(reasons) == 0 || !settled && !urgent {
		return cur, "", false
	}
	return next, strings.Join(reasons, ", "), true
}

func find(reports []Report, m Member) (Report, bool) {
	i := slices.IndexFunc(reports, func(r Report) bool { return r.Member.same(m) })
	if i < 0 {
		return Report{}, false
	}
	return reports[i], true
}
