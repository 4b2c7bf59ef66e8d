package plan

import (
	"slices"

	"github.com/skein-os/skein/agent/cluster"
)

// Heirs are the instances that node would be given if one other node were lost now, for each that could be:
// what Plan would claim for it. They have no ID, since there is no claim yet. Each node can tell for itself
// from the ledger, and have ready what it takes to start them. A quarantine ends at any time, so what it would
// be given without any is among them.
func Heirs(st *cluster.State, node string) []cluster.Instance {
	states := []*cluster.State{st}
	if slices.ContainsFunc(st.Nodes, func(n cluster.Node) bool { return n.Trouble.Quarantined() }) {
		calm := *st
		calm.Nodes = slices.Clone(st.Nodes)
		for i := range calm.Nodes {
			calm.Nodes[i].Trouble = nil
		}
		states = append(states, &calm)
	}
	var out []cluster.Instance
	for i := range st.Nodes {
		first := len(out)
		for _, s := range states {
			for _, in := range HeirsOf(s, node, st.Nodes[i].Name) {
				if !slices.ContainsFunc(out[first:], func(o cluster.Instance) bool { return slotOf(&o) == slotOf(&in) }) {
					out = append(out, in)
				}
			}
		}
	}
	return out
}

// HeirsOf are those of Heirs that node would be given if just lost were lost.
func HeirsOf(st *cluster.State, node, lost string) []cluster.Instance {
	at := slices.IndexFunc(st.Nodes, func(n cluster.Node) bool { return n.Name == lost })
	busy := slices.ContainsFunc(st.Instances, func(in cluster.Instance) bool { return in.Node == lost })
	if lost == node || at < 0 || st.Nodes[at].State == cluster.NodeLost || !busy {
		return nil
	}
	without := *st
	without.Nodes = slices.Clone(st.Nodes)
	without.Nodes[at].State = cluster.NodeLost
	var out []cluster.Instance
	for _, a := range Plan(Snapshot{State: &without}).Actions {
		if a.Kind != Takeover {
			continue
		}
		for _, put := range a.Txn.Puts {
			in, ok := put.Value.(cluster.Instance)
			if ok && in.Node == node {
				in.ID, in.After = "", nil
				out = append(out, in)
			}
		}
	}
	return out
}

// StartsEarly tells whether an heir may start an instance on a suspicion alone, before the loss is committed
// and the slot is claimed: if it has no effect before its address is held, so that a wrong suspicion costs
// nothing but the start. What has a volume never does: its disk is the old owner's until it is taken over.
func StartsEarly(in *cluster.Instance) bool {
	return in.Spec.Safety == cluster.SafetyLease && len(in.Spec.Volumes) == 0 && HoldsFloating(in)
}
