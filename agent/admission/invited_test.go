package admission

import (
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

// An invitation admits one machine, once, and not after its end; who shows a used one waits, and that is an event.
func TestInvitation(t *testing.T) {
	d := newDoor(t)
	secret, late := strings.Repeat("5a", 32), strings.Repeat("6b", 32)
	d.decide(t, func(a *cluster.Admission) cluster.Admission {
		next := a.WithoutInvitation("")
		next.Invitations = append(next.Invitations, cluster.Invitation{Hash: cluster.HashInvitation(secret), Name: "db1", Until: 10, By: "ann"},
			cluster.Invitation{Hash: cluster.HashInvitation(late), Until: 5, By: "ann"})
		return next
	})
	if _, ok, err := d.ledger.Commit(t.Context(), cluster.Txn{Puts: []cluster.Put{{Key: cluster.KeyAge, Value: cluster.Age{Hours: 5}}}}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	key := newKey(t)
	shows := func(n, boot, secret string) Request {
		r := request("n"+n, n, boot)
		r.Invitation = secret
		return r
	}
	if _, err := Ask(t.Context(), d.addr, d.ca, newKey(t), shows("4", "1", late)); !isWaiting(err) {
		t.Errorf("one that has ended: got %v, want that it waits", err)
	}
	if _, err := Ask(t.Context(), d.addr, d.ca, newKey(t), shows("4", "1", strings.Repeat("00", 32))); !isWaiting(err) {
		t.Errorf("one that never was: got %v, want that it waits", err)
	}
	adm, err := Ask(t.Context(), d.addr, d.ca, key, shows("2", "1", secret))
	if err != nil || adm.Node.Name != "db1" || !d.told("an invitation of ann") {
		t.Fatalf("got %+v, %v, want db1 admitted", adm, err)
	}
	// The answer was lost: the machine that has used it asks again, with its key.
	if again, err := Ask(t.Context(), d.addr, d.ca, key, shows("2", "1", secret)); err != nil || again.Node.Name != "db1" {
		t.Errorf("the same machine again: got %+v, %v", again, err)
	}
	// Somebody who has copied the secret.
	if _, err := Ask(t.Context(), d.addr, d.ca, newKey(t), shows("3", "1", secret)); !isWaiting(err) || !d.told("shows an invitation that was used") {
		t.Errorf("another machine with it: got %v, want that it waits, and an event", err)
	}
	// The ledger does not hold the secret, and by the token nobody sends it.
	d.ledger.mu.Lock()
	defer d.ledger.mu.Unlock()
	for k, v := range d.ledger.records {
		if strings.Contains(string(v), secret) {
			t.Errorf("%s holds the secret", k)
		}
	}
}

// Two machines with one invitation at the same moment: one gets in.
func TestInvitationIsUsedOnce(t *testing.T) {
	d := newDoor(t)
	secret := strings.Repeat("5a", 32)
	d.decide(t, func(a *cluster.Admission) cluster.Admission {
		next := a.WithoutInvitation("")
		next.Invitations = append(next.Invitations, cluster.Invitation{Hash: cluster.HashInvitation(secret), Until: 10, By: "ann"})
		return next
	})
	ask := func(n string) error {
		r := request("n"+n, n, "1")
		r.Invitation = secret
		_, err := Ask(t.Context(), d.addr, d.ca, newKey(t), r)
		return err
	}
	var between error
	d.ledger.beforeCommit = func() { between = ask("3") }
	if err := ask("2"); err == nil || between != nil {
		t.Errorf("got %v for the one that was overtaken and %v for the other, want a refusal and none", err, between)
	}
	if d.ledger.node(t, "n2") != nil || d.ledger.node(t, "n3") == nil {
		t.Error("not exactly n3 was admitted")
	}
}
