package node

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
	"github.com/skein-os/skein/agent/member"
)

const (
	// goodbyePatience is for how long a node that said goodbye is left to end, or to start anew, by itself.
	goodbyePatience = 20 * time.Second
	// takeoverFirst is how long fencing waits if nothing needs its proof: the coordinator may be the heir, and
	// TLS with a controller is work for a processor that has services to start.
	takeoverFirst = 2 * time.Second
	// restartAfter is the pause from the proof that a machine is off to the order to switch it on again.
	restartAfter = 5 * time.Second
	// restartWithin is how long that order may take.
	restartWithin = 10 * time.Second
	// restartTries of it; then it is for an operator.
	restartTries = 3
)

// fencing is what the coordinator remembers of fencing one incarnation. All that matters is in the ledger.
type fencing struct {
	boot    string
	since   time.Duration // when it was first seen to be due
	writeAt time.Duration // from when its record may be written again
	begun   bool          // the record is being written, or was
	ladder  *fence.Ladder // nil until the record is ours
	counted bool          // the order to switch it off is in the count (fenceRate)

	// Switching on again, when it is off.
	offAt, retryAt time.Duration
	restarting     bool
	tries          int
}

// Powered takes the outcome of World.Power.
func (b *Brain) Powered(a fence.Answer) {
	done := b.powers[a.ID]
	delete(b.powers, a.ID)
	if done == nil || b.ended != "" {
		return
	}
	done(a)
	b.think()
}

// power asks a node's controller for something.
func (b *Brain) power(node string, c fence.Command, done func(fence.Answer)) {
	id := c.ID
	b.nextID++
	c.ID = b.nextID
	b.powers[c.ID] = func(a fence.Answer) { a.ID = id; done(a) }
	b.world.Power(node, c)
}

// fence moves the fencing of lost nodes on. It runs beside all else: nothing that has other proof waits for
// it. Before the first command there is a record in the ledger that says who does it.
func (b *Brain) fence(now time.Duration) {
	due := map[string]bool{}
	for i := range b.state.Nodes {
		n := &b.state.Nodes[i]
		if n.Name == b.self.Name || n.State != cluster.NodeLost {
			continue
		}
		p := b.peerView(n.Name, n.BootID)
		if p != nil && p.NewBoot != "" {
			continue // that is proof enough, and a machine on its way back is not to be cut
		}
		due[n.Name] = true
		b.fenceNode(now, n, p)
	}
	for name := range b.coord.fences {
		if !due[name] {
			delete(b.coord.fences, name)
		}
	}
}

func (b *Brain) fenceNode(now time.Duration, n *cluster.Node, p *member.PeerView) {
	bmc, rec := b.state.BMC(n.Name), b.state.Fence(n.Name)
	f := b.coord.fences[n.Name]
	if f == nil || f.boot != n.BootID {
		f = &fencing{boot: n.BootID, since: now}
		b.coord.fences[n.Name] = f
	}
	if rec != nil && rec.BootID != n.BootID {
		old := cluster.Fence{Node: n.Name, Revision: rec.Revision} // of an earlier boot: only its revision counts
		rec = &old
	}
	switch {
	case rec != nil && rec.State == cluster.FenceOff:
		f.ladder = nil
		b.restart(now, f, bmc, rec)
		return
	case bmc == nil:
		return
	case f.ladder == nil && (rec == nil || rec.By != b.self.Name || rec.ByBoot != b.self.BootID || rec.State == ""):
		waited := now - f.since
		switch {
		case p != nil && p.Ordered && waited < goodbyePatience:
			return
		case waited < takeoverFirst && (rec == nil || rec.State == "") && !b.needsOff(n): // else another began it
			return
		case !b.mayFence(n):
			return
		}
		b.beginFence(now, f, n, bmc, rec)
		return
	case f.ladder == nil:
		f.ladder = fence.New(fence.Config{}, wayNames(bmc), b.world.Rand())
		f.counted = f.counted || rec.Cut
	}
	b.climb(now, f, n, fence.Input{Heard: p != nil && heard(p), Hold: b.holdFence(now, f)})
}

// MayCut tells whether this node is still the one to cut the power of that very boot, as far as it knows. Whoever
// carries a Cut out asks at the last moment: the order may have waited for a controller while this coordinator was
// deposed, or the machine came back.
func (b *Brain) MayCut(name, boot string) error {
	switch {
	case b.ended != "":
		return errors.New(b.ended)
	case b.state == nil || !b.leader:
		return fmt.Errorf("%s is not the coordinator any more", b.self.Name)
	}
	if p := b.peerView(name, boot); p != nil && p.NewBoot != "" {
		return fmt.Errorf("%s is heard in a new boot (%.8s)", name, p.NewBoot)
	}
	return cluster.MayCut(b.state.Node(name), b.state.Fence(name), boot, b.self.Name, b.self.BootID)
}

// needsOff tells whether something that this incarnation owned, or that waits for the end of it, is not content
// with the end of its lease.
func (b *Brain) needsOff(n *cluster.Node) bool {
	if b.state.SharesWith(n.Name) != nil {
		return true // all who use that file system wait
	}
	for i := range b.state.Instances {
		in := &b.state.Instances[i]
		owned := in.Node == n.Name && in.BootID == n.BootID || in.After != nil && in.After.Node == n.Name && in.After.BootID == n.BootID
		if owned && !in.Spec.Safety.LeaseGuards() {
			return true
		}
	}
	return false
}

func wayNames(bmc *cluster.BMC) []string {
	_, names := fence.Ways(bmc, "")
	return names
}

// mayFence is the restraint: fewer than half of the members at once, more than one only while this node hears
// a majority of the voters itself, and nobody while somebody is fencing this node.
func (b *Brain) mayFence(n *cluster.Node) bool {
	if own := b.state.Fence(b.self.Name); own != nil && own.BootID == b.self.BootID {
		return false
	}
	members, voters, heardVoters, busy := 0, 0, 0, 0
	for i := range b.state.Nodes {
		o := &b.state.Nodes[i]
		members++
		if o.Voter {
			voters++
			if p := b.peerView(o.Name, o.BootID); o.Name == b.self.Name || p != nil && p.Alive {
				heardVoters++
			}
		}
		if o.Name != n.Name && o.State == cluster.NodeLost && b.fencing(o) {
			busy++
		}
	}
	return busy == 0 || 2*(busy+1) < members && 2*heardVoters > voters
}

// fencing tells whether a node is being fenced now, by anybody.
func (b *Brain) fencing(n *cluster.Node) bool {
	if rec := b.state.Fence(n.Name); rec != nil && rec.BootID == n.BootID {
		return rec.State == cluster.FenceRunning
	}
	f := b.coord.fences[n.Name]
	return f != nil && f.boot == n.BootID && f.begun
}

// beginFence writes who fences whom. Of two that would fence each other only one can: each write is
// conditional on nobody having begun with the writer, and on the writer not being lost.
func (b *Brain) beginFence(now time.Duration, f *fencing, n *cluster.Node, bmc *cluster.BMC, old *cluster.Fence) {
	me, own := b.state.Node(b.self.Name), &cluster.Fence{Node: b.self.Name}
	if me == nil || now < f.writeAt {
		return
	}
	if o := b.state.Fence(b.self.Name); o != nil {
		own = o
	}
	rec := cluster.Fence{Node: n.Name, BootID: n.BootID, Level: cluster.FencePower, State: cluster.FenceRunning,
		By: b.self.Name, ByBoot: b.self.BootID, Since: b.world.Wall(), Changed: b.world.Wall()}
	why := "it is lost: " + n.Reason
	var revision int64
	if old != nil {
		revision = old.Revision
		if old.By != "" {
			rec.Rounds, rec.Text, rec.Cut = old.Rounds, old.Text, old.Cut
			why = fmt.Sprintf("%s had begun and decides no more", old.By)
		}
	}
	f.begun = true
	b.writeFence(now, f, rec, []cluster.Condition{
		{Key: rec.Key(), Revision: revision}, {Key: n.Key(), Revision: n.Revision},
		{Key: me.Key(), Revision: me.Revision}, {Key: own.Key(), Revision: own.Revision},
	}, cluster.Event{Text: fmt.Sprintf("%s switches %s off (L2), by its controller: %s", b.self.Name, n.Name, strings.Join(wayNames(bmc), ", ")), Why: why})
}

func (b *Brain) writeFence(now time.Duration, f *fencing, rec cluster.Fence, cond []cluster.Condition, e cluster.Event) {
	if now < f.writeAt {
		return
	}
	f.writeAt = now + 2*stuck
	t := cluster.Txn{Conditions: cond, Puts: []cluster.Put{{Key: rec.Key(), Value: rec}}}
	if e.Text != "" {
		e.Kind, e.Subject = cluster.EventFence, rec.Node
		t.Events = []cluster.Event{e}
	}
	b.commit(t, func(ok bool, err error) {
		f.begun = f.begun && (ok || err != nil) // refused: it was not
		f.writeAt = b.world.Now() + retry       // by then the ledger has shown it
	})
}

// climb steps the ladder and writes what came of it.
func (b *Brain) climb(now time.Duration, f *fencing, n *cluster.Node, in fence.Input) {
	l, name := f.ladder, n.Name
	for _, c := range l.Step(now, in) {
		c.Boot = f.boot
		if c.Do == fence.Cut && !f.counted { // once for a boot, however often the order has to be given
			f.counted = true
			b.orderedOff(now)
		}
		b.power(name, c, func(a fence.Answer) {
			if b.coord.fences[name] != f || f.ladder != l {
				return // an answer to a coordinator that is no more
			}
			if node := b.state.Node(name); node != nil && node.BootID == f.boot {
				p := b.peerView(name, f.boot)
				b.climb(b.world.Now(), f, node, fence.Input{Answer: &a, Heard: p != nil && heard(p), Hold: b.holdFence(b.world.Now(), f)})
			}
		})
	}
	rec := b.state.Fence(name)
	if rec == nil || rec.BootID != f.boot || rec.By != b.self.Name || rec.ByBoot != b.self.BootID {
		f.ladder = nil // somebody else's by now
		return
	}
	next, e := *rec, cluster.Event{}
	next.Cut = rec.Cut || l.Cut()
	switch failure := l.Failure(); {
	case l.Stage() == fence.Proven:
		next.State = cluster.FenceOff
		next.Text = fmt.Sprintf("its power was read off twice by %s, %s", b.self.Name, l.Way())
		e.Text, e.Why = name+" is off (L2)", next.Text
	case l.Rounds() > 0 && (rec.State == cluster.FenceRunning || rec.Text != failure):
		next.State, next.Text, next.Rounds = cluster.FenceFailed, failure, l.Rounds()
		e.Text = fmt.Sprintf("%s could not be proven off (L2); it is tried again", name)
		e.Why = fmt.Sprintf("%s; if you know that it is off: 'skein fence confirm %s'", failure, name)
	case failure != "" && rec.Text != failure:
		next.Text = failure
		e.Text, e.Why = fmt.Sprintf("%s is not proven off yet (L2)", name), failure
	case next.Cut != rec.Cut: // the next coordinator would not know that it has to be switched on again
	default:
		return
	}
	next.Changed = b.world.Wall()
	b.writeFence(now, f, next, []cluster.Condition{{Key: rec.Key(), Revision: rec.Revision}}, e)
}

// restart switches a machine on again that was running until this fenced it, so that a wrong suspicion costs
// a restart. It begins when the proof is committed and in use.
func (b *Brain) restart(now time.Duration, f *fencing, bmc *cluster.BMC, rec *cluster.Fence) {
	if bmc == nil || !rec.Cut || rec.Restarted || bmc.After == cluster.AfterOff || rec.Level != cluster.FencePower {
		return
	}
	if f.offAt == 0 {
		f.offAt = now
	}
	if f.restarting || now < f.offAt+restartAfter || now < f.retryAt || now < f.writeAt {
		return
	}
	names := wayNames(bmc)
	way := f.tries % len(names)
	f.restarting = true
	f.tries++
	b.power(rec.Node, fence.Command{Way: way, Do: fence.SwitchOn, Within: restartWithin}, func(a fence.Answer) {
		f.restarting = false
		f.retryAt = b.world.Now() + restartAfter
		cur := b.state.Fence(rec.Node)
		if b.coord.fences[rec.Node] != f || cur == nil || cur.BootID != f.boot || a.Err != "" && f.tries < restartTries {
			return
		}
		e := cluster.Event{Text: rec.Node + " is switched on again", Why: "it was running until it was fenced; a wrong suspicion costs a restart"}
		if a.Err != "" {
			e = cluster.Event{Text: rec.Node + " stays off", Why: fmt.Sprintf("%s, asked to switch it on again: %s", names[way], a.Err)}
		}
		next := *cur
		next.Restarted = true
		b.writeFence(b.world.Now(), f, next, []cluster.Condition{{Key: cur.Key(), Revision: cur.Revision}}, e)
	})
}
