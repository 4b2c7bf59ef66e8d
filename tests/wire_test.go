package tests

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/qemu/owners"
)

// checkWire asks the lab's switches whether two machines ever answered for one address, and whether the one that the
// ledger has for a service is the one that answers for its address. They saw all that was done to the lab until now.
func (l *labTest) checkWire(service, address string) {
	l.t.Helper()
	st := l.await(service+" has an owner", func(st api.Status) bool { return l.owner(st, service) != "" })
	probed := l.probe("http://"+address+"/", 2*time.Second) // somebody must ask, or the wire knows nothing new
	if r := probed(); r.Requests == r.Failed {
		l.t.Errorf("%s does not answer", address)
	}
	var r owners.Report
	if err := json.Unmarshal([]byte(l.run("lab", "owners", "-o", "json")), &r); err != nil {
		l.t.Fatal(err)
	}
	if r.DoubleOwners != 0 {
		l.t.Errorf("%d double owners on the wire: %+v", r.DoubleOwners, r.Violations)
	}
	i := slices.IndexFunc(r.Addresses, func(a owners.Address) bool { return a.Address.String() == address })
	if i < 0 || r.Addresses[i].Answers == 0 {
		l.t.Fatalf("nobody was seen to answer for %s: %+v", address, r)
	}
	a := r.Addresses[i]
	if want := l.owner(st, service); a.Owner != want {
		l.t.Errorf("%s answers for %s on the wire, the ledger has %s", a.Owner, address, want)
	}
	for _, h := range a.Handovers {
		l.t.Logf("on the wire: %s from %q to %s, dark for %.0f ms", address, h.From, h.To, h.DarkMs)
	}
}
