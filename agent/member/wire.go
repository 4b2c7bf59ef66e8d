package member

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"time"
)

// The datagram, version 1. Numbers are unsigned varints unless a size is given.
//
//	magic "Sk" | version 1 byte | kind 1 byte | cluster 8 bytes
//	sender: length 1 byte, bytes | boot: length 1 byte, bytes
//	link 1 byte | seq | count | voter set 8 bytes
//	cause 1 byte (end only)
//	reason: length 1 byte, bytes (gasp and end only)
//	number of entries (restart and end: none), each:
//	  incarnation 8 bytes | flags 1 byte
//	  age in ms of the newest heartbeat received that was or may have been acknowledged
//	  if acknowledged: ack (the newest seq received of it) | links on which it is heard (bit mask)
//	  if details: number of links 1 byte, each: link 1 byte | ack-seq on that link | hold in 0.1 ms | loss % 1 byte
//	tag 16 bytes: HMAC-SHA256 of all before it, truncated
//
// seq is the send time in microseconds of the sender's clock: it rises for the life of the boot, also
// across a restarted agent, and whoever gets it echoed needs to remember nothing. The same datagram goes
// to all peers on a link, so that every member learns what every other says of a third.
const (
	wireVersion   = 1
	kindHeartbeat = 1
	kindGasp      = 2
	kindRestart   = 3 // a will, see will.go: count is 0
	kindEnd       = 4 // the boot ends for certain, see farewell.go: count is 0

	tagSize     = 16
	headerSize  = 12      // magic, version, kind, cluster
	maxDatagram = 8 << 10 // larger ones are refused unread
	maxEntries  = 256
	maxLinks    = 64 // bits of the mask
	maxReason   = 200

	flagRefused  = 1 << 0 // sender promised never to acknowledge it again
	flagSilent   = 1 << 1 // sender has not heard it for Silent
	flagAcked    = 1 << 2
	flagDetails  = 1 << 3
	flagBusy     = 1 << 4 // with silent: other frames do come in, so its heartbeats may be held up behind them
	flagsDefined = flagRefused | flagSilent | flagAcked | flagDetails | flagBusy
)

// incarnation names (node, boot) in few bytes.
type incarnation uint64

func incarnationOf(name, boot string) incarnation {
	return incarnation(digest64("incarnation", name, boot))
}

// digest64 is the first 8 bytes of a SHA-256 over the strings, each ended so that no two lists collide.
func digest64(parts ...string) uint64 {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// message is a decoded datagram. Its slices are only good until the next decode.
type message struct {
	kind         byte
	sender, boot []byte
	link         uint8
	seq          uint64
	count        uint64
	voterSet     uint64
	cause        byte
	reason       []byte
	entries      []entry
	details      []linkDetail
}

// entry is what the sender says of one incarnation.
type entry struct {
	who       incarnation
	flags     byte
	age       time.Duration
	ack       uint64
	heardOn   uint64
	det0, det int // its details are message.details[det0:det]
}

type linkDetail struct {
	link uint8
	seq  uint64
	hold time.Duration
	loss uint8
}

func appendString(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

// appendHeader writes all that comes before the entries.
func (c *Core) appendHeader(b []byte, kind byte, link uint8, seq, count uint64, reason string) []byte {
	b = append(b, 'S', 'k', wireVersion, kind)
	b = binary.BigEndian.AppendUint64(b, c.clusterHash)
	b = appendString(b, c.cfg.Self)
	b = appendString(b, c.cfg.BootID)
	b = append(b, link)
	b = binary.AppendUvarint(b, seq)
	b = binary.AppendUvarint(b, count)
	b = binary.BigEndian.AppendUint64(b, c.voterSet)
	if kind == kindGasp {
		b = appendString(b, reason[:min(len(reason), maxReason)])
	}
	return b
}

// appendEnd writes a whole datagram of kind end, but for the tag.
func (c *Core) appendEnd(link uint8, seq uint64, cause byte, reason string) []byte {
	b := append(c.appendHeader(nil, kindEnd, link, seq, 0, ""), cause)
	b = appendString(b, reason[:min(len(reason), maxReason)])
	return binary.AppendUvarint(b, 0) // no entries: it speaks of nobody
}

func appendEntry(b []byte, e *entry, details []linkDetail) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(e.who))
	b = append(b, e.flags)
	b = binary.AppendUvarint(b, uint64(e.age/time.Millisecond))
	if e.flags&flagAcked != 0 {
		b = binary.AppendUvarint(b, e.ack)
		b = binary.AppendUvarint(b, e.heardOn)
	}
	if e.flags&flagDetails != 0 {
		b = append(b, byte(len(details)))
		for _, d := range details {
			b = append(b, d.link)
			b = binary.AppendUvarint(b, e.ack-d.seq)
			b = binary.AppendUvarint(b, uint64(d.hold/(100*time.Microsecond)))
			b = append(b, d.loss)
		}
	}
	return b
}

func (c *Core) appendTag(b []byte) []byte {
	c.mac.Reset()
	c.mac.Write(b)
	c.sum = c.mac.Sum(c.sum[:0])
	return append(b, c.sum[:tagSize]...)
}

// authenticator makes and checks the tags of one cluster's datagrams.
type authenticator struct {
	clusterHash uint64
	mac         hash.Hash
	sum         []byte
}

func newAuthenticator(clusterID string, key []byte) authenticator {
	// The tag's key is bound to the use and the whole cluster id, of which the header has only a digest.
	k := hmac.New(sha256.New, key)
	k.Write([]byte("skein heartbeat 1\x00" + clusterID))
	return authenticator{clusterHash: digest64("cluster", clusterID), mac: hmac.New(sha256.New, k.Sum(nil))}
}

// header checks what costs nothing: length, magic, version, cluster.
func (a *authenticator) header(payload []byte) error {
	if len(payload) < headerSize+tagSize || len(payload) > maxDatagram {
		return fmt.Errorf("%w: %d bytes", ErrMalformed, len(payload))
	}
	if payload[0] != 'S' || payload[1] != 'k' {
		return fmt.Errorf("%w: not a heartbeat", ErrMalformed)
	}
	if payload[2] != wireVersion {
		return fmt.Errorf("%w: version %d, this node speaks %d", ErrMalformed, payload[2], wireVersion)
	}
	if binary.BigEndian.Uint64(payload[4:]) != a.clusterHash {
		return ErrForeign
	}
	return nil
}

// tag checks the tag of a payload with a good header, and returns all before it.
func (a *authenticator) tag(payload []byte) (body []byte, err error) {
	body, tag := payload[:len(payload)-tagSize], payload[len(payload)-tagSize:]
	a.mac.Reset()
	a.mac.Write(body)
	a.sum = a.mac.Sum(a.sum[:0])
	if !hmac.Equal(tag, a.sum[:tagSize]) {
		return nil, ErrAuth
	}
	return body, nil
}

// decode checks and reads payload into c.msg. The cluster is looked at before the tag because another
// cluster has another key; everything else comes after the tag.
func (c *Core) decode(payload []byte) (*message, error) {
	if err := c.header(payload); err != nil {
		return nil, err
	}
	body, err := c.tag(payload)
	if err != nil {
		return nil, err
	}
	return c.parse(body)
}

// parse reads the body of a datagram whose header and tag are good into c.msg.
func (c *Core) parse(body []byte) (*message, error) {
	m := &c.msg
	*m = message{entries: m.entries[:0], details: m.details[:0]}
	r := reader{b: body[headerSize:]}
	m.kind = body[3]
	m.sender, m.boot = r.str(), r.str()
	m.link = r.byte()
	m.seq, m.count = r.uvarint(), r.uvarint()
	m.voterSet = r.u64()
	if m.kind == kindEnd {
		if m.cause = r.byte(); m.cause < causeStopped || m.cause > causeFarewell {
			r.bad = true
		}
	}
	if m.kind == kindGasp || m.kind == kindEnd {
		m.reason = r.str()
	}
	n := r.uvarint()
	if m.kind < kindHeartbeat || m.kind > kindEnd || m.kind >= kindRestart && n > 0 || m.link >= maxLinks || n > maxEntries || len(m.sender) == 0 || len(m.boot) == 0 {
		return nil, fmt.Errorf("%w: field out of range", ErrMalformed)
	}
	for range n {
		e := entry{who: incarnation(r.u64()), flags: r.byte(), age: r.duration(time.Millisecond)}
		if e.flags&^flagsDefined != 0 {
			r.bad = true
		}
		if e.flags&flagAcked != 0 {
			e.ack, e.heardOn = r.uvarint(), r.uvarint()
		}
		e.det0 = len(m.details)
		if e.flags&flagDetails != 0 {
			for k := r.byte(); k > 0 && !r.bad; k-- {
				d := linkDetail{link: r.byte()}
				lag := r.uvarint()
				d.hold, d.loss = r.duration(100*time.Microsecond), r.byte()
				if lag > e.ack || d.link >= maxLinks || d.loss > 100 {
					r.bad = true
				}
				d.seq = e.ack - lag
				m.details = append(m.details, d)
			}
		}
		e.det = len(m.details)
		if r.bad {
			break
		}
		m.entries = append(m.entries, e)
	}
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: cut short, too long or out of range", ErrMalformed)
	}
	return m, nil
}

// reader takes fields off a slice; after the first that is missing it stays bad and returns zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (r *reader) str() []byte { return r.take(int(r.byte())) }

func (r *reader) uvarint() uint64 {
	if r.bad {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > 1<<62 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// duration reads a number of units; more than a year is refused so that nothing can overflow.
func (r *reader) duration(unit time.Duration) time.Duration {
	v := r.uvarint()
	if v > uint64(365*24*time.Hour/unit) {
		r.bad = true
		return 0
	}
	return time.Duration(v) * unit
}
