// Package seed reads the little that a machine must be told from outside before it can find its
// cluster: the cluster's name, a join token, how many nodes form it, whom to take orders from. In the
// lab it arrives through QEMU's firmware configuration device; nothing of it is on the command line or
// in the image.
package seed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"

	"github.com/skein-os/skein/agent/cluster"
)

// FwCfgName is the name of the firmware configuration file that holds a seed.
const FwCfgName = "opt/org.skein-os/seed"

// FwCfgPath is where the guest's kernel shows it (module qemu_fw_cfg).
const FwCfgPath = "/sys/firmware/qemu_fw_cfg/by_name/" + FwCfgName + "/raw"

// Seed is what a machine is told from outside.
type Seed struct {
	Cluster string `json:"cluster"` // the cluster's name
	// Token is the shared secret of the nodes that may join, 32 random bytes in hex. It is never sent:
	// both sides prove that they know it.
	Token string `json:"token"`
	// Expect is how many fresh nodes must see each other before the first of them forms the cluster.
	// A node that reboots alone can therefore never form a second one.
	Expect  int          `json:"expect"`
	Role    string       `json:"role,omitempty"`   // RoleNode, the default, or RoleWitness
	Name    string       `json:"name"`             // this node's name, empty: derived from its machine id
	Network netip.Prefix `json:"network,omitzero"` // the cluster's /16, cluster.DefaultNetwork if absent
	// Operators are SHA-256 hashes (hex) of the public keys (SPKI, DER) that are given operator
	// certificates.
	Operators []string          `json:"operators,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// ErrNone: the machine was given no seed.
var ErrNone = errors.New("this machine was given no seed: start it with one (firmware configuration " + FwCfgName + ")")

// validName is what nodes and clusters may be called: a DNS label, as it is used in host names.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Read reads the seed of this machine from path (FwCfgPath on a node).
func Read(path string) (*Seed, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read seed: %w", err)
	}
	return Parse(data)
}

// Parse reads and checks a seed. Unknown fields are refused: a misspelt one would be silently lost.
func Parse(data []byte) (*Seed, error) {
	var s Seed
	dec := json.NewDecoder(bytes.NewReader(bytes.TrimRight(data, "\x00\n ")))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("seed is not valid JSON of the known fields: %w", err)
	}
	if !validName.MatchString(s.Cluster) {
		return nil, fmt.Errorf("seed: cluster name %q must be lower-case letters, digits and dashes", s.Cluster)
	}
	if err := checkRole(s.Role); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	if s.Name != "" && !validName.MatchString(s.Name) {
		return nil, fmt.Errorf("seed: node name %q must be lower-case letters, digits and dashes", s.Name)
	}
	if raw, err := hex.DecodeString(s.Token); err != nil || len(raw) != 32 {
		return nil, errors.New("seed: token must be 64 hex digits")
	}
	if s.Expect < 1 || s.Expect > 64 {
		return nil, fmt.Errorf("seed: expect is %d, must be 1 to 64 nodes", s.Expect)
	}
	if !s.Network.IsValid() {
		s.Network = cluster.DefaultNetwork.Prefix
	}
	if !s.Network.Addr().Is4() || s.Network.Bits() != 16 || s.Network.Masked() != s.Network {
		return nil, fmt.Errorf("seed: network %s must be an IPv4 /16", s.Network)
	}
	for _, o := range s.Operators {
		if raw, err := hex.DecodeString(o); err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("seed: operator %q must be 64 hex digits (SHA-256 of a public key)", o)
		}
	}
	return &s, nil
}
