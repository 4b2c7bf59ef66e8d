package plan

import (
	"fmt"

	"github.com/skein-os/skein/agent/cluster"
)

// claim is what is to be claimed, and for what.
type claim struct {
	lost   bool // old's owner is no more: a takeover
	svc    *cluster.Service
	id     slotID
	old    *cluster.Instance // the claim that this one replaces, if there is one
	after  *cluster.Owner    // lost owner without proof yet
	keep   string            // node to stay on if it fits
	only   string            // node it is bound to
	avoid  map[string]string // nodes not to take, and why
	failed bool              // old failed on its node
	why    string
}

// claim finds a node and commits the slot to it, or keeps what did not fit.
func (p *planner) claim(c claim) {
	if c.old != nil && c.after == nil {
		// What the replaced claim still had to wait for, its successor has to.
		after, missing := p.inherited(c.old)
		if after != nil && (c.svc.Safety != c.old.Spec.Safety || !covers(c.svc, c.old)) {
			p.pend(c.id, nil, "its safety or addresses were changed before it could take over: %s", missing)
			return
		}
		c.after = after
	}
	in := cluster.Instance{
		ID: p.newID(c.id), Stack: c.id.stack, Service: c.id.service, Slot: c.id.slot, After: c.after, Spec: *c.svc,
	}
	if HoldsFloating(&in) {
		for _, a := range c.svc.Floating {
			if by, ok := p.holders[a.String()]; ok && by != c.id {
				p.pend(c.id, nil, "address %v is still held by %v", a, by)
				return
			}
		}
	}
	best, place, not := p.place(c.svc, c.keep, c.only, c.avoid)
	if best == nil {
		p.pend(c.id, not, "%s, and no node fits", c.why)
		return
	}
	looked := p.considered(best, c.svc, c.only, c.avoid)
	best.add(c.svc)
	if HoldsFloating(&in) {
		for _, a := range c.svc.Floating {
			p.holders[a.String()] = c.id
		}
	}

	in.Node, in.BootID = best.node.Name, best.node.BootID
	in.Reason = c.why + "; " + place
	t := cluster.Txn{Conditions: []cluster.Condition{
		{Key: in.SlotKey()},
		{Key: best.node.Key(), Revision: best.node.Revision},
		{Key: c.svc.Key(), Revision: c.svc.Revision},
	}}
	kind, text := Claim, fmt.Sprintf("%v goes to %s", c.id, in.Node)
	if old := c.old; old != nil {
		kind = Replace
		t.Conditions[0].Revision = int64(old.Epoch)
		t.Conditions = append(t.Conditions, cluster.Condition{Key: old.Key(), Revision: old.Revision})
		t.Deletes = []string{old.Key(), statusKey(old)}
		text = fmt.Sprintf("%v goes from %s to %s", c.id, old.Node, in.Node)
		if old.Node == in.Node {
			text = fmt.Sprintf("%v starts anew on %s", c.id, in.Node)
		}
		if c.failed {
			in.Failures, in.Tried = p.failures(old)
			in.Failures, in.FailedOn = in.Failures+1, old.Node
		}
	}
	if c.lost {
		kind = Takeover
		if c.old.Node != in.Node {
			text = fmt.Sprintf("%s takes over %v from %s", in.Node, c.id, c.old.Node)
		}
	}
	t.Puts = []cluster.Put{{Key: in.Key(), Value: in}, {Key: in.SlotKey(), Value: in.ID}}
	t.Events = []cluster.Event{{Kind: cluster.EventService, Subject: c.id.String(), Text: text, Why: in.Reason}}
	p.act(kind, c.id.String(), in.Reason, t)
	p.out.Actions[len(p.out.Actions)-1].Considered = looked
}

// stop tells the owner to stop; when it has reported so, a later plan goes on.
func (p *planner) stop(in *cluster.Instance, why string) {
	next := *in
	next.Stop = true
	id := slotOf(in)
	p.act(Stop, id.String(), why, cluster.Txn{
		Conditions: []cluster.Condition{{Key: in.Key(), Revision: in.Revision}},
		Puts:       []cluster.Put{{Key: in.Key(), Value: next}},
		Events: []cluster.Event{{
			Kind: cluster.EventService, Subject: id.String(),
			Text: fmt.Sprintf("%v is being stopped on %s", id, in.Node), Why: why,
		}},
	})
}

// remove takes a claim out of the ledger: its slot is free.
func (p *planner) remove(in *cluster.Instance, why string) {
	id := slotOf(in)
	p.act(Remove, id.String(), why, cluster.Txn{
		Conditions: []cluster.Condition{
			{Key: in.SlotKey(), Revision: int64(in.Epoch)},
			{Key: in.Key(), Revision: in.Revision},
		},
		Deletes: []string{in.Key(), statusKey(in), in.SlotKey()},
		Events: []cluster.Event{{
			Kind: cluster.EventService, Subject: id.String(),
			Text: fmt.Sprintf("%v has ended on %s and is removed", id, in.Node), Why: why,
		}},
	})
}

func statusKey(in *cluster.Instance) string {
	return (&cluster.Status{ID: in.ID, Node: in.Node}).Key()
}

// Limits of a batch: etcd takes 128 operations in a transaction by default, and 1.5 MiB in a request.
const (
	maxOps     = 100
	maxContent = 512 << 10
)

// Batch joins actions into as few transactions as etcd's limits allow, in order. What is joined is
// committed or refused together: try a refused batch again with one action in each.
func Batch(actions []Action, most int) []cluster.Txn {
	var out []cluster.Txn
	n, ops, content := 0, 0, 0
	for _, a := range actions {
		o, c := weight(a.Txn)
		if n == 0 || n == most || ops+o > maxOps || content+c > maxContent {
			out = append(out, cluster.Txn{})
			n, ops, content = 0, 0, 0
		}
		t := &out[len(out)-1]
		t.Conditions = addConditions(t.Conditions, a.Txn.Conditions)
		t.Puts = append(t.Puts, a.Txn.Puts...)
		t.Deletes = append(t.Deletes, a.Txn.Deletes...)
		t.Events = append(t.Events, a.Txn.Events...)
		n, ops, content = n+1, ops+o, content+c
	}
	return out
}

func weight(t cluster.Txn) (ops, content int) {
	for _, p := range t.Puts {
		if in, ok := p.Value.(cluster.Instance); ok {
			content += 4096
			for _, f := range in.Spec.Files {
				content += len(f.Content) * 4 / 3
			}
		}
	}
	return len(t.Puts) + len(t.Deletes) + len(t.Events), content
}

func addConditions(to, more []cluster.Condition) []cluster.Condition {
next:
	for _, c := range more {
		for _, have := range to {
			if have == c {
				continue next
			}
		}
		to = append(to, c)
	}
	return to
}
