package cluster

import "slices"

// Keys of what is known of certificates.
const (
	KeyAge   = KeyRoot + "age"    // Age; its name begins no other one
	KeyCerts = KeyRoot + "certs/" // certs/<node> -> NodeCerts; it outlasts the node's removal
	KeyUsers = KeyRoot + "users/" // users/<name> -> User
)

// Age is how long the cluster has had a coordinator, in hours, counted by coordinators on monotonic clocks. It is what
// the lives of certificates are measured with: it only rises, it stands still while the cluster is off, and no wall
// clock can make it jump.
type Age struct {
	Hours int64 `json:"hours"`

	Revision int64 `json:"-"`
}

// NodeCerts are the serial numbers of a node's certificates, oldest first, in hexadecimal digits.
type NodeCerts struct {
	Node    string   `json:"node"`
	BootID  string   `json:"boot_id"`           // of those in use
	Current []string `json:"current,omitempty"` // signed for that boot; a renewed one is for the same key, so those before stay
	Revoked []string `json:"revoked,omitempty"` // of earlier boots, and all of a node that was removed
	Removed bool     `json:"removed,omitempty"` // by an operator

	Revision int64 `json:"-"`
}

const (
	// mostCurrent and mostRevoked bound a record. The newest are kept. What is forgotten is refused all the same by all
	// that look at a certificate's stamp; only the port between voters goes by serial numbers.
	mostCurrent = 64 // of one boot: five years of renewals
	mostRevoked = 256
)

// Key is the ledger's key of the record.
func (c *NodeCerts) Key() string { return KeyCerts + c.Node }

// With is c, which may be nil, after a certificate was signed for a boot of the node: those of earlier boots end.
func (c *NodeCerts) With(node, bootID, serial string) NodeCerts {
	next := NodeCerts{Node: node, BootID: bootID, Current: []string{serial}}
	if c == nil {
		return next
	}
	next.Revoked = slices.Clone(c.Revoked)
	if c.BootID == bootID && !c.Removed {
		next.Current = append(slices.Clone(c.Current), serial)
		next.Current = next.Current[max(0, len(next.Current)-mostCurrent):]
	} else {
		next.Revoked = append(next.Revoked, c.Current...)
	}
	next.Revoked = next.Revoked[max(0, len(next.Revoked)-mostRevoked):]
	return next
}

// Without is c, which may be nil, after the node was removed.
func (c *NodeCerts) Without(node string) NodeCerts {
	next := NodeCerts{Node: node, Removed: true}
	if c != nil {
		next.BootID = c.BootID
		next.Revoked = append(slices.Clone(c.Revoked), c.Current...)
		next.Revoked = next.Revoked[max(0, len(next.Revoked)-mostRevoked):]
	}
	return next
}

// Certs finds what is known of a node's certificates, nil if nothing is.
func (s *State) Certs(node string) *NodeCerts {
	for i := range s.NodeCerts {
		if s.NodeCerts[i].Node == node {
			return &s.NodeCerts[i]
		}
	}
	return nil
}
