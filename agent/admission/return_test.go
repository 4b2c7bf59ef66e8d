package admission

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/seed"
)

// A node comes back with what a copy of its ledger has: the CA that founded the cluster, its number, a certificate.
func TestReturn(t *testing.T) {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := seed.Parse([]byte(`{"cluster":"demo","token":"` + strings.Repeat("ab", 32) + `","expect":1,"name":"n1"}`))
	if err != nil {
		t.Fatal(err)
	}
	req := Request{Name: "n1", MachineID: "machine-0001", BootID: "boot-0001"}
	founded, first, err := Found(s, req, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	copied := map[string][]byte{}
	for _, p := range first.Puts {
		if copied[p.Key], err = json.Marshal(p.Value); err != nil {
			t.Fatal(err)
		}
	}
	st := &cluster.State{Meta: founded.Meta, Revision: 1e9, Nodes: []cluster.Node{founded.Node}}
	get := func(k string) []byte { return copied[k] }
	req.BootID = "boot-0002"
	next, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Return(get, st, req, next)
	if err != nil {
		t.Fatal(err)
	}
	if string(back.CA) != string(founded.CA) || back.Node.Number != founded.Node.Number || back.Node.BootID != "boot-0002" ||
		string(back.HeartbeatKey) != string(founded.HeartbeatKey) || back.Meta.ID != founded.Meta.ID {
		t.Errorf("came back as %+v of %+v", back.Node, back.Meta)
	}
	if err := pki.CheckKeyPair(back.CA, back.Cert, back.Key); err != nil {
		t.Error(err)
	}
	req.MachineID = "machine-0002"
	if _, err := Return(get, st, req, next); err == nil || !strings.Contains(err.Error(), "does not know this machine") {
		t.Errorf("another machine: %v", err)
	}
	req.MachineID = "machine-0001"
	for _, k := range []string{secretCAKey, secretHeartbeat} {
		if _, err := Return(func(key string) []byte {
			if key == cluster.KeySecrets+k {
				return nil
			}
			return copied[key]
		}, st, req, next); err == nil {
			t.Errorf("came back without %s", k)
		}
	}
}
