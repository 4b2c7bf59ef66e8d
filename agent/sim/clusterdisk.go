package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// riseBy is by how much the revision rises when the ledger is restored, as package store does it.
const riseBy = 1_000_000_000

// restoreFromDisk imitates what machines do that hear no cluster and find a cluster disk: the decision is the real
// one. Everything that was committed is on the disk, as no commit is acknowledged before. A machine that hears a
// member asks to join it instead, and whoever voted before and is still on is shut off from the disk, and restarts.
func (s *Sim) restoreFromDisk() {
	if s.leader != nil {
		return
	}
	st := s.Ledger.State()
	var voters []clusterdisk.Voter
	for i := range st.Nodes {
		n := &st.Nodes[i]
		voters = append(voters, clusterdisk.Voter{Name: n.Name, MachineID: n.Name, BootID: n.BootID, Marked: n.Voter, Member: n.Voter, Lost: n.State == cluster.NodeLost})
	}
	for _, m := range s.nodes {
		if m.stalled() || m.brain != nil || m.renounced {
			continue
		}
		e := clusterdisk.Evidence{Cluster: st.Meta.Name, Disks: []clusterdisk.FoundDisk{{
			Name: "the cluster disk", Voters: voters, Contents: &clusterdisk.Contents{
				Header: clusterdisk.Header{Cluster: st.Meta.Name, ClusterID: st.Meta.ID, Incarnation: st.Meta.Incarnation},
				Slots:  []clusterdisk.Copy{{Ledger: &clusterdisk.Ledger{Incarnation: st.Meta.Incarnation, Revision: st.Revision}}},
			},
		}}}
		member := false
		for _, o := range s.nodes {
			if o != m && (o.stalled() || !s.connected(m, o)) {
				continue
			}
			member = member || o.brain != nil
			e.Machines = append(e.Machines, clusterdisk.Machine{Name: o.name, MachineID: o.name, BootID: o.boot, Fresh: o.brain == nil})
		}
		if member {
			continue
		}
		if v := clusterdisk.Decide(e); v.Action == clusterdisk.Restore {
			s.restoreOn(m, v, e.Machines)
			return
		}
	}
}

func (s *Sim) restoreOn(m *machine, v clusterdisk.Verdict, heard []clusterdisk.Machine) {
	for _, o := range s.nodes {
		rec := s.Ledger.State().Node(o.name)
		if o.works() && o.agent && rec != nil && rec.Voter && rec.BootID == o.boot {
			s.stillVotes(m, o)
		}
	}
	s.Ledger.rise(uint64(v.Copy.Ledger.Incarnation))
	s.Restored++
	s.Logf("the ledger was restored on %s from the cluster disk, as its incarnation %d (%v)", m.name, s.Ledger.meta.Incarnation, v)
	st := s.Ledger.State()
	for i := range st.Nodes {
		n := st.Nodes[i]
		n.Voter = n.Name == m.name
		if !slices.ContainsFunc(heard, func(h clusterdisk.Machine) bool { return h.Name == n.Name }) {
			n.State, n.Reason = cluster.NodeLost, "it was not there when the ledger was restored from the cluster disk"
		}
		if n.Voter {
			old := n
			n = m.record(cluster.NodeJoining)
			n.Returns(&old)
			n.Voter = true
			n.Reason = "it asked to join in a new boot: the one before has ended"
		}
		s.Ledger.Commit(cluster.Txn{Puts: []cluster.Put{{Key: n.Key(), Value: n}}})
	}
	s.elect()
}

// stillVotes: a voter of before lives in the boot in which it votes. One is no majority, and finds out by its next
// sign of life on the disk; if a majority lives, the decision was wrong.
func (s *Sim) stillVotes(by, o *machine) {
	if all, up := s.seats(); 2*len(up) > all {
		s.violate("%s restored the ledger from the cluster disk, and %d of %d voters are alive, %s among them", by.name, len(up), all, o.name)
	}
	boot := o.boot
	s.after(s.between(0, time.Second), func() {
		if o.boot == boot && o.works() && o.agent && o.brain != nil {
			(&world{m: o, gen: o.gen}).Condemn("another node has taken the cluster disk")
			s.after(300*time.Millisecond, func() {
				if o.boot == boot && o.powered {
					o.powerOff()
					o.powerOn()
				}
			})
		}
	})
}

// rise makes the ledger that of the next incarnation.
func (l *Ledger) rise(incarnation uint64) {
	l.meta.RestoredFrom = l.revision
	l.meta.Incarnation = incarnation + 1
	l.revision += riseBy
	l.state = nil
}

// Blackout cuts the power of all machines within a time, and gives it back, one after the other in any order, with
// up to a pause between two.
func (s *Sim) Blackout(within, pause time.Duration) {
	s.Faults["blackout"]++
	s.Logf("--- the power of all machines fails within %v", within)
	for _, m := range s.nodes {
		s.after(s.between(0, within), func() {
			if m.powered {
				m.powerOff()
			}
		})
	}
	s.Run(within + time.Millisecond)
	for _, m := range s.nodes { // one may have come back by itself meanwhile
		if m.powered {
			m.powerOff()
		}
	}
	order := slices.Clone(s.nodes)
	s.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	at := time.Duration(0)
	for _, m := range order {
		at += s.between(0, pause)
		s.after(at, func() { s.PowerOn(m.name) })
	}
	s.Run(at + time.Millisecond)
}

// claimEpochs are the epochs of all claims, by their slot.
func (s *Sim) claimEpochs() map[string]uint64 {
	out := map[string]uint64{}
	for _, in := range s.Ledger.State().Instances {
		out[fmt.Sprintf("%s.%d", in.Service, in.Slot)] = in.Epoch
	}
	return out
}
