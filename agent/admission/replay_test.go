package admission

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/skein-os/skein/agent/pki"
)

// A recorded request of a machine that has the token gets nobody in on another connection, and it is an event.
func TestReplayedJoin(t *testing.T) {
	d := newDoor(t)
	r := request("n2", "2", "1")
	r.Version = Version
	var err error
	if r.CSR, err = pki.NewCSR(newKey(t), r.Name); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	connect := func() (*tls.Conn, []byte) {
		c, err := tls.Dial("tcp", d.addr.String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		cs := c.ConnectionState()
		ch, err := channel(&cs)
		if err != nil {
			t.Fatal(err)
		}
		return c, ch
	}
	first, at := connect()
	recorded := envelope{Body: body, Proof: proveRequest(d.token, at, body)}
	second, _ := connect()
	var re *Refused
	if _, err = exchange(second, d.addr, Path, recorded); !errors.As(err, &re) || re.Status != http.StatusUnauthorized || !d.told("somebody is between") {
		t.Errorf("got %v, want a refusal with status 401, and an event", err)
	}
	if d.ledger.node(t, "n2") != nil {
		t.Error("the replay was admitted")
	}
	if _, err = exchange(first, d.addr, Path, recorded); err != nil || d.ledger.node(t, "n2") == nil {
		t.Errorf("on its own connection: %v", err)
	}
}
