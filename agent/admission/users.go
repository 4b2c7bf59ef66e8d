package admission

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/skein-os/skein/agent/access"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// mostUsers bounds the list, which is part of every state.
const mostUsers = 1000

// Status is the HTTP status of a refusal.
func (r *refused) Status() int { return r.status }

func personStamp(meta *cluster.Meta, revision int64, st *cluster.State) pki.Stamp {
	return pki.Stamp{Incarnation: meta.Incarnation, Revision: revision, Age: st.Age.Hours}
}

// signer reads what is needed to sign.
func (s *Server) signer(ctx context.Context) (*pki.CA, *cluster.Meta, error) {
	fail := func(err error) (*pki.CA, *cluster.Meta, error) {
		return nil, nil, fmt.Errorf("this member cannot sign now: %w", err)
	}
	cert, err := s.ledger.Secret(ctx, secretCACert)
	if err != nil {
		return fail(err)
	}
	key, err := s.ledger.Secret(ctx, secretCAKey)
	if err != nil {
		return fail(err)
	}
	var meta cluster.Meta
	if rev, err := s.ledger.Get(ctx, cluster.KeyMeta, &meta); err != nil || rev == 0 {
		return fail(fmt.Errorf("the ledger has no cluster: %w", err))
	}
	ca, err := pki.ParseCA(cert, key)
	if err != nil {
		return fail(err)
	}
	return ca, &meta, nil
}

// writeUser adds a person, or, if more, a key to a person that is there, whose role stays. It returns the revision of
// the change and the state that it was decided on, with it.
func (s *Server) writeUser(ctx context.Context, u cluster.User, more bool, why string) (int64, *cluster.State, error) {
	u.Since = s.now().UTC()
	for {
		st, err := s.ledger.Read(ctx)
		if err != nil {
			return 0, nil, fmt.Errorf("this member cannot add a user now: %w", err)
		}
		next, rev := u, int64(0)
		if old := st.User(u.Name); old != nil {
			if !more {
				return 0, nil, refuse(http.StatusConflict, "%s is a user already, with the role %s: remove that one first with 'skein user rm %[1]s'", u.Name, old.Role)
			}
			next, rev = old.WithKey(u.Keys[0]), old.Revision
		} else if len(st.Users) >= mostUsers {
			return 0, nil, refuse(http.StatusConflict, "the cluster has %d users, its most", len(st.Users))
		}
		at, ok, err := s.ledger.Commit(ctx, cluster.Txn{
			Conditions: []cluster.Condition{{Key: u.Key(), Revision: rev}}, Puts: []cluster.Put{{Key: u.Key(), Value: next}},
			Events: []cluster.Event{{Time: s.now(), Node: s.node, Kind: cluster.EventCluster, Subject: u.Name,
				Text: fmt.Sprintf("%s was given a certificate, with the role %s", u.Name, next.Role), Why: why}}})
		if err != nil {
			return 0, nil, fmt.Errorf("this member cannot add a user now: %w", err)
		}
		if ok {
			with := *st
			with.Users = append(slices.DeleteFunc(slices.Clone(st.Users), func(o cluster.User) bool { return o.Name == u.Name }), next)
			return at, &with, nil
		}
	}
}

// AddUser adds a person who holds the key of a certificate request (DER), and signs it. The certificates are PEM.
func (s *Server) AddUser(ctx context.Context, name string, role pki.Role, der []byte, by string) (cert, ca []byte, err error) {
	if !validName.MatchString(name) {
		return nil, nil, refuse(http.StatusBadRequest, "name %q must be lower-case letters, digits and dashes, at most 63", name)
	}
	if !role.Person() {
		return nil, nil, refuse(http.StatusBadRequest, "role %q: must be %s, %s or %s", role, pki.RoleAdmin, pki.RoleOperator, pki.RoleReader)
	}
	csr, err := pki.ParseCSR(der)
	if err != nil {
		return nil, nil, refuse(http.StatusBadRequest, "%w", err)
	}
	hash, err := pki.KeyHash(csr.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	signer, meta, err := s.signer(ctx)
	if err != nil {
		return nil, nil, err
	}
	revision, st, err := s.writeUser(ctx, cluster.User{Name: name, Role: string(role), Keys: []string{hash}, By: by}, false, "asked by "+by)
	if err != nil {
		return nil, nil, err
	}
	cert, err = signer.SignPerson(csr, name, role, personStamp(meta, revision, st))
	return cert, signer.CertPEM(), err
}

// RemoveUser takes a person's certificates back, and the right to be given new ones with the token. The last
// administrator stays: nobody could add another.
func (s *Server) RemoveUser(ctx context.Context, name, by string) error {
	for {
		var seeds []byte
		seedsRev, err := s.ledger.Get(ctx, cluster.KeySecrets+secretOperators, &seeds)
		if err != nil {
			return fmt.Errorf("this member cannot remove a user now: %w", err)
		}
		var operators []string
		if err := json.Unmarshal(seeds, &operators); err != nil && len(seeds) > 0 {
			return fmt.Errorf("list of operators in the ledger: %w", err)
		}
		st, err := s.ledger.Read(ctx)
		if err != nil {
			return fmt.Errorf("this member cannot remove a user now: %w", err)
		}
		u := st.User(name)
		if u == nil {
			return refuse(http.StatusNotFound, "there is no user %q; 'skein user ls' lists them", name)
		}
		t := cluster.Txn{Conditions: []cluster.Condition{{Key: u.Key(), Revision: u.Revision}}, Deletes: []string{u.Key()},
			Events: []cluster.Event{{Time: s.now(), Node: s.node, Kind: cluster.EventCluster, Subject: name,
				Text: name + " is no user any more; what was open was closed", Why: "asked by " + by}}}
		if u.Role == string(pki.RoleAdmin) {
			i := slices.IndexFunc(st.Users, func(o cluster.User) bool { return o.Name != name && o.Role == string(pki.RoleAdmin) })
			if i < 0 {
				return refuse(http.StatusConflict, "%s is the last administrator: add another one first with 'skein user add NAME --role admin'", name)
			}
			// Two who remove each other at once: one of them stays.
			t.Conditions = append(t.Conditions, cluster.Condition{Key: st.Users[i].Key(), Revision: st.Users[i].Revision})
		}
		left := slices.DeleteFunc(slices.Clone(operators), func(h string) bool { return slices.Contains(u.Keys, h) })
		if len(left) != len(operators) {
			data, err := json.Marshal(left)
			if err != nil {
				return err
			}
			t.Conditions = append(t.Conditions, cluster.Condition{Key: cluster.KeySecrets + secretOperators, Revision: seedsRev})
			t.Puts = append(t.Puts, cluster.Put{Key: cluster.KeySecrets + secretOperators, Value: data})
		}
		if _, ok, err := s.ledger.Commit(ctx, t); err != nil {
			return fmt.Errorf("this member cannot remove a user now: %w", err)
		} else if ok {
			return nil
		}
	}
}

// Renew signs a certificate anew for who holds a good one: same name, same key. The answer is PEM. The caller of the
// request has been checked; old is the certificate that it came with.
func (s *Server) Renew(ctx context.Context, old *x509.Certificate, der []byte) ([]byte, error) {
	csr, err := pki.ParseCSR(der)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%w", err)
	}
	had, err := pki.KeyHash(old.PublicKey)
	if err != nil {
		return nil, err
	}
	if has, err := pki.KeyHash(csr.PublicKey); err != nil || has != had {
		return nil, refuse(http.StatusForbidden, "a certificate is renewed for the key that it is of, and for no other")
	}
	ca, meta, err := s.signer(ctx)
	if err != nil {
		return nil, err
	}
	for {
		st, err := s.ledger.Read(ctx)
		if err != nil {
			return nil, fmt.Errorf("this member cannot sign now: %w", err)
		}
		// Against the ledger as it is now: the caller was checked against a copy.
		role, name, err := access.Check(st, old)
		if err != nil {
			return nil, refuse(http.StatusForbidden, "%w", err)
		}
		if role.Person() {
			return ca.SignPerson(csr, name, role, personStamp(meta, st.Revision, st))
		}
		n := st.Node(name)
		if n == nil { // the certificate is newer than what was read
			return nil, refuse(http.StatusServiceUnavailable, "node %s is not in the ledger yet: ask again", name)
		}
		with := signing{serial: pki.NewSerial(), age: st.Age.Hours}
		known := st.Certs(name)
		certs := known.With(name, n.BootID, with.serial)
		cond := cluster.Condition{Key: certs.Key()}
		if known != nil {
			cond.Revision = known.Revision
		}
		var ok bool
		with.revision, ok, err = s.ledger.Commit(ctx, cluster.Txn{
			Conditions: []cluster.Condition{cond, {Key: n.Key(), Revision: n.Revision}}, Puts: []cluster.Put{{Key: certs.Key(), Value: certs}},
			Events: []cluster.Event{{Time: s.now(), Node: s.node, Kind: cluster.EventNode, Subject: name, Text: "the certificate of " + name + " was renewed",
				Why: fmt.Sprintf("each is good for %d days of the cluster's age, which is %d days", access.NodeLife/24, st.Age.Hours/24)}}})
		if err != nil {
			return nil, fmt.Errorf("this member cannot sign now: %w", err)
		}
		if ok {
			return ca.SignNode(csr, name, addresses(*meta, n), with.serial, stampOf(meta, n, with.revision, with.age))
		}
	}
}
