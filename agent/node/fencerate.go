package node

import (
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// fenceRate is the coordinator's count of orders to switch machines off: what the ledger had when it began, and its own.
type fenceRate struct {
	begun   bool
	rate    cluster.FenceRate
	at      time.Duration // when rate was as it says
	writeAt time.Duration
	dirty   bool // the ledger does not know the newest order
}

// now brings the count up to date.
func (r *fenceRate) now(now time.Duration) *cluster.FenceRate {
	r.rate, r.at = r.rate.Pass(now-r.at), now
	return &r.rate
}

// noteFences keeps the count of the ledger: at each order, and in steps of the time that passes.
func (b *Brain) noteFences(now time.Duration) {
	r := &b.coord.rate
	if !r.begun {
		r.begun, r.rate, r.at, r.writeAt = true, b.state.FenceRate, now, now+creditTime
		return
	}
	before := len(r.rate.Ago)
	rate := r.now(now)
	if now < r.writeAt || before == 0 && !r.dirty {
		return
	}
	next := *rate
	next.Ago = slices.Clone(rate.Ago)
	r.writeAt = now + stuck
	b.commit(cluster.Txn{
		Conditions: []cluster.Condition{{Key: cluster.KeyFenceRate, Revision: b.state.FenceRate.Revision}},
		Puts:       []cluster.Put{{Key: cluster.KeyFenceRate, Value: next}},
	}, func(ok bool, err error) {
		r.writeAt = b.world.Now() + retry
		if ok {
			r.dirty = r.dirty && len(r.rate.Ago) != len(next.Ago)
			r.writeAt = b.world.Now() + creditTime
			if r.dirty {
				r.writeAt = b.world.Now() + retry
			}
		}
	})
}

// orderedOff notes that a machine is ordered off.
func (b *Brain) orderedOff(now time.Duration) {
	r := &b.coord.rate
	r.rate = r.now(now).Note()
	r.dirty, r.writeAt = true, min(r.writeAt, now)
}

// holdFence is why the machine may not be ordered off now; empty: it may.
func (b *Brain) holdFence(now time.Duration, f *fencing) string {
	if f.counted {
		return ""
	}
	return b.coord.rate.now(now).Hold(len(b.state.Nodes))
}
