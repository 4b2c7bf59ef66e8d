package node

import (
	"fmt"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/shared"
)

// share moves the memberships of shared file systems on, as the coordinator. What is planned is written only if the
// record is as it was, and lets nodes in only if their records are.
func (b *Brain) share(now time.Duration) {
	for i := range b.state.Shared {
		rec := &b.state.Shared[i]
		if now < b.coord.sharedAt[rec.Name] {
			continue
		}
		if rec.Removing && len(rec.Membership.Members) == 0 {
			b.forgetShared(now, rec)
			continue
		}
		m, why, ok := shared.Plan(rec.Membership, b.shareReports(rec), rec.Journals, func(m shared.Member) bool { return b.wroteItsLast(now, m) })
		if !ok {
			continue
		}
		b.coord.sharedAt[rec.Name] = now + stuck
		next := *rec
		next.Membership = m
		t := cluster.Txn{
			Conditions: []cluster.Condition{{Key: rec.Key(), Revision: rec.Revision}},
			Puts:       []cluster.Put{{Key: rec.Key(), Value: next}},
			Events: []cluster.Event{{Kind: cluster.EventStorage, Subject: rec.Name,
				Text: fmt.Sprintf("shared file system %s, %s", rec.Name, m), Why: why}},
		}
		for _, o := range m.Members {
			if n := b.state.Node(o.Node); n != nil && !rec.Membership.Has(o) {
				t.Conditions = append(t.Conditions, cluster.Condition{Key: n.Key(), Revision: n.Revision})
			}
		}
		name := rec.Name
		b.commit(t, func(bool, error) {
			b.coord.sharedAt[name] = b.world.Now() + retry // by then the ledger has shown it
		})
	}
}

// forgetShared removes a file system that nobody uses any more.
func (b *Brain) forgetShared(now time.Duration, rec *cluster.SharedRecord) {
	b.coord.sharedAt[rec.Name] = now + stuck
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: rec.Key(), Revision: rec.Revision}},
		Deletes:    []string{rec.Key()},
		Events: []cluster.Event{{Kind: cluster.EventStorage, Subject: rec.Name,
			Text: fmt.Sprintf("shared file system %s was removed; what it held is still on disk %s", rec.Name, rec.Disk), Why: "no node uses it any more"}},
	}
	for i := range b.state.Reports {
		if r := &b.state.Reports[i]; r.FileSystem == rec.Name {
			t.Deletes = append(t.Deletes, r.Key())
		}
	}
	name := rec.Name
	b.commit(t, func(bool, error) { b.coord.sharedAt[name] = b.world.Now() + retry })
}

// shareReports are the reports on a file system that count. Who asks to be let in has to be the node as the ledger
// has it, not lost, and there has to be something to mount.
func (b *Brain) shareReports(rec *cluster.SharedRecord) (out []shared.Report) {
	for i := range b.state.Reports {
		r := &b.state.Reports[i]
		if r.FileSystem != rec.Name || r.Node != r.Report.Member.Node {
			continue
		}
		if !rec.Membership.Has(r.Report.Member) {
			n := b.state.Node(r.Node)
			if !rec.Wanted() || n == nil || n.State == cluster.NodeLost || b.state.SharedMember(n) != r.Report.Member {
				continue
			}
		}
		out = append(out, r.Report)
	}
	return out
}

// wroteItsLast tells whether there is proof that a member writes to the disk no more: its machine is off, as its power
// controller reads or an operator says, or the ledger has a later boot of it. A lease that ended is no proof, nor
// is a node's record that is gone.
func (b *Brain) wroteItsLast(now time.Duration, m shared.Member) bool {
	n := b.state.Node(m.Node)
	switch {
	case n == nil || uint32(n.Number) != m.ID:
		return false
	case n.Epoch != m.Incarnation:
		return n.Epoch > m.Incarnation // a machine takes a name over only from itself, or from one that is off
	}
	return b.evidence(n.Name, n.BootID, now).PoweredOff == n.BootID
}
