package owners

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Kind is how a machine spoke for an address.
type Kind string

const (
	Announcement Kind = "announcement" // gratuitous ARP, in either form (RFC 5227, 2.3; RFC 2002, 4.6)
	ARP          Kind = "arp"          // a reply, or a question in the address's name
	SynAck       Kind = "syn-ack"      // a connection is accepted
	Data         Kind = "data"         // TCP with payload
	Reset        Kind = "reset"        // TCP
	Packet       Kind = "packet"       // any other packet from the address
)

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	protoTCP = 6
)

// Parse says for which of the floating addresses a frame speaks, and how; ok false: for none.
func Parse(frame []byte, floating netip.Prefix) (addr netip.Addr, kind Kind, ok bool) {
	const ethernetHeader = 14
	if len(frame) < ethernetHeader {
		return addr, "", false
	}
	kindOf, rest := binary.BigEndian.Uint16(frame[12:]), frame[ethernetHeader:]
	if kindOf == typeVLAN && len(rest) >= 4 {
		kindOf, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch kindOf {
	case typeARP:
		addr, kind, ok = parseARP(rest)
	case typeIPv4:
		addr, kind, ok = parseIPv4(rest)
	}
	return addr, kind, ok && floating.Contains(addr)
}

// parseARP reads ARP for IPv4 on Ethernet (RFC 826).
func parseARP(p []byte) (netip.Addr, Kind, bool) {
	if len(p) < 28 || !bytes.Equal(p[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return netip.Addr{}, "", false
	}
	kind := ARP
	if bytes.Equal(p[14:18], p[24:28]) {
		kind = Announcement
	}
	return netip.AddrFrom4([4]byte(p[14:18])), kind, true
}

func parseIPv4(p []byte) (netip.Addr, Kind, bool) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return netip.Addr{}, "", false
	}
	return netip.AddrFrom4([4]byte(p[12:16])), kindOfPacket(p), true
}

func kindOfPacket(p []byte) Kind {
	header, total := 4*int(p[0]&15), int(binary.BigEndian.Uint16(p[2:]))
	fragment := binary.BigEndian.Uint16(p[6:])&0x1fff != 0
	if p[9] != protoTCP || fragment || header < 20 || len(p) < header+20 {
		return Packet
	}
	const fin, syn, rst, ack = 1, 2, 4, 16
	tcp := p[header:]
	offset, flags := 4*int(tcp[12]>>4), tcp[13]
	switch {
	case flags&rst != 0:
		return Reset
	case flags&(syn|ack) == syn|ack:
		return SynAck
	case total > header+offset:
		return Data
	}
	return Packet
}
