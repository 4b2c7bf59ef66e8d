package node

import (
	"fmt"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

const (
	// creditTerm and creditTime are the steps in which time is credited to a node's trouble: while it is in
	// quarantine, and while its losses are only remembered. A coordinator that is lost takes one step at most with
	// it; a shorter one writes the ledger more often.
	creditTerm = 15 * time.Second
	creditTime = time.Minute
	// longestLook is the longest time between two looks at a node of which it is still known that it was calm.
	longestLook = time.Second
)

// calm is what a coordinator has seen of a node with trouble and not yet credited to the record.
type calm struct {
	boot   string
	since  time.Duration // what passed before is credited
	looked time.Duration
	well   bool          // when it was looked at
	calm   time.Duration // since since
}

// noteCalm counts for how long nodes that were lost have been calm, and writes it down now and then. Nobody
// but the coordinator does, and the ledger is told how much passed and never when: see cluster.Trouble.
func (b *Brain) noteCalm(now time.Duration) {
	for i := range b.state.Nodes {
		n := &b.state.Nodes[i]
		if n.Trouble == nil {
			delete(b.coord.calm, n.Name)
			continue
		}
		c := b.coord.calm[n.Name]
		if c == nil {
			c = &calm{boot: n.BootID, since: now, looked: now}
			b.coord.calm[n.Name] = c
		}
		well := n.State != cluster.NodeLost && n.State != cluster.NodeJoining
		if p := b.peerView(n.Name, n.BootID); n.Name != b.self.Name {
			well = well && p != nil && p.Alive
		}
		if c.boot != n.BootID {
			c.boot, c.calm, c.well = n.BootID, 0, false
		}
		if gap := now - c.looked; well && c.well && gap <= longestLook {
			c.calm += gap
		}
		c.well, c.looked = well, now
		b.credit(now, n, c)
	}
}

// credit writes what has passed, if that is a step or ends a quarantine.
func (b *Brain) credit(now time.Duration, n *cluster.Node, c *calm) {
	passed, step := now-c.since, creditTime
	if n.Trouble.Quarantined() {
		step = creditTerm
	}
	over := n.Trouble.Quarantined() && c.calm >= n.Trouble.Left()
	if passed < step && !over {
		return
	}
	next := *n
	next.Trouble = n.Trouble.Pass(passed, c.calm)
	var events []cluster.Event
	if over {
		events = []cluster.Event{{
			Text: n.Name + " is out of quarantine: it may be given work again", Why: fmt.Sprintf("it has been calm for %v", n.Trouble.Term),
		}}
	}
	if b.writeNode(now, n, next, events...) {
		b.credited(now, n.Name)
	}
}

// credited begins to count anew: all until now is on its way to the ledger. Were it refused, so much would be
// lost to the node: its quarantine would be a step longer.
func (b *Brain) credited(now time.Duration, node string) {
	if c := b.coord.calm[node]; c != nil {
		c.since, c.calm = now, 0
	}
}

// trouble adds a loss to what is remembered of a node, unless somebody asked for it, and returns what is to be
// told of that.
func (b *Brain) trouble(now time.Duration, l loss, next *cluster.Node) []cluster.Event {
	if c := b.coord.calm[next.Name]; c != nil {
		next.Trouble = next.Trouble.Pass(now-c.since, 0)
	}
	if l.wanted || next.Leaves() != "" || next.Witness {
		return nil
	}
	next.Trouble = next.Trouble.Lost()
	if !next.Trouble.Quarantined() {
		return nil
	}
	return []cluster.Event{{
		Text: fmt.Sprintf("%s is %s", next.Name, next.Quarantine()),
		Why:  fmt.Sprintf("when it is back, what other nodes can run is kept from it; it counts as calm while it is a member and heard; 'skein node release %s' ends this early", next.Name),
	}}
}
