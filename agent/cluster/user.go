package cluster

import (
	"slices"
	"time"
)

// User is a person who may call the API. The record decides, not the certificate: a role that is changed or taken away
// counts at once.
type User struct {
	Name string `json:"name"`
	Role string `json:"role"` // as package api has them: admin, operator or reader
	// Keys are the SHA-256 of the public keys that the person holds, hexadecimal, oldest first.
	Keys  []string  `json:"keys"`
	By    string    `json:"by"`    // who added the person
	Since time.Time `json:"since"` // for people

	Revision int64 `json:"-"`
}

// MostUserKeys is how many keys a person may hold; the oldest is forgotten.
const MostUserKeys = 8

// Key is the ledger's key of the record.
func (u *User) Key() string { return KeyUsers + u.Name }

// WithKey is u with a key, as the newest.
func (u *User) WithKey(hash string) User {
	next := *u
	next.Keys = append(slices.DeleteFunc(slices.Clone(u.Keys), func(k string) bool { return k == hash }), hash)
	next.Keys = next.Keys[max(0, len(next.Keys)-MostUserKeys):]
	return next
}

// User finds a person, nil if there is none of that name.
func (s *State) User(name string) *User {
	for i := range s.Users {
		if s.Users[i].Name == name {
			return &s.Users[i]
		}
	}
	return nil
}
