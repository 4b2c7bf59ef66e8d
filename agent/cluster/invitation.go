package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

// Invitation admits one machine, once, without being asked about: whoever shows the secret of which this is the hash.
type Invitation struct {
	Hash  string    `json:"hash"`           // SHA-256 of the secret, hexadecimal
	Name  string    `json:"name,omitempty"` // what the node is to be called; empty: as it asks
	Until int64     `json:"until_hours"`    // the cluster's age (Age) at which it ends
	By    string    `json:"by"`
	At    time.Time `json:"at"` // for people
}

// MaxInvitations bounds the list: it is a part of one record.
const MaxInvitations = 256

// HashInvitation is how the ledger names a secret. It is 256 random bits, so a plain hash keeps it.
func HashInvitation(secret string) string {
	sum := sha256.Sum256([]byte("skein invitation " + secret))
	return hex.EncodeToString(sum[:])
}

// Invitation finds one by its hash, nil if there is none. a may be nil.
func (a *Admission) Invitation(hash string) *Invitation {
	if a == nil {
		return nil
	}
	for i := range a.Invitations {
		if a.Invitations[i].Hash == hash {
			return &a.Invitations[i]
		}
	}
	return nil
}

// WithoutInvitation is a, which may be nil, without that one.
func (a *Admission) WithoutInvitation(hash string) Admission {
	next := a.Without("") // a copy
	next.Invitations = slices.DeleteFunc(slices.Clone(next.Invitations), func(i Invitation) bool { return i.Hash == hash })
	return next
}
