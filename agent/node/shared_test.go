package node

import (
	"slices"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/shared"
)

// sharing is a stage with three nodes that have the file system files in generation 1.
func sharing(t *testing.T) (*stage, *cluster.State) {
	s, st := newStage(t, 3)
	st = next(st, func(st *cluster.State) {
		st.Meta.Network = cluster.DefaultNetwork
		rec := cluster.SharedRecord{Name: "files", Disk: "naa.1", Journals: 3, Ready: true, Revision: 50}
		rec.Membership.Generation = 1
		st.Reports = nil
		for i := range st.Nodes {
			n := &st.Nodes[i]
			n.Epoch = uint64(10 + i)
			m := st.SharedMember(n)
			rec.Membership.Members = append(rec.Membership.Members, m)
			st.Reports = append(st.Reports, cluster.SharedReport{FileSystem: "files", Node: n.Name, Report: shared.Report{Member: m, Stopped: 1, Started: 1}})
		}
		st.Shared = []cluster.SharedRecord{rec}
	})
	return s, st
}

// shares are the memberships in what was committed, and the conditions of the last one.
func shares(txns []cluster.Txn) (list []shared.Membership, cond []cluster.Condition) {
	for _, t := range txns {
		for _, p := range t.Puts {
			if r, ok := p.Value.(cluster.SharedRecord); ok {
				list, cond = append(list, r.Membership), t.Conditions
			}
		}
	}
	return list, cond
}

func holds(list []cluster.Condition, key string, revision int64) bool {
	for _, c := range list {
		if c.Key == key && c.Revision == revision {
			return true
		}
	}
	return false
}

// TestShareNeedsProof: a loss alone takes nobody out, power that is off does, if it was that boot's.
func TestShareNeedsProof(t *testing.T) {
	off := func(boot string) func(*cluster.State) {
		return func(st *cluster.State) {
			st.Fences = []cluster.Fence{{Node: "n3", BootID: boot, State: cluster.FenceOff}}
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*cluster.State)
		gone   bool
	}{
		{"lost", func(*cluster.State) {}, false},
		{"off", off("n3-1"), true},
		{"an earlier boot was off", off("n3-0"), false},
		{"being fenced", func(st *cluster.State) {
			st.Fences = []cluster.Fence{{Node: "n3", BootID: "n3-1", State: cluster.FenceRunning, By: "n2", ByBoot: "n2-1"}}
		}, false},
		{"back in a new boot", func(st *cluster.State) {
			st.Nodes[2].BootID, st.Nodes[2].Epoch, st.Nodes[2].State = "n3-2", 90, cluster.NodeOnline
		}, true},
		{"an older copy of the ledger", func(st *cluster.State) {
			st.Nodes[2].BootID, st.Nodes[2].Epoch = "n3-0", 5
		}, false},
		{"removed", func(st *cluster.State) { st.Nodes = st.Nodes[:2] }, false},
	} {
		s, st := sharing(t)
		st = next(lose(s, st, "n3"), tc.change)
		s.brain.Ledger(st, true)
		list, cond := shares(s.answer(true, nil))
		if !tc.gone {
			if len(list) != 0 {
				t.Errorf("%s: got %v, want no change", tc.name, list)
			}
			continue
		}
		if len(list) != 1 || list[0].Generation != 2 || len(list[0].Members) != 2 || len(list[0].Left) != 0 {
			t.Errorf("%s: got %v, want generation 2 without n3, which has failed", tc.name, list)
			continue
		}
		if !holds(cond, "/skein/shared/files", 50) {
			t.Errorf("%s: got conditions %v, want the record as it was", tc.name, cond)
		}
	}
}

// TestShareLetsIn: who asks in its present boot, and is not lost; not before the file system is made.
func TestShareLetsIn(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*cluster.State)
		in     bool
	}{
		{"asks", func(*cluster.State) {}, true},
		{"asked in another boot", func(st *cluster.State) { st.Nodes[2].Epoch = 90 }, false},
		{"asked and is lost", func(st *cluster.State) { st.Nodes[2].State = cluster.NodeLost }, false},
		{"not made yet", func(st *cluster.State) { st.Shared[0].Ready = false }, false},
		{"no journal", func(st *cluster.State) { st.Shared[0].Journals = 2 }, false},
		{"with another's address", func(st *cluster.State) {
			st.Reports[2].Report.Member.Address = st.Reports[1].Report.Member.Address
		}, false},
		{"in another's name", func(st *cluster.State) { st.Reports[2].Node = "n2" }, false},
	} {
		s, st := sharing(t)
		st = next(st, func(st *cluster.State) {
			st.Shared[0].Membership.Members = st.Shared[0].Membership.Members[:2]
			st.Reports[2].Report = shared.Report{Member: st.Reports[2].Report.Member, Wants: shared.WantJoin}
			tc.change(st)
		})
		s.brain.Ledger(st, true)
		list, cond := shares(s.answer(true, nil))
		if in := len(list) == 1 && len(list[0].Members) == 3; in != tc.in || len(list) > 1 {
			t.Errorf("%s: got %v, want it let in: %v", tc.name, list, tc.in)
		} else if in && !holds(cond, "/skein/nodes/n3", 3) {
			t.Errorf("%s: got conditions %v, want its own record as it was", tc.name, cond)
		}
	}
}

// TestShareOnlyTheCoordinator: nobody else writes the membership, and the coordinator waits for what it wrote.
func TestShareOnlyTheCoordinator(t *testing.T) {
	s, st := sharing(t)
	st = next(st, func(st *cluster.State) { st.Reports[1].Report.Wants = shared.WantLeave })
	s.brain.Ledger(st, false)
	s.pass(retry)
	if list, _ := shares(s.answer(true, nil)); len(list) != 0 {
		t.Errorf("not the coordinator: got %v", list)
	}
	s.brain.Ledger(st, true)
	s.pass(stuck / 2)
	list, _ := shares(s.answer(true, nil))
	if len(list) != 1 || len(list[0].Left) != 1 || list[0].Left[0].Node != "n2" {
		t.Errorf("got %v, want one membership that n2 has left", list)
	}
}

// TestShareIsForgotten: one that is to be removed lets nobody in, and is forgotten with its reports when it has no member.
func TestShareIsForgotten(t *testing.T) {
	for _, members := range []int{3, 0} {
		s, st := sharing(t)
		st = next(st, func(st *cluster.State) {
			st.Shared[0].Removing = true
			st.Shared[0].Membership.Members = st.Shared[0].Membership.Members[:members]
		})
		s.brain.Ledger(st, true)
		var gone []string
		for _, t := range s.answer(true, nil) {
			gone = append(gone, t.Deletes...)
		}
		if want := members == 0; slices.Contains(gone, "/skein/shared/files") != want || slices.Contains(gone, "/skein/reports/files/n2") != want {
			t.Errorf("%d members: got %v deleted", members, gone)
		}
	}
}
