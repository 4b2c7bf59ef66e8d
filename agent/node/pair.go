package node

import (
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// pairPatience is for how long a cluster must have had two nodes before its operator is warned: a third one
// may be on its way.
const pairPatience = 10 * time.Second

// warnOfPair tells once that of two nodes there is one whose loss stops the cluster.
func (b *Brain) warnOfPair(now time.Duration) {
	c := &b.coord
	text := b.state.PairWarning()
	switch {
	case text == "":
		c.pairSince, c.pairTold = 0, false
	case c.pairSince == 0:
		c.pairSince = now
	case !c.pairTold && now-c.pairSince >= pairPatience:
		c.pairTold = true
		b.world.Explain(cluster.Event{
			Node: b.self.Name, Time: b.world.Wall(), Kind: cluster.EventCluster, Subject: b.state.Meta.Name,
			Text: "warning: " + text, Why: "two cannot outvote each other",
		})
	}
}
