package agent

import (
	"encoding/json"
	"testing"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/clusterdisk"
)

func TestSlots(t *testing.T) {
	st := &cluster.State{
		LedgerDisk: &cluster.ClusterDisk{Slots: []string{"n1", "n2", "n3", ""}},
		Nodes:      []cluster.Node{{Name: "n1", Voter: true}, {Name: "n2", State: cluster.NodeLost, Voter: true}, {Name: "n3", MemberID: 3}, {Name: "n4"}},
	}
	if got := slotOf(st.LedgerDisk, "n3"); got != 2 {
		t.Errorf("slot of n3: %d", got)
	}
	if got := slotOf(st.LedgerDisk, "n4"); got != -1 {
		t.Errorf("slot of n4: %d", got)
	}
	if got := freeSlot(st, nil); got != 3 {
		t.Errorf("got slot %d, want the free one", got)
	}
	st.LedgerDisk.Slots[3] = "n5"
	st.Nodes = append(st.Nodes, cluster.Node{Name: "n5", Voter: true})
	if got := freeSlot(st, nil); got != 1 {
		t.Errorf("got slot %d, want the lost node's", got)
	}
	if got := freeSlot(st, &clusterdisk.Copy{Slot: 1}); got != -1 {
		t.Errorf("got slot %d, want none: the copy to restore from is in the only one", got)
	}
	value, err := json.Marshal(st.LedgerDisk)
	if err != nil {
		t.Fatal(err)
	}
	l := &clusterdisk.Ledger{Entries: []clusterdisk.Entry{{Key: []byte(cluster.KeyDisk), Value: value}}}
	if err := takeSlot(l, 1, "n4"); err != nil {
		t.Fatal(err)
	}
	var d cluster.ClusterDisk
	if err := json.Unmarshal(l.Get(cluster.KeyDisk), &d); err != nil || d.Slots[1] != "n4" || d.Slots[0] != "n1" {
		t.Errorf("got %v, %v", d.Slots, err)
	}
	if takeSlot(l, -1, "n4") == nil || takeSlot(&clusterdisk.Ledger{}, 0, "n4") == nil {
		t.Error("a slot that is not there was taken")
	}
}

// What the agent makes of beacons and of the ledger is what the decision wants to know.
func TestEvidence(t *testing.T) {
	machines := heardMachines([]admission.Beacon{
		{Name: "n1", Identity: admission.Identity{MachineID: "m1", BootID: "b1"}},
		{Name: "n2", Identity: admission.Identity{MachineID: "m2", BootID: "b2"}, ClusterID: "c"},
	})
	if len(machines) != 2 || !machines[0].Fresh || machines[1].Fresh || machines[0].BootID != "b1" {
		t.Errorf("machines %+v", machines)
	}
	list := voters(&cluster.State{Nodes: []cluster.Node{
		{Name: "n1", MachineID: "m1", BootID: "b0", Voter: true, MemberID: 1}, {Name: "n2", State: cluster.NodeLost, MemberID: 2}, {Name: "n3"},
	}})
	if len(list) != 3 || !list[0].Marked || !list[0].Member || list[0].Lost || !list[1].Lost || list[1].Marked || list[2].Member {
		t.Errorf("voters %+v", list)
	}
}
