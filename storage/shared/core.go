package shared

import (
	"fmt"
	"slices"
	"strings"
)

// State is where a node is with a shared file system.
type State string

// The states of a node.
const (
	Out     State = "out"     // no lock manager of it runs here
	Joining State = "joining" // the lock manager waits to be let in
	In      State = "in"
	Leaving State = "leaving" // the lock manager has let go of everything and waits to be let out
	Broken  State = "broken"  // of no use until the node has been reset
)

// ActionKind is what is to be done.
type ActionKind string

// The kinds of actions.
const (
	Stop    ActionKind = "stop"    // stop the lock manager, cut failed ones off, get to know new ones
	Start   ActionKind = "start"   // go on with the members; if Admit, let the waiting mount go on
	Release ActionKind = "release" // let the waiting unmount go on; the lock manager ends
)

// Action is one thing to do. Core gives the next one when it has the result of this one.
type Action struct {
	Kind ActionKind
	// Membership is what it is for.
	Membership Membership
	// Failed and Gone are those with whom this node's lock manager still is as it was started last and who are
	// members no more, or not in the same stay: Failed without having left their journals clean, Gone in order.
	Failed, Gone []Member
	// Admit is set when the node itself is let in by this.
	Admit bool
}

func (a Action) String() string { return fmt.Sprintf("%s %s", a.Kind, a.Membership) }

// Core takes one node through the changes of one file system's membership. It only decides; Next is the action to do
// now and Report what the node has to say.
type Core struct {
	self    Member
	state   State
	seen    bool       // has been a member since it joined
	cur     Membership // as the ledger has it
	running []Member   // with whom the lock manager was started last, without those who are gone since
	failed  []Member   // of those it was started with: not to be trusted with a clean journal
	gone    []Member   // of those it was started with: left in order
	reports []Report   // of the others, the last of each run
	stopped uint64
	started uint64
	again   uint64
	resumed bool // waits for the ledger's word after a restart of the agent
	broken  string
	busy    *Action
}

// NewCore begins on a node where the file system is not in use.
func NewCore(self Member) *Core { return &Core{self: self, state: Out} }

// Saved is what a restarted agent has to know of the lock manager that went on without it.
type Saved struct {
	State   State    `json:"state"`
	Seen    bool     `json:"seen,omitempty"`
	Running []Member `json:"running,omitempty"`
	Failed  []Member `json:"failed,omitempty"`
	Gone    []Member `json:"gone,omitempty"`
	Stopped uint64   `json:"stopped,omitempty"`
	Started uint64   `json:"started,omitempty"`
	Broken  string   `json:"broken,omitempty"`
	// Starting: a start that takes out and puts in members is under way.
	Starting bool `json:"starting,omitempty"`
}

// Save is what is to be kept, in this run of the kernel, before an action is done and after each event.
func (c *Core) Save() Saved {
	return Saved{
		State: c.state, Seen: c.seen, Running: slices.Clone(c.running), Failed: slices.Clone(c.failed), Gone: slices.Clone(c.gone),
		Stopped: c.stopped, Started: c.started, Broken: c.broken,
		Starting: c.busy != nil && c.busy.Kind == Start && len(c.busy.Failed)+len(c.busy.Gone) > 0,
	}
}

// Resume begins where an agent ended. The kernel stops a lock manager when the process that watched over it ends, and
// may have done half an action, so the node asks for another generation and goes through both phases of that.
//
// One moment cannot be mended: a member that went and is back is taken out and put in again by a start, and if that
// happened twice, the lock manager would forget locks that the other one holds. An agent that ended in there, some
// milliseconds, leaves the node Broken.
func Resume(self Member, s Saved) *Core {
	c := &Core{
		self: self, state: s.State, seen: s.Seen, running: s.Running, failed: s.Failed, gone: s.Gone,
		stopped: s.Stopped, started: s.Started, broken: s.Broken,
	}
	if s.Starting {
		c.Fail("the agent ended while it started the lock manager anew")
	}
	c.resumed = c.state != Out && c.state != Broken
	return c
}

// Committed tells the membership that the ledger has.
func (c *Core) Committed(m Membership) {
	if m.Generation < c.cur.Generation {
		return // seen late
	}
	c.cur = m
	if c.resumed {
		c.resumed = false
		if m.Has(c.self) {
			c.again = max(m.Generation, c.stopped, c.started)
		}
	}
	member := m.Has(c.self)
	switch {
	case c.state == Out || c.state == Broken:
	case m.Generation < c.started:
		c.Fail(fmt.Sprintf("the ledger has generation %d, and this node runs in generation %d", m.Generation, c.started))
	case member:
		c.seen = true
	case c.seen && c.state != Leaving:
		c.Fail("the other nodes hold this one for failed")
	}
}

// Reported tells what another node says of itself.
func (c *Core) Reported(r Report) {
	c.reports = slices.DeleteFunc(c.reports, func(o Report) bool { return o.Member.ID == r.Member.ID })
	c.reports = append(c.reports, r)
}

// Joined tells that the lock manager waits to be let in.
func (c *Core) Joined() {
	switch {
	case c.state == Out && !c.cur.Has(c.self):
		c.state, c.seen = Joining, false
	case c.state != Joining:
		// The others would take the new lock manager for the one that they know.
		c.Fail("the lock manager came up anew while it was " + string(c.state))
	}
}

// Left tells that the file system has been unmounted in order, and that the lock manager waits to be let out.
func (c *Core) Left() {
	if c.state == In {
		c.state = Leaving
	}
}

// Fail tells that the file system gave up on this node, or ended without having been unmounted in order: its journal
// is to be replayed, so it has to be held for failed by the others, and to have been reset before it joins again.
func (c *Core) Fail(why string) {
	if c.state != Broken {
		c.state, c.broken = Broken, why
	}
}

// Done tells the result of the action that Next gave.
func (c *Core) Done(err error) {
	a := c.busy
	c.busy = nil
	if a == nil {
		return
	}
	if err != nil {
		c.Fail(fmt.Sprintf("%s in generation %d: %v", a.Kind, a.Membership.Generation, err))
		return
	}
	switch a.Kind {
	case Stop:
		c.stopped = a.Membership.Generation
	case Start:
		c.started, c.running, c.failed, c.gone = a.Membership.Generation, a.Membership.Members, nil, nil
		if a.Admit && c.state == Joining {
			c.state = In
		}
	case Release:
		if c.state == Leaving {
			c.state, c.running, c.failed, c.gone, c.stopped, c.started, c.again = Out, nil, nil, nil, 0, 0, 0
		}
	}
}

// Next is the action to do now. Until Done has been called there is no other.
func (c *Core) Next() (Action, bool) {
	if c.busy != nil || c.state == Out || c.state == Broken || c.resumed {
		return Action{}, false
	}
	member := c.cur.Has(c.self)
	if !member && c.state != Leaving {
		return Action{}, false // Joining: nobody has let it in yet
	}
	a := Action{Membership: c.cur, Admit: c.state == Joining && member}
	switch {
	case c.cur.Generation <= c.again:
		return Action{}, false // another one is needed
	case c.stopped < c.cur.Generation:
		a.Kind = Stop
		c.part()
	case len(c.missing()) > 0:
		return Action{}, false
	case !member:
		a.Kind = Release
	case c.started < c.cur.Generation:
		a.Kind = Start
	default:
		return Action{}, false
	}
	if a.Kind == Start {
		for _, m := range c.cur.Members { // even if nobody learns how the start ended
			if !slices.ContainsFunc(c.running, m.same) {
				c.running = append(c.running, m)
			}
		}
	}
	a.Failed, a.Gone = slices.Clone(c.failed), slices.Clone(c.gone)
	c.busy = &a
	return a, true
}

// part notes those this node runs with that are members no more. They may be back in the next generation, so this
// is done when this one's stop begins: nobody is let out before all have stopped without it. Who left in a
// generation that this node has not seen counts as failed: its journal is looked at once more.
func (c *Core) part() {
	c.running = slices.DeleteFunc(slices.Clone(c.running), func(m Member) bool {
		switch {
		case m.same(c.self) || c.cur.Has(m):
			return false
		case slices.ContainsFunc(c.cur.Left, m.same):
			c.gone = append(c.gone, m)
		default:
			c.failed = append(c.failed, m)
		}
		return true
	})
}

// missing are the members of the ledger's generation that have not stopped for it.
func (c *Core) missing() []Member {
	var out []Member
	for _, m := range c.cur.Members {
		if m.same(c.self) {
			continue // its own stop is done before this is asked
		}
		if r, ok := find(c.reports, m); !ok || r.Stopped != c.cur.Generation {
			out = append(out, m)
		}
	}
	return out
}

// State is where the node is.
func (c *Core) State() State { return c.state }

// Report is what the node says of itself.
func (c *Core) Report() Report {
	r := Report{Member: c.self, Stopped: c.stopped, Started: c.started, Again: c.again, Broken: c.broken}
	switch {
	case c.state == Joining && !c.cur.Has(c.self):
		r.Wants = WantJoin
	case c.state == Leaving && c.cur.Has(c.self):
		r.Wants = WantLeave
	}
	return r
}

// Waiting says in words what the node waits for, for status; empty if for nothing.
func (c *Core) Waiting() string {
	names := func(ms []Member) string {
		var s []string
		for _, m := range ms {
			s = append(s, m.Node)
		}
		return strings.Join(s, ", ")
	}
	member := c.cur.Has(c.self)
	switch {
	case c.state == Broken:
		return "a reset of this node: " + c.broken
	case c.state == Out:
		return ""
	case c.busy != nil:
		return fmt.Sprintf("the %s of the lock manager for generation %d", c.busy.Kind, c.cur.Generation)
	case c.resumed, c.state == Joining && !member, c.state == Leaving && member && c.started == c.cur.Generation:
		return fmt.Sprintf("a generation after %d", c.cur.Generation)
	case c.cur.Generation <= c.again:
		return fmt.Sprintf("a generation after %d", c.again)
	case c.started < c.cur.Generation && len(c.missing()) > 0:
		return fmt.Sprintf("%s to stop for generation %d, or proof that they have failed", names(c.missing()), c.cur.Generation)
	}
	return ""
}
