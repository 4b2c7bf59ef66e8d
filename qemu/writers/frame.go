package writers

import (
	"encoding/binary"
	"net/netip"
)

// Port is the TCP port of iSCSI targets (RFC 7143, 14).
const Port = 3260

const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	protoTCP = 6
)

// TCP flags.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// Segment is a TCP segment to or from a target.
type Segment struct {
	Client, Server netip.AddrPort
	FromServer     bool
	Seq, Ack       uint32
	Flags          byte
	Payload        []byte // part of the frame
}

// Parse reads the segment in a frame; ok false: it is none of iSCSI's.
func Parse(frame []byte) (s Segment, ok bool) {
	const ethernetHeader = 14
	if len(frame) < ethernetHeader {
		return s, false
	}
	kind, rest := binary.BigEndian.Uint16(frame[12:]), frame[ethernetHeader:]
	for tags := 0; (kind == typeVLAN || kind == typeQinQ) && len(rest) >= 4 && tags < 2; tags++ {
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch kind {
	case typeIPv4:
		return parseIPv4(rest)
	case typeIPv6:
		return parseIPv6(rest)
	}
	return s, false
}

func parseIPv4(p []byte) (s Segment, ok bool) {
	if len(p) < 20 || p[0]>>4 != 4 || p[9] != protoTCP {
		return s, false
	}
	header, total := 4*int(p[0]&15), int(binary.BigEndian.Uint16(p[2:]))
	if binary.BigEndian.Uint16(p[6:])&0x3fff != 0 { // a fragment: the first one, too, is not whole
		return s, false
	}
	if header < 20 || total < header || len(p) < header {
		return s, false
	}
	// Ethernet pads short packets; and what a frame was cut short of is missing.
	tcp := p[header:min(total, len(p))]
	src, dst := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	return parseTCP(src, dst, tcp)
}

func parseIPv6(p []byte) (s Segment, ok bool) {
	const header = 40
	if len(p) < header || p[0]>>4 != 6 {
		return s, false
	}
	next, rest := p[6], p[header:min(len(p), header+int(binary.BigEndian.Uint16(p[4:])))]
	// Hop-by-hop options, routing and destination options (RFC 8200, 4). A fragment is not whole.
	for next == 0 || next == 43 || next == 60 {
		if len(rest) < 8 || len(rest) < 8*(int(rest[1])+1) {
			return s, false
		}
		next, rest = rest[0], rest[8*(int(rest[1])+1):]
	}
	if next != protoTCP {
		return s, false
	}
	return parseTCP(netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), rest)
}

func parseTCP(src, dst netip.Addr, p []byte) (s Segment, ok bool) {
	if len(p) < 20 {
		return s, false
	}
	from, to, offset := binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:]), 4*int(p[12]>>4)
	if (from == Port) == (to == Port) || offset < 20 || offset > len(p) {
		return s, false
	}
	s = Segment{Client: netip.AddrPortFrom(src, from), Server: netip.AddrPortFrom(dst, to), FromServer: from == Port,
		Seq: binary.BigEndian.Uint32(p[4:]), Ack: binary.BigEndian.Uint32(p[8:]), Flags: p[13], Payload: p[offset:]}
	if s.FromServer {
		s.Client, s.Server = s.Server, s.Client
	}
	return s, true
}
