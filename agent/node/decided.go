package node

import (
	"maps"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/plan"
)

// Decided is one decision of the coordinator with all that it was made from: a plan that led to actions, or
// nodes that were given up.
type Decided struct {
	Coordinator string
	Wall        time.Time // for people only
	// Snapshot is the plan's input; of a loss only State and Now are set.
	Snapshot plan.Snapshot
	Decision plan.Decision

	// Losses are the records of the nodes that were given up, with the reason; Heard is what the coordinator
	// heard of its peers then, and JoinPatience its patience with nodes that are joining.
	Losses       []cluster.Node
	Heard        []member.PeerView
	JoinPatience time.Duration
}

// decided tells the world, after the transactions are on their way: a record must not delay a takeover.
func (b *Brain) decided(d Decided) {
	if b.cfg.Decided == nil {
		return
	}
	d.Coordinator, d.Wall = b.self.Name, b.world.Wall()
	d.Snapshot.Ended, d.Snapshot.Ran = maps.Clone(d.Snapshot.Ended), maps.Clone(d.Snapshot.Ran) // ours go on changing
	if len(d.Losses) > 0 {
		d.Heard, d.JoinPatience = b.view.Peers, b.cfg.JoinPatience
	}
	b.cfg.Decided(d)
}

// Snapshot is what a plan made now by this node would depend on.
func (b *Brain) Snapshot() plan.Snapshot {
	if b.state == nil {
		return plan.Snapshot{State: &cluster.State{}}
	}
	s := b.snapshot(b.world.Now())
	s.Ended, s.Ran = maps.Clone(s.Ended), maps.Clone(s.Ran)
	return s
}

// Losses judges again: which nodes the coordinator self would give up now, by name with the reason, if it
// hears its peers like that. It is the very rule of the coordinator.
func Losses(now time.Duration, self string, st *cluster.State, heard []member.PeerView, joinPatience time.Duration) map[string]string {
	b := Brain{self: cluster.Node{Name: self}, state: st, view: member.View{Peers: heard}, cfg: Config{JoinPatience: joinPatience}}
	v := b.judge(now)
	out := map[string]string{}
	if v.doubt == "" {
		for _, l := range v.lost {
			out[l.node.Name] = l.why
		}
	}
	return out
}
