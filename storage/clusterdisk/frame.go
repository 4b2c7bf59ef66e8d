package clusterdisk

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// A frame is one block with a few words for machines and for people: magic, kind, length, SHA-256 of it all, an
// HMAC with the disk's key, JSON. The sum tells a torn block; the HMAC tells a forged one.
const (
	magic      = "SKEINDSK"
	frameHead  = 16 + 2*sha256.Size
	frameRoom  = Block - frameHead
	layout     = 1
	kindHeader = 1
	kindSlot   = 2
	kindBank   = 3
	kindLife   = 4
)

// errNoFrame: the block holds something else, or was never written, or was torn.
var errNoFrame = errors.New("no such record")

func frame(kind uint16, key []byte, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(data) > frameRoom {
		return nil, fmt.Errorf("record of %d bytes does not fit into a block", len(data))
	}
	b := make([]byte, Block)
	copy(b, magic)
	binary.BigEndian.PutUint16(b[8:], layout)
	binary.BigEndian.PutUint16(b[10:], kind)
	binary.BigEndian.PutUint32(b[12:], uint32(len(data)))
	copy(b[frameHead:], data)
	sum := sha256.Sum256(signed(b))
	copy(b[16:], sum[:])
	copy(b[16+sha256.Size:], mac(key, sum[:]))
	return b, nil
}

// signed is what the sum is over.
func signed(b []byte) []byte { return append(bytes.Clone(b[:16]), b[frameHead:]...) }

func mac(key, sum []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(sum)
	return h.Sum(nil)
}

// unframe reads a block; key may be nil to identify a disk without its token.
func unframe(b []byte, kind uint16, key []byte, v any) error {
	if len(b) != Block || string(b[:8]) != magic {
		return errNoFrame
	}
	if got := binary.BigEndian.Uint16(b[8:]); got != layout {
		return fmt.Errorf("layout %d of the cluster disk is unknown to this version, which knows %d: use a newer one", got, layout)
	}
	n := binary.BigEndian.Uint32(b[12:])
	sum := sha256.Sum256(signed(b))
	if binary.BigEndian.Uint16(b[10:]) != kind || n > frameRoom || !bytes.Equal(sum[:], b[16:16+sha256.Size]) {
		return errNoFrame
	}
	if key != nil && !hmac.Equal(mac(key, sum[:]), b[16+sha256.Size:frameHead]) {
		return errForged
	}
	if err := json.Unmarshal(b[frameHead:frameHead+int(n)], v); err != nil {
		return fmt.Errorf("%w: %w", errNoFrame, err)
	}
	return nil
}

var errForged = errors.New("it was not written by a node of this cluster: the signature is wrong")

const keySize = 32

// tokenKey seals the disk's key. The token is the join token, which every node has from its seed before it
// has anything else.
func tokenKey(token []byte) ([]byte, error) {
	if len(token) < 16 {
		return nil, errors.New("the cluster disk needs the join token")
	}
	return hkdf.Key(sha256.New, token, nil, "skein cluster disk", keySize)
}

func macKey(key []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, key, nil, "skein cluster disk: records", keySize)
}

func sealer(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(c)
}

func seal(key, data, about []byte) ([]byte, error) {
	g, err := sealer(key)
	if err != nil {
		return nil, err
	}
	return g.Seal(nil, nil, data, about), nil
}

func open(key, data, about []byte) ([]byte, error) {
	g, err := sealer(key)
	if err != nil {
		return nil, err
	}
	return g.Open(nil, nil, data, about)
}

func newKey() []byte {
	k := make([]byte, keySize)
	_, _ = rand.Read(k) // never fails (crypto/rand)
	return k
}
