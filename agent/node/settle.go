package node

import (
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// settleTime is how long an instance must run without a break for failures before it to be forgotten: the
// next one is a first one. Shorter forgives what crashes every few minutes on one node after the other.
const settleTime = 10 * time.Minute

// settle notes which instances have run well for long enough, once for each claim.
func (b *Brain) settle(now time.Duration) {
	for _, a := range b.order {
		switch {
		case a.want.State != cluster.InstanceRunning:
			a.ranSince = 0
		case a.ranSince == 0:
			a.ranSince = now
		case !a.settled && now-a.ranSince >= settleTime:
			a.settled = true
			b.setStatus(a, a.want)
		}
	}
}
