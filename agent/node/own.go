package node

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/takeover"
)

// evidence of one incarnation, from what is heard and what the ledger says.
func (b *Brain) evidence(node, boot string, now time.Duration) takeover.Evidence {
	inc := plan.Incarnation{Node: node, BootID: boot}
	e := takeover.Evidence{LeaseExpired: b.expired[inc], Reset: b.reset[inc]}
	living := false
	for i := range b.view.Peers {
		if p := &b.view.Peers[i]; p.Name == node && p.BootID == boot {
			e.NewBoot, e.Dark = p.NewBoot != "", p.Dark
			living = heard(p)
			if b.state.Node(node).ResetAfter() > 0 {
				e.UnackedFor = p.UnackedFor.Truncate(time.Second)
			}
		}
	}
	if f := b.state.Fence(node); f != nil && f.BootID == boot {
		// Whoever says that it is off is wrong while it is heard.
		if f.State == cluster.FenceOff && !living {
			e.PoweredOff = boot
		}
		e.Fencing = f.Text
	}
	if since, ok := b.gone[node]; ok {
		e.GoneFor = now - since
	}
	return e
}

// takeOver moves the takeovers of this node's instances on: proof, then the verify write.
func (b *Brain) takeOver(now time.Duration) {
	for _, a := range b.order {
		if a.in.After != nil && a.takeover.Step() == takeover.Proving {
			o := *a.in.After
			a.takeover.Proved(takeover.Prove(a.in.Spec.Safety, o, b.state.Node(o.Node), b.evidence(o.Node, o.BootID, now)))
			if !a.takeover.MayRun(a.in.Spec.Safety) && !a.in.Stop {
				b.setStatus(a, cluster.Status{ID: a.in.ID, State: cluster.InstancePending, Message: "not started: " + a.takeover.Proof().Text})
			}
		}
		if a.takeover.Step() != takeover.Verifying || a.verify || now < a.verifyAt {
			continue
		}
		a.verify = true
		// What is written matters little, that it is written does: the claim was the slot's at that
		// revision, which is later than the proof.
		st := b.statusOf(a)
		b.commit(cluster.Txn{
			Conditions: []cluster.Condition{{Key: a.in.SlotKey(), Revision: int64(a.in.Epoch)}},
			Puts:       []cluster.Put{{Key: st.Key(), Value: st}},
			Events:     b.clearance(a),
		}, func(ok bool, err error) {
			a.verify = false
			if err != nil {
				a.verifyAt = b.world.Now() + retry/4
				return
			}
			a.takeover.Verified(ok)
		})
	}
}

// clearance is the event of a takeover that is about to be cleared. There is none where nothing waited
// for it.
func (b *Brain) clearance(a *assignment) []cluster.Event {
	slot := fmt.Sprintf("%s/%s.%d", a.in.Stack, a.in.Service, a.in.Slot)
	text := fmt.Sprintf("%s may run %s in place of %s", b.self.Name, slot, a.in.After.Node)
	switch {
	case plan.HoldsFloating(&a.in):
		text = fmt.Sprintf("%s answers for %s in place of %s as soon as it runs", b.self.Name, slot, a.in.After.Node)
	case a.in.Spec.Safety.LeaseGuards():
		return nil
	}
	return []cluster.Event{{Kind: cluster.EventFence, Subject: slot, Text: text, Why: a.takeover.Proof().Text}}
}

// run tells the runner what this node runs, if that has changed.
func (b *Brain) run() {
	keys := make([]runKey, 0, len(b.order))
	for _, a := range b.order {
		if stop := a.lost != "" || a.in.Stop && b.letGo(a); stop || a.takeover.MayRun(a.in.Spec.Safety) && a.reserved() {
			keys = append(keys, runKey{a.in.ID, stop})
		}
	}
	if b.ranOnce && slices.Equal(keys, b.running) || !b.seen {
		return
	}
	list := make([]cluster.Instance, 0, len(keys))
	for _, k := range keys {
		list = append(list, b.mine[k.id].order(k.stop))
	}
	b.running, b.ranOnce = keys, true
	b.world.Run(list)
}

// drainTime is how long an instance goes on after it was told to stop, if it answers for a service with others: in that
// time the other nodes learn that they must send it no new connections. Their maps follow the ledger in some hundredths of
// a second.
const drainTime = time.Second

// letGo tells whether an instance that is to stop may: one of several that answer on a published port goes on for
// drainTime.
func (b *Brain) letGo(a *assignment) bool {
	s := &a.in.Spec
	others := s.Mode == cluster.ModeGlobal || s.Replicas > 1 || s.StartsFirst(false) || s.StartsFirst(true)
	if len(s.Ports) == 0 || len(s.Floating) > 0 || !others || a.want.State != cluster.InstanceRunning {
		return true
	}
	if a.stopAt == 0 {
		a.stopAt = b.world.Now() + drainTime
	}
	return b.world.Now() >= a.stopAt
}

const (
	// withdrawPatience is how long a withdrawal that the kernel refuses is tried again: a little longer than a lease.
	// By then the address is dark all the same, since nothing is renewed meanwhile, and all others of the node
	// with it. Such a node is of no use, and its end is proof for those who wait.
	withdrawPatience = time.Second
	// withdrawTries is how often at least, should each of them take long.
	withdrawTries = 3
)

// keepsBack tells whether a status must not be committed yet: it would tell the others that an address is free
// which the kernel may still answer on.
func (b *Brain) keepsBack(a *assignment) bool {
	return b.clinging > 0 && plan.HoldsFloating(&a.in) && b.statusOf(a).State != cluster.InstanceRunning
}

// withdraws tells whether an instance that has addresses is over, or on its way there. As long as this brain
// has not told the kernel anything, the kernel may still answer on what an earlier agent of this boot held.
func (b *Brain) withdraws() bool {
	return slices.ContainsFunc(b.order, func(a *assignment) bool {
		return a.reported && a.want.State != cluster.InstanceRunning && plan.HoldsFloating(&a.in)
	})
}

// hold answers on the floating addresses of what runs here and is cleared, until the lease ends.
func (b *Brain) hold() {
	var list []Floating
	for _, a := range b.order {
		if a.in.Stop || a.lost != "" || a.takeover.Step() != takeover.Cleared || a.want.State != cluster.InstanceRunning || !plan.HoldsFloating(&a.in) {
			continue
		}
		for _, addr := range a.in.Spec.Floating {
			list = append(list, Floating{
				Addr: addr, Instance: a.in.ID, Stack: a.in.Stack, Service: a.in.Service,
				Epoch: a.in.Epoch, Ports: a.in.Spec.Ports, Target: a.want.Address,
			})
		}
	}
	same := reflect.DeepEqual(list, b.held) && (b.heldOnce || !b.withdraws())
	if same && b.clinging == 0 && (len(list) == 0 || b.view.LeaseUntil == b.heldTill) {
		return
	}
	b.held, b.heldTill, b.heldOnce = list, b.view.LeaseUntil, true
	now := b.world.Now()
	if b.world.Hold(list, b.heldTill) {
		b.clinging, b.clingTries = 0, 0
		return
	}
	if b.clingTries++; b.clinging == 0 {
		b.clinging = now
	}
	if now-b.clinging >= withdrawPatience && b.clingTries >= withdrawTries {
		b.condemn("the kernel does not withdraw a floating address of this node, which others are to answer on")
	}
}
