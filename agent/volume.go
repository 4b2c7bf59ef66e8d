package agent

import (
	"fmt"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/takeover"
)

// Volume does an operation on a reserved disk (node.World). This node has no such disks, which is no outcome:
// the instance is not started, and its status says why.
func (w *world) Volume(id uint64, v cluster.Volume, op takeover.StorageOp, _, _ takeover.Key) {
	err := fmt.Errorf("%s: this node has no reserved disk %s: it cannot see that nobody else writes volume %s", op, v.Disk, v.Name)
	w.a.wg.Go(func() {
		w.a.loop.must(w.ctx, func(b *node.Brain) { b.VolumeDone(id, false, nil, err) })
	})
}
