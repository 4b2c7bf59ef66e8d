package node

import (
	"fmt"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/watchdog"
)

const (
	// bindEvery is how often PID 1 is told a later time.
	bindEvery = time.Second
	// bindFresh is how new an acknowledgement must be to bind a machine that is not bound: it must not be the
	// binding that ends it.
	bindFresh = 2 * time.Second
)

// binding of this machine's watchdog to its membership (proof L3). The order of its steps is what makes it a
// proof:
//
//	bind:   PID 1 is told; PID 1 has answered; the ledger is written
//	unbind: the ledger is written, and has it for certain; PID 1 is told
//
// So whenever the ledger says that this boot is bound, PID 1 is. Both writes are conditional on the node's
// record: after a loss is committed, neither can be. And a write of a binding that is still under way (of an
// earlier agent, too) when the unbinding is written comes too late, or makes that fail.
//
// The binding is about the whole boot, so it does not matter whether it comes before or after the first instance
// that needs it: what counts is whether it is in the record in which the loss is committed. No start waits for it.
type binding struct {
	bound   bool          // PID 1 has said so, after the last Unbind
	told    time.Duration // the latest time that PID 1 was told
	undone  time.Duration // the value of told at the last Unbind: answers about that or earlier mean nothing
	tellAt  time.Duration
	writeAt time.Duration
}

// Bound takes PID 1's word that the machine will be off at until unless it is told a later time.
func (b *Brain) Bound(until time.Duration) {
	if b.ended != "" || until <= b.dog.undone {
		return
	}
	b.dog.bound = true
	b.think()
}

// ownsPower tells whether this boot owns an instance whose takeover needs the end of the machine: neither lease
// nor reservation confines what it does.
func (b *Brain) ownsPower() bool {
	for _, a := range b.order {
		if !a.in.Spec.Safety.LeaseGuards() && !a.want.State.Ended() {
			return true
		}
	}
	return false
}

// bind keeps the watchdog bound while it has to be, and the ledger's record of it true.
func (b *Brain) bind(now time.Duration) {
	me := b.state.Node(b.self.Name)
	if b.cfg.Watchdog == nil || me == nil || me.BootID != b.self.BootID {
		return
	}
	w := *b.cfg.Watchdog
	want := b.state.Watchdog(b.self.Name).Binds(&w) && b.ownsPower()
	recorded := me.Watchdog != nil && me.Watchdog.Bound > 0
	lease := watchdog.Lease(w.Timeout)
	// Until it is unbound for certain, it is kept alive: a machine must not end because nobody wants its end.
	if acked := b.view.Acked; acked > 0 && now >= b.dog.tellAt && (b.dog.bound || recorded || want && now-acked <= bindFresh) && acked+lease > b.dog.told {
		b.dog.tellAt, b.dog.told = now+bindEvery, acked+lease
		b.world.Bind(b.dog.told)
	}
	if now < b.dog.writeAt {
		return
	}
	next := w
	e := cluster.Event{Kind: cluster.EventFence, Subject: b.self.Name}
	switch {
	case want && b.dog.bound && !recorded:
		next.Bound = lease
		e.Text = fmt.Sprintf("the watchdog of %s is bound: it resets the machine when no majority has heard it for %v, and that is proof (L3)", b.self.Name, lease)
		e.Why = "'skein fence watchdog' is on, and it runs what only the end of its machine can free"
		b.writeWatchdog(now, me, next, e, nil)
	case !want && (b.dog.bound || recorded):
		e.Text = fmt.Sprintf("the watchdog of %s is not bound any more: its end is proven by other means only", b.self.Name)
		e.Why = "nothing that runs there needs it"
		if !b.state.Watchdog(b.self.Name).Binds(&w) {
			e.Why = "'skein fence watchdog' is off for it"
		}
		if !recorded {
			e.Text = "" // it never was, as far as anybody knows
		}
		b.writeWatchdog(now, me, next, e, func() {
			b.dog.bound, b.dog.undone = false, b.dog.told
			b.world.Unbind()
		})
	case me.Watchdog == nil || me.Watchdog.Identity != w.Identity || me.Watchdog.Timeout != w.Timeout || me.Watchdog.Software != w.Software:
		if recorded {
			next.Bound = me.Watchdog.Bound
		}
		b.writeWatchdog(now, me, next, cluster.Event{}, nil)
	}
}

func (b *Brain) writeWatchdog(now time.Duration, me *cluster.Node, w cluster.Watchdog, e cluster.Event, done func()) {
	b.dog.writeAt = now + 2*stuck
	next := *me
	next.Watchdog = &w
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: me.Key(), Revision: me.Revision}}, Puts: []cluster.Put{{Key: me.Key(), Value: next}}}
	if e.Text != "" {
		t.Events = []cluster.Event{e}
	}
	b.commit(t, func(ok bool, err error) {
		b.dog.writeAt = b.world.Now() + retry // by then the ledger has shown it
		if ok && err == nil && done != nil {
			done()
		}
	})
}

// noteReset keeps proof L3 of a peer.
func (b *Brain) noteReset(p *member.PeerView) {
	n := b.state.Node(p.Name)
	if n == nil || n.BootID != p.BootID || n.State != cluster.NodeLost {
		return
	}
	if after := n.ResetAfter(); after > 0 && p.UnackedFor > after {
		b.reset[plan.Incarnation{Node: p.Name, BootID: p.BootID}] = true
	}
}
