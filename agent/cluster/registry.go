package cluster

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Keys of the ledger that concern registries.
const (
	KeyRegistryUsers = KeyRoot + "registry/users/" // registry/users/<name> -> RegistryUser
	KeyRegistryHosts = KeyRoot + "registry/hosts/" // registry/hosts/<host> -> RegistryHost; its password is secret/registry/<host>
)

// PortRegistry is the cluster's own registry on every node: TCP, TLS.
const PortRegistry = 7702

// RegistryUser may use the cluster's registry.
type RegistryUser struct {
	Name string `json:"name"`
	// Hash is the SHA-256, in hex, of a password that the cluster has made. It has 128 random bits: nothing is gained by
	// trying, so it needs no salt and no slow function.
	Hash    string    `json:"hash"`
	Push    bool      `json:"push"` // he may push and delete, else only pull
	By      string    `json:"by"`   // the operator who made it
	Created time.Time `json:"created"`

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the user.
func (u *RegistryUser) Key() string { return KeyRegistryUsers + u.Name }

// PasswordHash is what is kept of a password.
func PasswordHash(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

// Admits tells whether a password is the user's, in a time that does not tell where it differs.
func (u *RegistryUser) Admits(password string) bool {
	return subtle.ConstantTimeCompare([]byte(u.Hash), []byte(PasswordHash(password))) == 1
}

// RegistryHost is how images are fetched from a registry outside.
type RegistryHost struct {
	Host string `json:"host"` // as in references, docker.io for those without a host
	// User logs in there; empty: nobody. The password is among the ledger's secrets, see RegistrySecret.
	User string `json:"user,omitempty"`
	// Mirrors are asked before it, in order: hosts, with a port if need be, that have the same repositories.
	Mirrors []string `json:"mirrors,omitempty"`

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the host.
func (h *RegistryHost) Key() string { return KeyRegistryHosts + h.Host }

// RegistrySecret is the name of a registry's password among the ledger's secrets.
func RegistrySecret(host string) string { return "registry/" + host }

var registryHost = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?$`)

// CheckRegistryHost tells whether a string can be a registry's host in a reference.
func CheckRegistryHost(host string) error {
	name, _, _ := strings.Cut(host, ":")
	switch {
	case !registryHost.MatchString(host):
		return fmt.Errorf("registry %.200q: it is a host, with a port if it is not 443, like registry.example.org:5000", host)
	case name == RegistryName:
		return fmt.Errorf("%s is the cluster's own registry; 'skein registry user' is for it", host)
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		return fmt.Errorf("registry %q: without a dot or a port it would be a part of an image's name", host)
	}
	return nil
}

// Check tells what is wrong with the record; nil if nothing is.
func (h *RegistryHost) Check() error {
	if err := CheckRegistryHost(h.Host); err != nil {
		return err
	}
	if len(h.User) > 255 || strings.ContainsAny(h.User, ":\r\n\x00") {
		return fmt.Errorf("registry %s: the user's name has characters that basic authentication cannot carry (RFC 7617)", h.Host)
	}
	for i, m := range h.Mirrors {
		if err := CheckRegistryHost(m); err != nil {
			return fmt.Errorf("registry %s: mirror: %w", h.Host, err)
		}
		if m == h.Host || slices.Contains(h.Mirrors[:i], m) {
			return fmt.Errorf("registry %s: mirror %s is there twice", h.Host, m)
		}
	}
	return nil
}

// RegistryUser finds a user of the cluster's registry, nil if there is none.
func (s *State) RegistryUser(name string) *RegistryUser {
	for i := range s.RegistryUsers {
		if s.RegistryUsers[i].Name == name {
			return &s.RegistryUsers[i]
		}
	}
	return nil
}

// RegistryHost finds how images are fetched from a registry, nil if nothing is known of it.
func (s *State) RegistryHost(host string) *RegistryHost {
	for i := range s.RegistryHosts {
		if s.RegistryHosts[i].Host == host {
			return &s.RegistryHosts[i]
		}
	}
	return nil
}
