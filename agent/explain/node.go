package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/replay"
	"github.com/skein-os/skein/agent/takeover"
)

// node answers why a node is in its state, what it lost and when it gets work again.
func (in *Input) node(n *cluster.Node) Answer {
	a := Answer{Subject: n.Name, Kind: "node"}
	st := in.Snapshot.State
	since := ""
	for i := len(in.Events) - 1; i >= 0; i-- {
		if e := in.Events[i]; e.Kind == cluster.EventNode && e.Subject == n.Name && !strings.Contains(e.Text, "voter") && !strings.Contains(e.Text, "quarantine") {
			since = " since " + in.clock(e.Time)
			break
		}
	}
	say := func(format string, args ...any) { a.Sentences = append(a.Sentences, fmt.Sprintf(format, args...)) }
	why := ""
	if n.Reason != "" {
		why = ": " + n.Reason
	}
	say("%s is %s%s%s.", n.Name, n.State, since, why)
	if why := in.Snapshot.Silent[n.Name]; why != "" && n.State != cluster.NodeLost {
		say("Now it %s: if that goes on, it is given up.", why)
	}
	l, _ := in.loss(n.Name, nil)
	if l != nil {
		for _, p := range l.input.Heard {
			if p.Name == n.Name && p.ConfirmedSilent > 0 && p.NewBoot == "" && p.Gasped == "" {
				boot := ""
				if p.BootID != n.BootID {
					boot = "Its boot before was given up: "
				}
				say("%s%s gave it up at %s, after %v of silence on all links that %d nodes confirmed (decision %s).",
					boot, l.Node, in.clock(l.Time), p.SilentFor.Round(1e6), p.ConfirmedSilent, l.ID)
			}
		}
		a.Decisions = append(a.Decisions, l.ID)
	}

	var has []string
	for i := range st.Instances {
		if inst := &st.Instances[i]; inst.Node == n.Name && inst.BootID == n.BootID && n.State != cluster.NodeLost {
			has = append(has, fmt.Sprintf("%s/%s.%d", inst.Stack, inst.Service, inst.Slot))
		}
	}
	if len(has) > 0 {
		say("It has %s.", strings.Join(has, ", "))
	} else if n.State != cluster.NodeLost {
		say("It runs no services.")
	}
	moved, ids := in.movedFrom(n.Name, l)
	for _, m := range moved {
		say("%s.", m)
	}
	a.Decisions = append(a.Decisions, ids...)
	for i := range st.Instances {
		inst := &st.Instances[i]
		if inst.Node == n.Name && (n.State == cluster.NodeLost || inst.BootID != n.BootID) {
			say("%s/%s.%d was there and runs nowhere: there is no node that may have it ('skein why %s/%s' says why).", inst.Stack, inst.Service, inst.Slot, inst.Stack, inst.Service)
		}
		if o := inst.After; o != nil && o.Node == n.Name && !in.proved(inst) {
			if p := takeover.Prove(inst.Spec.Safety, *o, n, in.Snapshot.Evidence[incarnation(o)]); !p.OK {
				say("%s waits with %s/%s.%d: %s.", inst.Node, inst.Stack, inst.Service, inst.Slot, p.Text)
			}
		}
	}
	switch state := n.State; {
	case n.Witness && state != cluster.NodeLost:
		say("It is a witness: it votes and is given no work.")
	case state == cluster.NodeOnline && n.Trouble.Quarantined():
		say("It is %s. Until then it is given only what no other node can run; 'skein node release %s' ends that early.", n.Quarantine(), n.Name)
	case state == cluster.NodeOnline:
		say("It may be given work.")
	case state == cluster.NodeJoining:
		say("It may be given work as soon as the coordinator hears its heartbeats.")
	case state == cluster.NodeDraining, state == cluster.NodeDrained:
		say("It is given no work until 'skein node undrain %s'.", n.Name)
	case n.Witness:
		say("It votes again when it has been started anew and has rejoined, by itself; 'skein node remove %s' forgets it.", n.Name)
	case state == cluster.NodeLost:
		say("It may be given work again when it has been started anew and has rejoined, by itself; 'skein node remove %s' forgets it.", n.Name)
	}
	if n.Trouble.Quarantined() && n.State != cluster.NodeOnline {
		say("And it is %s, during which it is given only what no other node can run; 'skein node release %s' ends that early.", n.Quarantine(), n.Name)
	}
	slices.Sort(a.Decisions)
	a.Decisions = slices.Compact(a.Decisions)
	slices.SortFunc(a.Decisions, func(x, y string) int { return replay.Compare(y, x) })
	return a
}

// movedFrom are the slots that left a node since its loss l, or, without one, in all that is still known.
func (in *Input) movedFrom(node string, l *lossRecord) (moved, ids []string) {
	last := map[string]string{}
	var order []string
	for _, r := range in.Decisions {
		if l != nil && r.Revision < l.Revision {
			continue
		}
		for _, a := range r.Actions {
			if a.From != node || a.Node == "" || a.Node == node {
				continue
			}
			if last[a.Subject] == "" {
				order = append(order, a.Subject)
			}
			last[a.Subject] = fmt.Sprintf("%s went from it to %s at %s (decision %s)", a.Subject, a.Node, in.clock(r.Time), r.ID)
			ids = append(ids, r.ID)
		}
	}
	for _, s := range order {
		moved = append(moved, last[s])
	}
	return moved, ids
}

func incarnation(o *cluster.Owner) plan.Incarnation {
	return plan.Incarnation{Node: o.Node, BootID: o.BootID}
}

// proved tells that the owner of a claim has written down its proof against the owner before.
func (in *Input) proved(inst *cluster.Instance) bool {
	slot := fmt.Sprintf("%s/%s.%d", inst.Stack, inst.Service, inst.Slot)
	return slices.ContainsFunc(in.Events, func(e cluster.Event) bool {
		return e.Kind == cluster.EventFence && e.Subject == slot && e.Node == inst.Node && strings.Contains(e.Text, "in place of "+inst.After.Node)
	})
}
