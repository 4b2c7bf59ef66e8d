package access

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// Lives of certificates, hours of the cluster's age.
const (
	NodeLife   = 90 * 24
	PersonLife = 365 * 24
	// RenewAfter leaves two months in which a cluster that is not well may fail to renew.
	RenewAfter = NodeLife / 3
)

// Refused says why a certificate is not good any more, in words for whoever holds it.
type Refused struct {
	Who string // the name in the certificate
	Why string
}

func (r *Refused) Error() string { return r.Who + ": " + r.Why }

func refuse(who, format string, a ...any) error {
	return &Refused{Who: who, Why: fmt.Sprintf(format, a...)}
}

// Check tells what a certificate entitles to by this state of the ledger: a role and a name. TLS has checked that the
// cluster's CA signed it. The error is a *Refused.
func Check(st *cluster.State, c *x509.Certificate) (role pki.Role, name string, err error) {
	role, name = pki.RoleOf(c)
	if role == pki.RoleNone {
		return role, "", refuse("a stranger", "the certificate is neither a node's nor a person's")
	}
	if st == nil || st.Revision == 0 {
		return role, name, nil // nothing is known here yet
	}
	stamp, stamped := pki.StampOf(c)
	if stamped && stamp.Incarnation == st.Meta.Incarnation && stamp.Revision > st.Revision {
		return role, name, nil // this copy is older than the certificate
	}
	if role == pki.RoleNode {
		return role, name, checkNode(st, name, stamp, stamped)
	}
	u := st.User(name)
	hash, err := pki.KeyHash(c.PublicKey)
	switch {
	case err != nil:
		return pki.RoleNone, name, refuse(name, "%v", err)
	case !stamped:
		return pki.RoleNone, name, refuse(name, "the certificate says nothing of the ledger that it was signed by")
	case u == nil:
		return pki.RoleNone, name, refuse(name, "is no user of this cluster, or not any more ('skein user ls' shows them)")
	case !slices.Contains(u.Keys, hash):
		return pki.RoleNone, name, refuse(name, "is a user of this cluster, with another key")
	case st.Age.Hours-stamp.Age > PersonLife:
		return pki.RoleNone, name, refuse(name, "the certificate has ended: it was good for %d days of the cluster's age", PersonLife/24)
	}
	return pki.Role(u.Role), name, nil
}

func checkNode(st *cluster.State, name string, stamp pki.Stamp, stamped bool) error {
	n := st.Node(name)
	switch {
	case n == nil:
		if c := st.Certs(name); c != nil && c.Removed {
			return refuse(name, "was removed from the cluster")
		}
		return refuse(name, "is no node of this cluster")
	case !stamped: // of a version that wrote none: the node renews it as soon as its agent is newer
		return nil
	case stamp.Boot != pki.BootMark(n.BootID):
		return refuse(name, "the certificate is of another boot than the node's (%.8s): it is an old one, or the machine was copied", n.BootID)
	case st.Age.Hours-stamp.Age > NodeLife:
		return refuse(name, "the certificate has ended: it was good for %d days of the cluster's age", NodeLife/24)
	}
	return nil
}

// RenewalDue tells whether a node should have its certificate renewed, at the cluster's age in hours.
func RenewalDue(c *x509.Certificate, age int64) bool {
	stamp, ok := pki.StampOf(c)
	return !ok || age-stamp.Age >= RenewAfter
}

// IsRefused tells a certificate that is not good from other errors.
func IsRefused(err error) bool {
	var r *Refused
	return errors.As(err, &r)
}
