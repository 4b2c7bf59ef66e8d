package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/access"
	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/store"
)

const (
	// renewalEvery is how often a node looks whether its certificate should be renewed.
	renewalEvery = time.Minute
	renewalTime  = 15 * time.Second // for one attempt
)

// revokedFile is the list that etcd reads at handshakes between voters.
const revokedFile = "pki/revoked.crl"

// keepCertificates counts the cluster's age while this node coordinates, and has this node's certificate renewed in time.
func (p *parts) keepCertificates(ctx context.Context) {
	tick := time.NewTicker(renewalEvery)
	defer tick.Stop()
	var hour hourCounter
	failed := ""
	for {
		err := errors.Join(p.countAge(ctx, &hour, time.Now()), p.renew(ctx))
		if err == nil {
			failed = ""
		} else if ctx.Err() == nil && err.Error() != failed {
			failed = err.Error()
			p.a.log.Warn("this node's certificate, or the cluster's age", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hourCounter tells when an hour of coordinating is over. Pure.
type hourCounter struct{ since time.Time }

// due takes the time now, of a monotonic clock.
func (h *hourCounter) due(leads bool, now time.Time) bool {
	switch {
	case !leads:
		h.since = time.Time{}
	case h.since.IsZero():
		h.since = now
	case now.Sub(h.since) >= time.Hour:
		h.since = h.since.Add(time.Hour)
		return true
	}
	return false
}

// countAge adds an hour to the cluster's age for each that this node has coordinated. What is left of an hour when the
// coordinator changes is lost: lives of certificates end later by that, never earlier.
func (p *parts) countAge(ctx context.Context, h *hourCounter, now time.Time) error {
	if !h.due(p.store.Leader(), now) {
		return nil
	}
	age := p.state.Load().Age
	_, _, err := p.store.Commit(ctx, cluster.Txn{
		Conditions: []cluster.Condition{{Key: cluster.KeyAge, Revision: age.Revision}},
		Puts:       []cluster.Put{{Key: cluster.KeyAge, Value: cluster.Age{Hours: age.Hours + 1}}},
	})
	return err
}

// renew has this node's certificate signed anew, if it is time. The key stays, so one file is replaced, which servers
// and clients read at each handshake; connections that this node has opened are opened anew.
func (p *parts) renew(ctx context.Context) error {
	st := p.state.Load()
	cert, err := readCert(p.m.files.Cert)
	if err != nil {
		return err
	}
	if st.Revision == 0 || !access.RenewalDue(cert, st.Age.Hours) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, renewalTime)
	defer cancel()
	keyPEM, err := os.ReadFile(p.m.files.Key)
	if err != nil {
		return err
	}
	key, err := pki.ParseKey(keyPEM)
	if err != nil {
		return err
	}
	csr, err := pki.NewCSR(key, p.a.id.Name)
	if err != nil {
		return err
	}
	signed, err := p.signed(ctx, st, cert, csr)
	if err != nil {
		return fmt.Errorf("renew the certificate: %w", err)
	}
	if err := pki.CheckKeyPair(p.m.CA, signed, keyPEM); err != nil {
		return fmt.Errorf("renew the certificate: what was signed is of no use: %w", err)
	}
	if err := p.m.files.Renew(signed); err != nil {
		return err
	}
	p.peers.renewed()
	p.store.Reconnect()
	p.a.log.Info("this node's certificate was renewed")
	return nil
}

// signed asks the coordinator, which is a voter; there is none for a moment now and then.
func (p *parts) signed(ctx context.Context, st *cluster.State, cert *x509.Certificate, csr []byte) ([]byte, error) {
	name := p.store.Coordinator()
	if name == p.a.id.Name {
		return p.join.Renew(ctx, cert, csr)
	}
	n := st.Node(name)
	if n == nil {
		return nil, errors.New("there is no coordinator at the moment")
	}
	c := api.Client{Endpoints: []string{p.peers.url(n)}, HTTP: &http.Client{Transport: p.peers.transport}}
	out, err := c.RenewCertificate(ctx, csr)
	return out.Cert, err
}

func readCert(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("this node's certificate: %w", err)
	}
	return pki.ParseCert(data)
}

// enforce has this node's servers go by a new state of the ledger. It is called before anything else is done with it.
func (p *parts) enforce(st *cluster.State) {
	p.a.gate.Update(st)
	defer func() { p.enforced = true }()
	var serials []string
	removed := 0
	for i := range st.NodeCerts {
		c := &st.NodeCerts[i]
		serials = append(serials, c.Revoked...)
		if c.Removed {
			removed++
		}
	}
	if slices.Equal(serials, p.revoked) {
		return
	}
	if err := store.WriteRevoked(p.a.path(revokedFile), serials); err != nil {
		p.a.log.Error("voters may be reached with revoked certificates", "err", err)
		return
	}
	// After a mere reboot nobody is there with the old certificate, and the cluster has other things to do.
	if drop := removed > p.removed && p.enforced; drop {
		if err := p.store.DropPeers(); err != nil {
			p.a.log.Error("connections with revoked certificates may be open", "err", err)
		}
	}
	p.revoked, p.removed = serials, removed
}

// newDoor makes what admits machines and signs certificates on this node.
func (p *parts) newDoor() *admission.Server {
	d := admission.NewServer(p.a.id.Name, p.store, p.a.log.With("part", "admission"))
	d.Heard = p.heard
	return d
}
