package admission

import (
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

// TestWitnessIsAdmitted: as what it says it is in this boot, and with no images to fetch.
func TestWitnessIsAdmitted(t *testing.T) {
	m := newMember(t, nil)
	req := request("w", "9", "1")
	req.Witness = true
	a, err := Join(t.Context(), m.addr, m.token, newKey(t), req)
	if err != nil {
		t.Fatal(err)
	}
	if n := m.ledger.node(t, "w"); !a.Node.Witness || !n.Witness {
		t.Errorf("got %+v, in the ledger %+v, want a witness", a.Node, n)
	}
	if e := m.ledger.events[len(m.ledger.events)-1]; !strings.Contains(e.Text, "a witness") {
		t.Errorf("got event %q", e.Text)
	}
	if _, err := Join(t.Context(), m.addr, m.token, newKey(t), request("w", "9", "2")); err != nil || m.ledger.node(t, "w").Witness {
		t.Errorf("started anew as a node: got %+v, %v", m.ledger.node(t, "w"), err)
	}
}

func TestWitnessFetchesNothing(t *testing.T) {
	st := &cluster.State{Revision: 7, Images: []cluster.Image{{Ref: "demo/web:1"}}}
	for _, witness := range []bool{false, true} {
		req := request("w", "9", "1")
		req.Witness = witness
		n, _, err := decideNode(st, &req)
		if err != nil || n.Fetching == witness {
			t.Errorf("witness %v: got fetching %v, %v", witness, n.Fetching, err)
		}
		st.Nodes = []cluster.Node{{Name: "w", MachineID: "machine-9", BootID: "an earlier one", State: cluster.NodeLost}}
		if n, _, err = decideNode(st, &req); err != nil || n.Fetching == witness {
			t.Errorf("again, witness %v: got fetching %v, %v", witness, n.Fetching, err)
		}
		st.Nodes = nil
	}
}
