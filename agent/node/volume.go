package node

import (
	"fmt"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/takeover"
)

const (
	// auditEvery is between two looks at the keys of a volume that is written.
	auditEvery = time.Second
	// diskPatience is for how long a disk may give no answer before its instance is given up here: another
	// node may have a path to it. The planner's back-off keeps that from becoming a race round the cluster. A target that
	// is started anew answers again after some 4 s, of which the initiator's log-in takes most: I/O waits for that.
	diskPatience = 10 * time.Second
)

// volume is one reserved volume of an assignment.
type volume struct {
	cluster.Volume
	s        takeover.Storage
	key      takeover.Key
	busy     bool
	at       time.Duration // not before
	answered time.Duration // the disk's last outcome
	waits    string        // what for, a clause
}

// reserve begins with the volumes of a claim that was just read from the ledger. Resumed: an earlier agent
// of this boot may have been at it, so that nothing may be registered any more.
func (b *Brain) reserve(a *assignment, in *cluster.Instance, resumed bool) {
	if in.Spec.Safety != cluster.SafetyStorage {
		return
	}
	key := takeover.Key{Node: b.self.Number, Epoch: in.Epoch}
	for _, v := range in.Spec.Volumes {
		w := &volume{Volume: v, key: key, s: takeover.NewStorage(key), answered: b.world.Now(), waits: "its key is not registered yet"}
		if resumed {
			w.s = takeover.ResumeStorage(key)
		}
		a.volumes = append(a.volumes, w)
	}
	st := b.state.Status(in.ID)
	a.ran = resumed && st != nil && st.State != cluster.InstancePending
	if len(a.volumes) == 0 {
		a.lost = "it has no volume, so nothing keeps another node from writing what it writes"
	}
}

// reserved tells whether the instance may write its volumes. What an earlier agent started goes on while
// its keys are looked at.
func (a *assignment) reserved() bool {
	return a.ran || !slices.ContainsFunc(a.volumes, func(v *volume) bool {
		op, _ := v.s.Next()
		return op != takeover.MayWrite
	})
}

// order is the instance as the runner gets it: of one that lost a volume, stopped with no grace.
func (a *assignment) order(stop bool) cluster.Instance {
	in := a.in
	in.Stop = stop
	if a.lost != "" {
		in.Stop, in.Spec.StopGrace = true, cutGrace
	}
	return in
}

// cutGrace is the grace of an instance that has lost a volume: none.
const cutGrace = time.Nanosecond

// CutOff tells whether an instance of World.Run's list has lost a volume: it must be killed, and what it has not
// written is not to be written any more.
func CutOff(in *cluster.Instance) bool {
	return in.Stop && in.Spec.StopGrace == cutGrace && len(in.Spec.Volumes) > 0
}

// cutOff is what becomes of a report when the instance has lost a volume: it is not merely stopped, the
// slot needs a new claim. Not before it has really ended: the next claim may be this node's again, with a
// key that would let the rest of it write.
func (a *assignment) cutOff(st cluster.Status) cluster.Status {
	if a.lost == "" || st.State == cluster.InstanceComplete {
		return st
	}
	st.Message = a.lost
	if st.State.Ended() {
		st.State = cluster.InstanceFailed
	} else {
		st.State = cluster.InstanceStopping
	}
	return st
}

// takeVolumes moves the volumes of this node's instances on.
func (b *Brain) takeVolumes(now time.Duration) {
	for _, a := range b.order {
		if a.lost != "" || !a.takeover.MayRun(a.in.Spec.Safety) {
			continue
		}
		for _, v := range a.volumes {
			b.takeVolume(now, a, v)
		}
		if a.lost == "" && !a.reserved() && !a.in.Stop {
			b.setStatus(a, cluster.Status{ID: a.in.ID, State: cluster.InstancePending, Message: "not started: " + a.waitsFor()})
		}
	}
}

// waitsFor says which disk is waited for, and why.
func (a *assignment) waitsFor() string {
	for _, v := range a.volumes {
		if op, _ := v.s.Next(); op != takeover.MayWrite {
			return fmt.Sprintf("waits for disk %s: %s", v.Disk, v.waits)
		}
	}
	return ""
}

func (b *Brain) takeVolume(now time.Duration, a *assignment, v *volume) {
	op, victim := v.s.Next()
	// Who is being stopped takes no more, but what it writes is looked after to the end.
	if v.busy || now < v.at || a.in.Stop && op != takeover.MayWrite {
		return
	}
	switch op {
	case takeover.GiveUp:
	case takeover.VerifyClaim:
		b.verifyVolume(a, v)
	case takeover.MayWrite:
		v.at = now + auditEvery
		b.volume(a, v, takeover.ReadKeys, takeover.Key{}, func(ok bool, keys []takeover.Key) {
			if !ok {
				keys = nil
			}
			v.s.Audit(keys)
			if op, _ := v.s.Next(); op == takeover.GiveUp {
				b.lose(a, v, "its key is gone: another claim, or the disk, took it away")
				return
			}
			if k, is := takeover.Foreign(v.key, keys); is {
				b.explainForeign(a, v, k)
				b.volume(a, v, takeover.PreemptAbort, k, func(bool, []takeover.Key) {})
			}
		})
	default:
		if op == takeover.PreemptAbort {
			v.waits = fmt.Sprintf("key of %s is still registered", b.holder(victim))
		}
		b.volume(a, v, op, victim, func(ok bool, keys []takeover.Key) {
			v.s.Done(ok, keys)
			if next, _ := v.s.Next(); next != takeover.GiveUp {
				return
			}
			i := slices.IndexFunc(keys, func(k takeover.Key) bool { return k != v.key && k.Epoch >= v.key.Epoch })
			if i < 0 {
				b.lose(a, v, fmt.Sprintf("the disk refused to %s", op))
				return
			}
			// The key stays: a reservation may end with its holder's, and the newer claim preempts it by name.
			b.lose(a, v, "a newer claim has its key there, of "+b.holder(keys[i]))
		})
	}
}

// volume gives an order for a disk. Without an outcome it is given again.
func (b *Brain) volume(a *assignment, v *volume, op takeover.StorageOp, victim takeover.Key, done func(ok bool, keys []takeover.Key)) {
	v.busy = true
	b.nextID++
	b.volumes[b.nextID] = func(ok bool, keys []takeover.Key, err error) {
		now := b.world.Now()
		v.busy = false
		if err != nil {
			v.at, v.waits = now+retry, err.Error()
			if now-v.answered > diskPatience {
				b.lose(a, v, fmt.Sprintf("it gave no answer for %v: %v", diskPatience, err))
			}
			return
		}
		v.answered = now
		done(ok, keys)
	}
	b.world.Volume(b.nextID, v.Volume, op, v.key, victim)
}

// VolumeDone takes the outcome of World.Volume: ok is false if the disk answered with a conflict, keys are
// what ReadKeys found; with err the outcome is not known.
func (b *Brain) VolumeDone(id uint64, ok bool, keys []takeover.Key, err error) {
	done := b.volumes[id]
	delete(b.volumes, id)
	if done == nil || b.ended != "" {
		return
	}
	done(ok, keys, err)
	b.think()
}

// VolumeConflict tells that a disk refused an instance's write, or says that it was reset or that keys were
// preempted. What was proven is proven no more.
func (b *Brain) VolumeConflict(instance, disk, what string) {
	a := b.mine[instance]
	if a == nil || b.ended != "" {
		return
	}
	for _, v := range a.volumes {
		if v.Disk == disk {
			v.s.Attention()
			b.lose(a, v, what)
		}
	}
	b.think()
}

// lose ends an instance whose volume is not its own any more.
func (b *Brain) lose(a *assignment, v *volume, why string) {
	if a.lost == "" {
		a.lost = fmt.Sprintf("disk %s cannot be used here any more: %s", v.Disk, why)
	}
}

// verifyVolume is the write to the ledger that only the owner of the slot can have committed.
func (b *Brain) verifyVolume(a *assignment, v *volume) {
	v.busy, v.waits = true, "the ledger has not confirmed the claim yet"
	st := b.statusOf(a)
	b.commit(cluster.Txn{
		Conditions: []cluster.Condition{{Key: a.in.SlotKey(), Revision: int64(a.in.Epoch)}},
		Puts:       []cluster.Put{{Key: st.Key(), Value: st}},
	}, func(ok bool, err error) {
		now := b.world.Now()
		v.busy, v.answered = false, now
		if err != nil {
			v.at = now + retry/4
			return
		}
		if v.s.Done(ok, nil); !ok {
			b.lose(a, v, "the slot has another owner by now")
		}
	})
}

// holder names whose key it is.
func (b *Brain) holder(k takeover.Key) string {
	for i := range b.state.Nodes {
		if n := &b.state.Nodes[i]; n.Number == k.Node {
			return n.Name
		}
	}
	return fmt.Sprintf("a stranger (number %d)", k.Node)
}

func (b *Brain) explainForeign(a *assignment, v *volume, k takeover.Key) {
	b.world.Explain(cluster.Event{
		Node: b.self.Name, Time: b.world.Wall(), Kind: cluster.EventFence, Subject: a.in.Stack + "/" + a.in.Service,
		Text: fmt.Sprintf("the key of %s on disk %s is preempted", b.holder(k), v.Disk),
		Why:  "it was registered though the disk is " + a.in.ID + "'s",
	})
}
