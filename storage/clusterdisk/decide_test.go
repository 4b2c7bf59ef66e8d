package clusterdisk

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/takeover"
	"pgregory.net/rapid"
)

func voters(names ...string) []Voter {
	var list []Voter
	for _, n := range names {
		list = append(list, Voter{Name: n, MachineID: "m-" + n, BootID: n + ".1", Marked: true, Member: true})
	}
	return list
}

// rebooted are machines in a new boot.
func rebooted(names ...string) []Machine {
	var list []Machine
	for _, n := range names {
		list = append(list, Machine{Name: n, MachineID: "m-" + n, BootID: n + ".2", Fresh: true})
	}
	return list
}

// three is what three voters left at revision 70.
func three() Evidence {
	slots := []Copy{
		{Slot: 0, Node: "n1", Ledger: &Ledger{Incarnation: 2, Revision: 70}}, {Slot: 1, Node: "n2", Ledger: &Ledger{Incarnation: 2, Revision: 69}},
	}
	return Evidence{Cluster: "demo", Disks: []FoundDisk{{
		Name: "disk A", WWN: "naa.1", Voters: voters("n1", "n2", "n3"), Keys: []takeover.Key{{Node: 1, Epoch: 4}, {Node: 2, Epoch: 5}},
		Contents: &Contents{
			Header: Header{Cluster: "demo", ClusterID: "0123456789", WWN: "naa.1", Incarnation: 2},
			Owners: []*Owner{{Node: "n1", Generation: 4}, {Node: "n2", Generation: 5}, nil},
			Slots:  slots, Snapshots: []Copy{{Snapshot: true, Ledger: &Ledger{Incarnation: 2, Revision: 50}, Time: time.Unix(0, 0)}},
		},
	}}, Machines: rebooted("n1", "n2", "n3"), Epoch: 60}
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Evidence)
		want   Action
		text   string
		from   int64 // revision, of Restore
		lossy  bool
	}{
		{"all are back", func(e *Evidence) {}, Restore, "revision 70", 70, false},
		{"two of three are back", func(e *Evidence) { e.Machines = rebooted("n2", "n3") }, Restore, "", 70, false},
		{"one of three is back", func(e *Evidence) { e.Machines = rebooted("n2") }, Wait, "n1 has not been heard", 0, false},
		{"one never restarted", func(e *Evidence) {
			e.Machines = append(rebooted("n2"), Machine{Name: "n1", MachineID: "m-n1", BootID: "n1.1", Fresh: true})
		}, Wait, "n1 is in the boot in which it voted", 0, false},
		{"another machine with the name", func(e *Evidence) {
			e.Machines = append(rebooted("n2"), Machine{Name: "n1", MachineID: "m-x", BootID: "n1.2", Fresh: true})
		}, Wait, "calls itself n1", 0, false},
		{"one is a member somewhere", func(e *Evidence) {
			e.Machines = append(rebooted("n2"), Machine{Name: "n1", MachineID: "m-n1", BootID: "n1.2"})
		}, Wait, "n1 is in a cluster", 0, false},
		{"no disk", func(e *Evidence) { e.Disks = nil }, Found, "no cluster disk of demo", 0, false},
		{"the disk is not there yet", func(e *Evidence) {
			e.Disks, e.Missing = nil, []string{"portal 10.9.0.5 is not logged in"}
		}, Wait, "portal 10.9.0.5", 0, false},
		{"another cluster's disk", func(e *Evidence) { e.Disks[0].Contents.Header.Cluster = "theirs" }, Found, "", 0, false},
		{"a damaged header", func(e *Evidence) { e.Disks[0] = FoundDisk{Name: "disk A", Err: ErrDamaged} }, Refuse, "disk A: both copies", 0, false},
		{"a copy of the disk", func(e *Evidence) { e.Disks[0].WWN = "naa.2" }, Refuse, "a copy of naa.1", 0, false},
		{"two disks", func(e *Evidence) { e.Disks = append(e.Disks, three().Disks...) }, Refuse, "both cluster disks", 0, false},
		{"an old copy of itself: slots", func(e *Evidence) { e.Disks[0].Contents.Old = errors.New("slot 1 knows more") }, Refuse, "old copy of itself: slot 1", 0, false},
		{"an old copy of itself: keys", func(e *Evidence) { e.Disks[0].Keys[0].Epoch = 6 }, Refuse, "generation 6", 0, false},
		{"an old copy of itself: volumes", func(e *Evidence) { e.Epoch = 71 }, Refuse, "claimed in epoch 71", 0, false},
		{"a damaged slot", func(e *Evidence) { e.Disks[0].Contents.Slots[1].Damage = errors.New("slot 1 had revision 71") }, Refuse, "go on from revision 70", 0, false},
		{"no copy", func(e *Evidence) { e.Disks[0].Contents.Slots = nil }, Refuse, "go on from revision 50 of 1970-01-01 00:00:00 all the same, and lose what came later, boot the machines with skein.restore=2", 0, false},
		{"no copy and no snapshot, ordered", func(e *Evidence) {
			e.Disks[0].Contents.Slots, e.Disks[0].Contents.Snapshots, e.Order = nil, nil, &Order{2, "bob"}
		}, Refuse, "nothing to restore", 0, false},
		{"ordered, no copy", func(e *Evidence) { e.Disks[0].Contents.Slots, e.Order = nil, &Order{2, "bob"} }, Restore, "ordered by bob", 50, true},
		{"ordered, one machine", func(e *Evidence) { e.Machines, e.Order = rebooted("n2"), &Order{2, "bob"} }, Restore, "ordered by bob", 70, true},
		{"ordered, nothing lost", func(e *Evidence) { e.Order = &Order{2, "bob"} }, Restore, "ordered by bob", 70, false},
		{"an old order", func(e *Evidence) { e.Machines, e.Order = rebooted("n2"), &Order{1, "bob"} }, Wait, "n1 has not", 0, false},
		{"nobody votes", func(e *Evidence) { e.Disks[0].Voters = nil }, Wait, "names no voter", 0, false},
		{"the only voter is away", func(e *Evidence) {
			for i := range e.Disks[0].Voters {
				e.Disks[0].Voters[i].Member = i == 0
			}
			e.Machines = rebooted("n2", "n3")
		}, Wait, "n1 has not", 0, false},
		{"a lost one may still have it", func(e *Evidence) {
			e.Disks[0].Voters = append(voters("n1", "n2", "n3"), Voter{Name: "n4", MachineID: "m-n4", Member: true, Lost: true})
			e.Machines = rebooted("n1", "n2")
		}, Wait, "2 voters are here in a new boot, and 2 may", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := three()
			c.change(&e)
			v := Decide(e)
			if v.Action != c.want || !strings.Contains(v.String(), c.text) || v.Lossy != c.lossy {
				t.Fatalf("got %v (lossy %v), want %v with %q", v, v.Lossy, c.want, c.text)
			}
			if (v.Copy != nil && v.Action == Restore) != (c.from > 0) || c.from > 0 && v.Copy.Ledger.Revision != c.from {
				t.Errorf("copy %+v, want revision %d", v.Copy, c.from)
			}
		})
	}
}

func TestReadOrder(t *testing.T) {
	for line, want := range map[string]uint64{"": 0, "quiet skein.san=x": 0, "quiet skein.restore=7 x": 7, "skein.restore=": 0, "skein.restore=all": 0, "skein.restore=0": 0} {
		o, err := ReadOrder(line)
		if (err != nil) != (want == 0 && strings.Contains(line, OrderParameter)) || (o != nil) != (want > 0) || o != nil && o.Incarnation != want {
			t.Errorf("%q: got %+v, %v; want %d", line, o, err, want)
		}
	}
}

// TestNobodyHasItStill plays changes of voters in the order in which the store makes them, loses any nodes at any
// moment, and asks: if Decide restores, can a majority of those that really vote be left in their boots?
func TestNobodyHasItStill(t *testing.T) {
	restored := 0
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"n1", "n2", "n3", "n4", "n5"}
		votes := map[string]bool{"n1": true} // in truth
		told := map[string]*Voter{"n1": {Marked: true, Member: true}}
		for _, n := range names[1:] {
			told[n] = &Voter{}
		}
		removed := map[string]bool{} // taken out in truth, and the ledger does not say so yet
		for range rapid.IntRange(0, 25).Draw(t, "steps") {
			n := rapid.SampledFrom(names).Draw(t, "node")
			v := told[n]
			switch rapid.SampledFrom([]string{"mark", "promote", "note", "lose", "remove", "clear", "back"}).Draw(t, "step") {
			case "mark":
				v.Marked = v.Marked || !v.Lost
			case "promote":
				votes[n] = votes[n] || v.Marked && !v.Lost && !removed[n]
			case "note":
				v.Member = v.Member || votes[n]
			case "lose":
				v.Lost = true
			case "remove": // never the last one, and never one that is not lost
				if v.Lost && votes[n] && count(votes) > 1 {
					votes[n], removed[n] = false, true
				}
			case "clear":
				if v.Lost && !votes[n] {
					v.Marked, v.Member, removed[n] = false, false, false
				}
			case "back":
				if v.Lost && !votes[n] && !v.Marked {
					v.Lost = false
				}
			}
		}
		e := three()
		e.Disks[0].Voters, e.Machines = nil, nil
		alive := 0
		for _, n := range names {
			v := *told[n]
			v.Name, v.MachineID, v.BootID = n, "m-"+n, n+".1"
			e.Disks[0].Voters = append(e.Disks[0].Voters, v)
			if rapid.Bool().Draw(t, "rebooted "+n) {
				e.Machines = append(e.Machines, rebooted(n)...)
			} else if votes[n] {
				alive++
			}
		}
		if Decide(e).Action == Restore {
			restored++
			if 2*alive > count(votes) {
				t.Fatalf("restored while %d of the voters %v are alive: the ledger says %+v", alive, votes, e.Disks[0].Voters)
			}
		}
	})
	if restored == 0 {
		t.Error("nothing was ever restored")
	}
}

func count(m map[string]bool) (n int) {
	for _, v := range m {
		if v {
			n++
		}
	}
	return n
}

// TestTakeAlone: of any number that try, in any order of their steps, nobody writes between what another one has read
// and its header.
func TestTakeAlone(t *testing.T) {
	through := 0
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 4).Draw(t, "nodes")
		var keys []takeover.Key
		takes := make([]Take, n)
		own := make([]takeover.Key, n)
		for i := range takes {
			own[i] = takeover.Key{Node: uint8(i + 1), Epoch: 7}
			takes[i] = NewTake(own[i])
		}
		header, writer := 0, make([]int, n) // who wrote last, as each saw it when it read, -1: nobody
		last := -1
		for step := range 40 * n {
			i := rapid.IntRange(0, n-1).Draw(t, fmt.Sprintf("step %d", step))
			op, victim := takes[i].Next()
			ok, has := true, slices.Contains(keys, own[i])
			switch op {
			case TakeRegister:
				keys = append(keys, own[i])
			case TakePreempt:
				if ok = has && slices.Contains(keys, victim); ok {
					keys = slices.DeleteFunc(keys, func(k takeover.Key) bool { return k == victim })
				}
			case TakeKeys, TakeRead:
			default: // writes
				ok = has
			}
			switch {
			case op == TakeRead:
				writer[i] = last
			case (op == TakeCopy || op == TakeHeader) && ok:
				if last != writer[i] && last != i {
					t.Fatalf("%s of node %d after a write of node %d that it has not read", op, i+1, last+1)
				}
				if last = i; op == TakeHeader {
					header++
				}
			}
			takes[i].Done(ok, slices.Clone(keys))
		}
		through += header
	})
	if through == 0 {
		t.Error("nobody ever got through")
	}
}
