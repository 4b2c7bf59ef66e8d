package pathmtu

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// The datagram, version 1:
//
//	magic "SkMT" | version 1 byte | kind 1 byte | size 2 bytes | number 8 bytes | tag 16 bytes | zeros
//
// size is that of the whole IP packet, of the ask in both kinds. The tag is an HMAC-SHA256, truncated, of all before it.
const (
	magic    = "SkMT"
	version  = 1
	kindAsk  = 1
	kindHere = 2

	tagAt   = 16
	minimum = tagAt + 16
	// ipHeaders are those of IPv4 and UDP.
	ipHeaders = 28
	// smallest packet that is tried: every IPv4 host takes it (RFC 791).
	smallest = 576
)

var errForeign = errors.New("not a probe of this cluster")

type message struct {
	kind   byte
	size   int
	number uint64
}

// deriveKey makes the key of probes from that of heartbeats: a recorded tag of one is worth nothing for the other.
func deriveKey(heartbeat []byte) []byte {
	h := hmac.New(sha256.New, heartbeat)
	h.Write([]byte("skein path MTU probe"))
	return h.Sum(nil)
}

// encode makes the payload of a datagram. An ask is as long as its packet must be.
func (m message) encode(key []byte) []byte {
	b := append(make([]byte, 0, minimum), magic...)
	b = append(b, version, m.kind)
	b = binary.BigEndian.AppendUint16(b, uint16(m.size))
	b = binary.BigEndian.AppendUint64(b, m.number)
	h := hmac.New(sha256.New, key)
	h.Write(b)
	b = h.Sum(b)[:minimum]
	if m.kind == kindAsk && m.size-ipHeaders > len(b) {
		b = append(b, make([]byte, m.size-ipHeaders-len(b))...)
	}
	return b
}

// decode checks a payload. An ask must be as long as it says: one that was cut proves nothing.
func decode(key, b []byte) (message, error) {
	if len(b) < minimum || string(b[:4]) != magic || b[4] != version {
		return message{}, errForeign
	}
	h := hmac.New(sha256.New, key)
	h.Write(b[:tagAt])
	if !hmac.Equal(h.Sum(nil)[:16], b[tagAt:minimum]) {
		return message{}, errForeign
	}
	m := message{kind: b[5], size: int(binary.BigEndian.Uint16(b[6:])), number: binary.BigEndian.Uint64(b[8:])}
	switch {
	case m.kind == kindAsk && len(b)+ipHeaders == m.size, m.kind == kindHere && len(b) == minimum:
		return m, nil
	}
	return message{}, errForeign
}
