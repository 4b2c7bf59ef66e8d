package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func TestInvite(t *testing.T) {
	m := newMemory("n1")
	m.state.Age.Hours = 100
	m.state.Admission = &cluster.Admission{Revision: 3, Invitations: []cluster.Invitation{{Hash: "ended", Until: 100}, {Hash: "good", Until: 101}}}
	c, _ := serve(t, m, RoleAdmin)
	hash := cluster.HashInvitation("secret")
	for _, tt := range []struct {
		hash string
		q    NewInvitation
	}{{"none", NewInvitation{Hours: 1}}, {hash, NewInvitation{}}, {hash, NewInvitation{Hours: mostInvitationHours + 1}}, {hash, NewInvitation{Name: "N 4", Hours: 1}}} {
		var re *ResponseError
		if _, err := c.Invite(t.Context(), tt.hash, tt.q); !errors.As(err, &re) || re.Status != http.StatusBadRequest {
			t.Errorf("%+v: got %v, want status 400", tt, err)
		}
	}
	if len(m.committed) != 0 {
		t.Fatalf("committed %+v", m.committed)
	}
	inv, err := c.Invite(t.Context(), hash, NewInvitation{Name: "n4", Hours: 24})
	if err != nil || inv.Until != 124 || inv.By != "ann" {
		t.Fatalf("got %+v, %v, want one until the age of 124 hours", inv, err)
	}
	a, _ := m.committed[0].Puts[0].Value.(cluster.Admission)
	var hashes []string
	for _, i := range a.Invitations {
		hashes = append(hashes, i.Hash)
	}
	if got := strings.Join(hashes, " "); got != "good "+hash || m.committed[0].Conditions[0].Revision != 3 {
		t.Errorf("got %q on %+v, want the good one and the new one, on the record as it was", got, m.committed[0].Conditions)
	}
	m.state.Admission = &a
	if err := c.Uninvite(t.Context(), hash); err != nil {
		t.Fatal(err)
	}
	if a, _ := m.committed[1].Puts[0].Value.(cluster.Admission); len(a.Invitations) != 1 {
		t.Errorf("after it was taken back: %+v", a.Invitations)
	}
	if err := c.Uninvite(t.Context(), cluster.HashInvitation("another")); err == nil {
		t.Error("an invitation that is not there was taken back")
	}
}
