package reserve

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/skein-os/skein/agent/takeover"
)

// Key is a reservation key as the disk has it. Zero is no key.
//
//	bits 63..48  tag of the cluster: from SHA-256 of its ID, never 0 and never 0xffff
//	bits 47..40  number of the node, 1..250; 0 is the self-test's
//	bits 39..0   the claim's epoch, modulo 2^40
//
// The epoch is the ledger's revision, which rises over reboots and restores of the ledger too, so the key
// says node, life and claim at once: no two claims have the same one.
type Key uint64

func (k Key) String() string { return fmt.Sprintf("0x%016x", uint64(k)) }

const (
	epochBits = 40
	epochMask = 1<<epochBits - 1
	nodeShift = epochBits
	tagShift  = 48
)

// testNode is the node number in keys of the self-test; no node has it.
const testNode = 0

// Codec makes and reads the keys of one cluster.
type Codec struct {
	tag uint16
}

// NewCodec returns the codec of the cluster with this ID. The ID must be the one of the cluster's
// formation, which is random, and not the name that people gave it: names are the same twice.
func NewCodec(clusterID string) (Codec, error) {
	if clusterID == "" {
		return Codec{}, errors.New("reservation keys need the cluster's ID")
	}
	h := sha256.Sum256([]byte("skein reservation key " + clusterID))
	// 0 and 0xffff are left out: small numbers, and all ones, are what other programs take for keys.
	tag := 1 + binary.BigEndian.Uint64(h[:])%0xfffe
	return Codec{tag: uint16(tag)}, nil
}

// Encode makes the key of a claim. Node 0 is refused: its keys are the self-test's.
func (c Codec) Encode(k takeover.Key) (Key, error) {
	if c.tag == 0 {
		return 0, errors.New("reservation keys need a codec of NewCodec")
	}
	if k.Node == testNode || k.Epoch == 0 {
		return 0, fmt.Errorf("no reservation key for node %d, epoch %d: both start at 1", k.Node, k.Epoch)
	}
	return c.encode(k), nil
}

func (c Codec) encode(k takeover.Key) Key {
	return Key(uint64(c.tag)<<tagShift | uint64(k.Node)<<nodeShift | k.Epoch&epochMask)
}

// Decode reads a key of this cluster; ok is false for a foreign one. The epoch's missing upper bits are those
// that bring it closest to near, the reader's own epoch (serial number arithmetic, RFC 1982): right as long as
// two keys on one disk are less than 2^39 revisions apart. A key that was left behind for longer than that
// looks newer than its preemptor, who then gives up: the volume waits for an operator, and nobody writes.
func (c Codec) Decode(k Key, near uint64) (takeover.Key, bool) {
	if !c.Own(k) {
		return takeover.Key{}, false
	}
	diff := int64((uint64(k)-near)<<(64-epochBits)) >> (64 - epochBits) // signed distance from near, modulo 2^40
	return takeover.Key{Node: uint8(k >> nodeShift), Epoch: near + uint64(diff)}, true
}

// Own tells whether the key has this cluster's tag. Of two clusters that share a disk, one pair in 65,534
// has the same tag; so a disk is enrolled only if nobody is registered (SelfTest), and the tag is the guard
// for later, not the proof.
func (c Codec) Own(k Key) bool { return c.tag != 0 && uint16(k>>tagShift) == c.tag }

// Test is the n-th key of a self-test. Its epoch is n, the oldest there is.
func (c Codec) Test(n uint8) Key { return c.encode(takeover.Key{Node: testNode, Epoch: 1 + uint64(n)}) }

func (c Codec) isTest(k Key) bool { return c.Own(k) && uint8(k>>nodeShift) == testNode }
