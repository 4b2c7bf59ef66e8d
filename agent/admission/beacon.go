package admission

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// BeaconMagic begins every beacon; heartbeats on the same port begin otherwise.
const BeaconMagic = "SKB1"

// maxBeacon is the longest datagram that is sent or read as a beacon: one Ethernet frame.
const maxBeacon = 1400

// Identity is one boot of one machine.
type Identity struct {
	MachineID string `json:"m"`
	BootID    string `json:"b"`
}

// Beacon is what a machine calls out on every link, to be found.
type Beacon struct {
	Cluster string `json:"cluster"`
	Name    string `json:"name"`
	Identity
	// Counter only rises within a boot: datagrams overtake each other, and an older one tells less.
	Counter uint64 `json:"n"`
	// Addrs are the machine's own addresses on its links; a member takes requests to join there.
	Addrs []netip.Addr `json:"addrs,omitempty"`
	// ClusterID is set by members, and by nobody else.
	ClusterID string `json:"id,omitempty"`

	// The rest is of fresh machines.

	Expect int `json:"expect,omitempty"`
	// Term of this machine's own candidacy. Raising it gives up the candidacy in all earlier terms, for ever.
	Term uint64 `json:"term,omitempty"`
	// Vote is the candidacy that this machine wants to found the cluster; see Formation.
	Vote Candidacy `json:"vote,omitzero"`
}

// Candidacy is what votes are given to: one boot of one machine, in one term.
type Candidacy struct {
	Identity
	Term uint64 `json:"t"`
}

// candidacy is the sender's own.
func (b *Beacon) candidacy() Candidacy { return Candidacy{b.Identity, b.Term} }

// Member tells that the sender is in a cluster.
func (b *Beacon) Member() bool { return b.ClusterID != "" }

// Encode makes the datagram: magic, HMAC-SHA256 of the rest, JSON.
func (b *Beacon) Encode(t Token) ([]byte, error) {
	body, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("beacon: %w", err)
	}
	out := append([]byte(BeaconMagic), t.mac(purposeBeacon, body)...)
	out = append(out, body...)
	if len(out) > maxBeacon {
		return nil, fmt.Errorf("beacon of %d bytes is longer than %d", len(out), maxBeacon)
	}
	return out, nil
}

// Errors of DecodeBeacon.
var (
	ErrNoBeacon    = errors.New("not a beacon")
	ErrWrongToken  = errors.New("beacon was not made with this cluster's token")
	ErrBeaconShape = errors.New("beacon of a strange shape")
)

// DecodeBeacon reads a datagram. Nothing of it is parsed before its HMAC was found right.
func DecodeBeacon(t Token, data []byte) (*Beacon, error) {
	if len(data) < len(BeaconMagic)+sha256.Size || len(data) > maxBeacon || !bytes.HasPrefix(data, []byte(BeaconMagic)) {
		return nil, ErrNoBeacon
	}
	sum, body := data[len(BeaconMagic):len(BeaconMagic)+sha256.Size], data[len(BeaconMagic)+sha256.Size:]
	if !hmac.Equal(sum, t.mac(purposeBeacon, body)) {
		return nil, ErrWrongToken
	}
	var b Beacon
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBeaconShape, err)
	}
	if !validName.MatchString(b.Cluster) || !validName.MatchString(b.Name) || !validID.MatchString(b.MachineID) || !validID.MatchString(b.BootID) || len(b.Addrs) > 16 {
		return nil, ErrBeaconShape
	}
	return &b, nil
}
