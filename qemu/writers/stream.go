package writers

import "slices"

const (
	// maxHeld bounds the bytes of one direction that wait for a segment before them. A sender's own segments
	// pass a tap in order, so that little waits.
	maxHeld = 1 << 20
	// maxJump is the farthest a sequence number may lie ahead and be believed, in bytes: above the largest
	// receive buffer a kernel has by default, and the longest data of a PDU (16 MiB).
	maxJump = 32 << 20
)

// stream puts one direction of a connection in order and hands it to the parser of PDUs.
type stream struct {
	known bool   // next is
	next  uint32 // sequence number of the byte that is due
	held  []held // by sequence number
	bytes int    // in held
	ended bool   // a FIN was seen
	end   uint32 // its sequence number
	pdus  parser
}

type held struct {
	seq  uint32
	data []byte
}

// ahead is how far a lies after b, in the circle of sequence numbers.
func ahead(a, b uint32) int { return int(int32(a - b)) }

// start begins with the byte after a SYN.
func (s *stream) start(seq uint32) {
	*s = stream{known: true, next: seq, pdus: parser{sink: s.pdus.sink, server: s.pdus.server, at: seq, base: seq, aligned: true, trust: trusted}}
}

// join begins in the middle.
func (s *stream) join(seq uint32) {
	*s = stream{known: true, next: seq, pdus: parser{sink: s.pdus.sink, server: s.pdus.server, at: seq}}
	s.pdus.lose(0)
}

// take takes the payload of a segment. Bytes that were there before are nothing new. It refuses what cannot be of
// this connection.
func (s *stream) take(seq uint32, data []byte) bool {
	switch d := ahead(seq, s.next); {
	case d > maxJump || d < -maxJump:
		return false
	case d <= 0:
		if -d < len(data) {
			s.feed(data[-d:])
		}
	case s.pdus.skips(d): // what is missing are bytes that do not matter
		s.pdus.skip(d)
		s.next = seq
		s.feed(data)
	default:
		s.hold(seq, data)
		return true
	}
	s.release()
	return true
}

func (s *stream) feed(data []byte) {
	s.next += uint32(len(data))
	s.pdus.feed(data)
}

func (s *stream) hold(seq uint32, data []byte) {
	if len(data) == 0 || s.bytes+len(data) > maxHeld {
		return // if it is not sent again, it will be a gap
	}
	i, found := slices.BinarySearchFunc(s.held, seq, func(h held, seq uint32) int { return ahead(h.seq, seq) })
	if found && len(s.held[i].data) >= len(data) {
		return
	}
	s.held = slices.Insert(s.held, i, held{seq, slices.Clone(data)})
	s.bytes += len(data)
}

// release feeds what was waiting for what is there now.
func (s *stream) release() {
	for len(s.held) > 0 {
		h := s.held[0]
		d := ahead(h.seq, s.next)
		if d > 0 && !s.pdus.skips(d) {
			return
		}
		s.held = s.held[1:]
		s.bytes -= len(h.data)
		if d > 0 {
			s.pdus.skip(d)
			s.next = h.seq
			d = 0
		}
		if -d < len(h.data) {
			s.feed(h.data[-d:])
		}
	}
	s.held = nil
}

// acked learns that the receiver has all before ack. What is missing before it will not be seen any more.
func (s *stream) acked(ack uint32) {
	if s.ended && ahead(ack, s.end) > 0 {
		ack = s.end // a FIN is acknowledged like a byte
	}
	for s.known {
		d := ahead(ack, s.next)
		if d <= 0 || d > maxJump {
			return
		}
		if len(s.held) > 0 {
			d = min(d, ahead(s.held[0].seq, s.next))
		}
		s.next += uint32(d)
		if s.pdus.skips(d) {
			s.pdus.skip(d)
		} else {
			s.pdus.lose(d)
		}
		s.release()
	}
}
