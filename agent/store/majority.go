package store

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Defaults of the recovery of a ledger that has lost its majority.
const (
	// DefaultRestoreAfter is how long there must have been no leader. Elections take less; being early would
	// not be unsafe, only rude.
	DefaultRestoreAfter = 3 * time.Second
	// freshFor is how old the last request of a machine that restarted may be. It asks about once a second,
	// slower if other members keep it waiting.
	freshFor = 30 * time.Second
)

// evidence: a machine proved the join token to this member, on a live connection, in this boot.
type evidence struct {
	machineID string
	bootID    string
	// pledged: it is no voter and promised to become one only in the ledger of this very boot of this node.
	pledged bool
	age     time.Duration // since it last asked
	first   time.Duration // since it first asked in this boot
	seen    int64         // the newest revision that this boot has acted on
}

// stranded is all that the decision to restore depends on.
type stranded struct {
	self    cluster.Node // name and boot
	without time.Duration
	after   time.Duration
	members []copyHolder // all etcd members that this member knows
	voter   bool         // this node's member is among them and votes
	nodes   []cluster.Node
	asked   map[string]evidence // by node
	// revision of the own copy, if nothing in the log is left to be applied; 0: there may be more.
	revision int64
}

// copyHolder is an etcd member: who may have a copy of the ledger.
type copyHolder struct {
	name    string // "" for one that has not started
	learner bool
}

// verdict on a ledger without a leader. With neither, it is too early to tell.
type verdict struct {
	restore bool
	waits   []string // what for, in clauses: "n2 has not been seen to restart: ..."
}

// judge decides whether this member may go on alone (see the package comment for why that is safe). It says
// everything that is missing, not only the first.
func judge(x stranded) verdict {
	if x.without < x.after {
		return verdict{}
	}
	var v verdict
	wait := func(format string, a ...any) { v.waits = append(v.waits, fmt.Sprintf(format, a...)) }
	if !x.voter {
		wait("the others have removed this node's member")
	}
	known := map[string]bool{}
	ended := x.ended()
	for i := range x.nodes {
		n := &x.nodes[i]
		known[n.Name] = true
		if n.Name == x.self.Name {
			if n.BootID != x.self.BootID || n.State == cluster.NodeLost {
				wait("this boot of %s is not a member any more", n.Name)
			}
			continue
		}
		e, asked := x.asked[n.Name]
		switch {
		case !asked:
			wait("%s has not been seen to restart: power it on, or restart it if it runs", n.Name)
		case e.machineID != n.MachineID:
			wait("the machine that calls itself %s is another one, so nobody knows whether %s has stopped: power on the right one", n.Name, n.Name)
		case !e.pledged:
			wait("%s has not yet promised to follow %s", n.Name, x.self.Name)
		case e.age > freshFor:
			wait("%s has not asked again for %s: is it still on?", n.Name, e.age.Round(time.Second))
		case e.bootID == n.BootID && e.age > ended:
			wait("%s has not asked again since the others restarted: it may have heard from them until then", n.Name)
		case x.revision > 0 && e.seen > x.revision:
			wait("%s has acted on revision %d of the ledger, of which this copy has no more than %d: restart it", n.Name, e.seen, x.revision)
		}
	}
	if !known[x.self.Name] {
		wait("this node has no record in the ledger")
	}
	for _, m := range x.members {
		node, boot, named := splitMemberName(m.name)
		switch {
		case !named && m.learner: // it has no log, and its node has a record: it was asked for above
		case !named:
			wait("a voter without a name may have a copy of the ledger")
		case node == x.self.Name:
		case !known[node]:
			wait("%s has a copy of the ledger and no record in it: restart it", node)
		case !m.learner && strings.HasPrefix(x.asked[node].bootID, boot):
			wait("%s votes in the boot in which it asks: restart it", node)
		}
	}
	v.restore = len(v.waits) == 0
	return v
}

// ended is for how long all boots that may have voted and restarted are known to be over.
func (x *stranded) ended() time.Duration {
	d := time.Duration(math.MaxInt64)
	for i := range x.nodes {
		if e, ok := x.asked[x.nodes[i].Name]; ok && e.bootID != x.nodes[i].BootID {
			d = min(d, e.first)
		}
	}
	return d
}
