package api

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

func TestLeavingIsInTheLedgerFirst(t *testing.T) {
	m := newMemory("n1")
	c, _ := serve(t, m, RoleOperator)
	if err := c.NodeAction(t.Context(), "n1", "reboot"); err != nil {
		t.Fatal(err)
	}
	if m.left != "reboot: asked by ann" || len(m.committed) != 1 {
		t.Fatalf("got %q and %d commits, want a reboot asked by ann and one commit", m.left, len(m.committed))
	}
	n := m.committed[0].Puts[0].Value.(cluster.Node)
	if n.Leaves() != "asked by ann" {
		t.Errorf("got a record that leaves because of %q, want that ann asked for it", n.Leaves())
	}
	n.BootID = "another"
	if n.Leaves() != "" {
		t.Error("the next boot is said to leave too")
	}
}

// TestLeavingWithoutLedger: a node can be rebooted while the ledger is frozen.
func TestLeavingWithoutLedger(t *testing.T) {
	m := newMemory("n1")
	m.frozen = errors.New("no quorum")
	c, _ := serve(t, m, RoleOperator)
	if err := c.NodeAction(t.Context(), "n1", "poweroff"); err != nil || m.left != "power off: asked by ann" {
		t.Errorf("got %v and %q, want it powered off all the same", err, m.left)
	}
}

func TestRelease(t *testing.T) {
	m := newMemory("n1")
	c, _ := serve(t, m, RoleOperator)
	if err := c.NodeAction(t.Context(), "n2", "release"); err == nil || !strings.Contains(err.Error(), "not in quarantine") {
		t.Errorf("release of a node that is free: got %v", err)
	}
	m.state.Nodes[1].Trouble = &cluster.Trouble{Ago: []time.Duration{0, 0, 0}, Term: time.Minute, Calm: 20 * time.Second, Times: 1}
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Healthy || !strings.Contains(strings.Join(st.Warnings, "\n"), "n2 is in quarantine for 40s more of calm, as it was lost 3 times within 10m0s") {
		t.Errorf("got healthy %v, warnings %q, want n2's quarantine among them", st.Healthy, st.Warnings)
	}
	if err := c.NodeAction(t.Context(), "n2", "release"); err != nil {
		t.Fatal(err)
	}
	txn := m.committed[0]
	n, e := txn.Puts[0].Value.(cluster.Node), txn.Events[0]
	if n.Trouble.Quarantined() || n.Trouble == nil || n.Trouble.Times != 1 || !strings.Contains(e.Why, "operator ann") {
		t.Errorf("got %+v with event %+v, want it released by ann, and the count kept", n.Trouble, e)
	}
	if want := (cluster.Condition{Key: n.Key(), Revision: 5}); txn.Conditions[0] != want {
		t.Errorf("got condition %+v, want %+v", txn.Conditions[0], want)
	}
}
