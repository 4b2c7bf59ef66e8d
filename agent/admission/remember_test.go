package admission

import (
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

// A machine that keeps its key is approved once: its next boot is admitted, under the name that it was given. After its
// removal, or on another machine, the key is worth nothing.
func TestRememberedMachine(t *testing.T) {
	d := newDoor(t)
	key := newKey(t)
	code := Code(d.ca, keyHash(t, key))
	d.verdict(t, cluster.Verdict{Code: code, By: "ann", Approved: true, Name: "db1", Remember: true})
	machine := func(boot string) Request {
		r := request("node-2", "2", boot)
		r.Keeps = true
		return r
	}
	adm, err := Ask(t.Context(), d.addr, d.ca, key, machine("1"))
	if err != nil {
		t.Fatal(err)
	}
	if !adm.Keep || !d.told("comes back without being asked about") {
		t.Errorf("keep: got %v, want that it is told to, and an event", adm.Keep)
	}
	again, err := Ask(t.Context(), d.addr, d.ca, key, machine("2"))
	if err != nil || again.Node.Name != "db1" || again.Node.Epoch <= adm.Node.Epoch {
		t.Fatalf("its next boot: got %+v, %v, want db1 with a higher epoch", again, err)
	}
	// The key on a copied disk, or copied out of the firmware, on another machine.
	if _, err := Ask(t.Context(), d.addr, d.ca, key, request("db1", "9", "1")); err == nil || !d.told("its disk or memory was copied") {
		t.Errorf("another machine with the key: got %v, want a refusal and an event", err)
	}
	n := d.ledger.node(t, "db1")
	if _, ok, err := d.ledger.Commit(t.Context(), cluster.Txn{Deletes: []string{n.Key()}}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := Ask(t.Context(), d.addr, d.ca, key, machine("3")); !isWaiting(err) {
		t.Errorf("after its removal: got %v, want that it waits", err)
	}
	// One that cannot keep it is admitted this once.
	other := newKey(t)
	d.verdict(t, cluster.Verdict{Code: Code(d.ca, keyHash(t, other)), By: "ann", Approved: true, Remember: true})
	if adm, err := Ask(t.Context(), d.addr, d.ca, other, request("n3", "3", "1")); err != nil || adm.Keep || !d.told("it cannot keep its key") {
		t.Errorf("a machine without a place for its key: got %+v, %v", adm, err)
	}
}
