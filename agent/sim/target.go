package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/takeover"
)

// target is one volume of a SAN, with a reservation for writing by registrants only. It knows nothing of
// who should write: it judges, from what arrives, whether the promises were kept.
type target struct {
	keys      [10]takeover.Key // by node; zero: not registered
	reserved  bool
	queue     []write // accepted, not yet executed
	newest    uint64  // highest epoch of an acknowledged write
	acked     int
	writer    map[uint64]uint8        // by epoch
	attention [10]bool                // by node: what it is told at its next command
	committed func(takeover.Key) bool // the ledger has, or had, this claim
	violation string
	seq       uint64        // of the newest write
	flying    [10]int       // writes on their way, by node
	excused   int           // late writes that a disk let in which had forgotten its reservation
	slow      time.Duration // what is accepted is executed so much later
	gone      bool          // answers nobody
}

type write struct {
	node  uint8
	epoch uint64
	seq   uint64
	open  bool // it was accepted while the disk had no reservation at all
}

func (t *target) register(k takeover.Key) {
	if !t.committed(k) {
		t.violation = fmt.Sprintf("key %v is registered, its claim is not committed", k)
	}
	t.keys[k.Node] = k
}

func (t *target) read() []takeover.Key {
	var out []takeover.Key
	for _, k := range t.keys {
		if k != (takeover.Key{}) {
			out = append(out, k)
		}
	}
	return out
}

// preempt is PREEMPT AND ABORT: what the victim has queued is never executed.
func (t *target) preempt(by uint8, victim takeover.Key) bool {
	if t.keys[by] == (takeover.Key{}) || t.keys[victim.Node] != victim {
		return false
	}
	t.keys[victim.Node] = takeover.Key{}
	t.abort(victim.Node)
	return true
}

func (t *target) abort(node uint8) {
	t.queue = slices.DeleteFunc(t.queue, func(w write) bool { return w.node == node })
}

// drained tells whether nothing that a node wrote is under way any more: its next epoch begins after that.
func (t *target) drained(node uint8) bool {
	return t.flying[node] == 0 && !slices.ContainsFunc(t.queue, func(w write) bool { return w.node == node })
}

// write is accepted or refused by the key; it is executed, and acknowledged, later.
func (t *target) write(w write) bool {
	if t.reserved && t.keys[w.node] == (takeover.Key{}) {
		return false
	}
	t.seq++
	w.seq, w.open = t.seq, !t.reserved
	t.queue = append(t.queue, w)
	return true
}

// execute ends the write that waits longest. An older epoch's after a newer one's overwrites what was
// acknowledged.
func (t *target) execute() {
	if len(t.queue) > 0 {
		t.finish(t.queue[0].seq)
	}
}

// finish ends one write, unless it was aborted. Disks do so in any order.
func (t *target) finish(seq uint64) {
	at := slices.IndexFunc(t.queue, func(w write) bool { return w.seq == seq })
	if at < 0 {
		return
	}
	w := t.queue[at]
	t.queue = slices.Delete(t.queue, at, at+1)
	t.acked++
	if w.epoch < t.newest && w.open {
		t.excused++ // nothing kept it out: the disk had forgotten its reservation
		return
	}
	if w.epoch < t.newest {
		t.violation = fmt.Sprintf("node %d writes in epoch %d after a write of epoch %d was acknowledged", w.node, w.epoch, t.newest)
	}
	if o, ok := t.writer[w.epoch]; ok && o != w.node {
		t.violation = fmt.Sprintf("nodes %d and %d write in epoch %d", o, w.node, w.epoch)
	}
	t.newest, t.writer[w.epoch] = max(t.newest, w.epoch), w.node
}

// reset loses registrations and reservation, as a target without APTPL does, and what was queued.
func (t *target) reset() {
	t.keys, t.reserved, t.queue = [10]takeover.Key{}, false, nil
}
