package node

import (
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// mostStatuses go into one transaction.
const mostStatuses = 50

// setStatus takes a newer status of an own instance.
func (b *Brain) setStatus(a *assignment, st cluster.Status) {
	st.ID, st.Node, st.Revision, st.Settled = a.in.ID, b.self.Name, 0, a.settled
	if sameStatus(st, a.want) {
		return
	}
	a.urgent = a.urgent || st.State != a.want.State
	a.want, a.dirty = st, true
}

// statusOf is what is to be committed of an assignment, whether reported or not.
func (b *Brain) statusOf(a *assignment) cluster.Status {
	if a.want.ID == "" {
		return cluster.Status{ID: a.in.ID, Node: b.self.Name, State: cluster.InstancePending}
	}
	return a.want
}

func sameStatus(a, b cluster.Status) bool {
	same := a.Started.Equal(b.Started)
	a.Started, b.Started = time.Time{}, time.Time{}
	a.Revision, b.Revision = 0, 0
	return same && a == b
}

// reconcileStatuses finds what the ledger does not have as it should be: lost commits, and old ones that
// were applied late.
func (b *Brain) reconcileStatuses() {
	if b.statusBusy {
		return
	}
	now := b.world.Now()
	for _, a := range b.mine {
		// A copy of the ledger from before our last write is not worth another one.
		if a.want.ID == "" || a.dirty || now-a.sentAt < 5*retry {
			continue
		}
		if st := b.state.Status(a.in.ID); st == nil || !sameStatus(*st, a.want) {
			a.dirty = true
		}
	}
}

// flushStatuses commits what has changed, all in one transaction and one transaction at a time. Each is
// conditional on the claim: the status of a claim that is gone would stay for ever.
func (b *Brain) flushStatuses(now time.Duration) {
	if b.statusBusy || now < b.statusRetryAt {
		return
	}
	var list []*assignment
	urgent := false
	for _, a := range b.order {
		if a.dirty && len(list) < mostStatuses && !b.keepsBack(a) {
			list = append(list, a)
			urgent = urgent || a.urgent
		}
	}
	if len(list) == 0 || !urgent && now-b.statusAt < b.cfg.StatusDelay {
		return
	}
	var t cluster.Txn
	sent := map[*assignment]cluster.Status{}
	for _, a := range list {
		st := b.statusOf(a)
		sent[a] = st
		t.Conditions = append(t.Conditions, cluster.Condition{Key: a.in.SlotKey(), Revision: int64(a.in.Epoch)})
		t.Puts = append(t.Puts, cluster.Put{Key: st.Key(), Value: st})
		a.dirty, a.urgent, a.sentAt = false, false, now
	}
	b.statusBusy, b.statusAt = true, now
	b.commit(t, func(ok bool, err error) {
		b.statusBusy = false
		if ok && err == nil {
			return
		}
		// One of the claims is gone, or nobody knows: what is still ours is written again.
		b.statusRetryAt = b.world.Now() + retry/4
		for a := range sent {
			a.dirty = true
		}
	})
}
