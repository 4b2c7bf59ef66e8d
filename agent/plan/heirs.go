package plan

import (
	"slices"

	"github.com/skein-os/skein/agent/cluster"
)

// Heirs are the instances that node would be given if one other node were lost now, for each that could be:
// what Plan would claim for it. They have no ID, since there is no claim yet. Each node can tell for itself
// from the ledger, and have ready what it takes to start them.
func Heirs(st *cluster.State, node string) []cluster.Instance {
	busy := map[string]bool{}
	for i := range st.Instances {
		busy[st.Instances[i].Node] = true
	}
	var out []cluster.Instance
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.Name == node || n.State == cluster.NodeLost || !busy[n.Name] {
			continue
		}
		without := *st
		without.Nodes = slices.Clone(st.Nodes)
		without.Nodes[i].State = cluster.NodeLost
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
	}
	return out
}
