package lldp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// EtherType of LLDP frames.
const EtherType = 0x88cc

// Nearest is the address that no bridge forwards (IEEE 802.1AB, 7.1: nearest bridge).
var Nearest = [6]byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}

// Types of TLVs (IEEE 802.1AB, table 8-1).
const (
	tlvEnd               = 0
	tlvChassis           = 1
	tlvPort              = 2
	tlvTTL               = 3
	tlvPortDescription   = 4
	tlvSystemName        = 5
	tlvSystemDescription = 6
	tlvCapabilities      = 7
	tlvManagement        = 8
	tlvOrganisation      = 127

	headerBytes = 14
	minFrame    = 60 // without the check sum: shorter ones are padded
	maxText     = 255
	maxTLV      = 511
	// mostAddresses of one neighbour are kept.
	mostAddresses = 8
)

// Subtypes of the names of a chassis and of a port (tables 8-2 and 8-3). They differ.
const (
	ChassisMAC   = 4
	ChassisAddr  = 5
	ChassisLocal = 7

	PortMAC   = 3
	PortAddr  = 4
	PortIface = 5
	PortLocal = 7
)

// ID names a chassis or a port. Two are the same if both fields are.
type ID struct {
	Subtype byte
	Value   string // raw bytes, 1 to 255
}

// Capabilities are what a system can be or is (table 8-4).
type Capabilities uint16

// Bits of Capabilities.
const (
	Repeater Capabilities = 1 << 1
	Bridge   Capabilities = 1 << 2
	WLAN     Capabilities = 1 << 3
	Router   Capabilities = 1 << 4
	Station  Capabilities = 1 << 7
)

// Unit is one LLDPDU: what a system says of itself and of the port it says it on.
type Unit struct {
	Chassis, Port                                  ID
	TTL                                            time.Duration // whole seconds, at most 65535; 0: it says goodbye
	PortDescription, SystemName, SystemDescription string
	Can, Is                                        Capabilities
	Management                                     []netip.Addr
	VLAN                                           uint16 // of untagged frames on the port (IEEE 802.1, subtype 1); 0: not said
	MaxFrame                                       int    // bytes, with header and check sum (IEEE 802.3, subtype 4); 0: not said
}

// ErrMalformed is what all errors of Parse are.
var ErrMalformed = errors.New("malformed LLDP frame")

func malformed(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, a...))
}

// organisations that Skein reads.
const (
	oui8021 = 0x0080c2
	oui8023 = 0x00120f
)

// Parse decodes an Ethernet frame. What it does not know is skipped; without the three TLVs that must come first, in
// their order, it is malformed (9.2.7.7.1).
func Parse(frame []byte) (*Unit, error) {
	if len(frame) < headerBytes || binary.BigEndian.Uint16(frame[12:]) != EtherType {
		return nil, malformed("not of type %#x", EtherType)
	}
	u := &Unit{}
	var seen [128]bool
	for i, rest := 0, frame[headerBytes:]; len(rest) > 0; i++ {
		if len(rest) < 2 {
			return nil, malformed("TLV %d is cut off", i)
		}
		head := binary.BigEndian.Uint16(rest)
		kind, length := int(head>>9), int(head&0x1ff)
		if len(rest) < 2+length {
			return nil, malformed("TLV %d is of %d bytes, %d are left", i, length, len(rest)-2)
		}
		value := rest[2 : 2+length]
		rest = rest[2+length:]
		if i < 3 && kind != i+1 {
			return nil, malformed("TLV %d is of type %d, must be %d", i, kind, i+1)
		}
		if kind == tlvEnd {
			break
		}
		if seen[kind] && kind <= tlvTTL {
			return nil, malformed("TLV of type %d comes twice", kind)
		}
		first := !seen[kind]
		seen[kind] = true
		if err := u.take(kind, value, first); err != nil {
			return nil, err
		}
	}
	if !seen[tlvTTL] {
		return nil, malformed("no time to live")
	}
	return u, nil
}

// take reads one TLV. Of those that should be there once the first counts.
func (u *Unit) take(kind int, v []byte, first bool) error {
	switch kind {
	case tlvChassis, tlvPort:
		if len(v) < 2 || len(v) > 1+maxText {
			return malformed("a name of %d bytes", len(v))
		}
		id := ID{Subtype: v[0], Value: string(v[1:])}
		if kind == tlvChassis {
			u.Chassis = id
		} else {
			u.Port = id
		}
	case tlvTTL:
		if len(v) < 2 {
			return malformed("a time to live of %d bytes", len(v))
		}
		u.TTL = time.Duration(binary.BigEndian.Uint16(v)) * time.Second
	case tlvPortDescription, tlvSystemName, tlvSystemDescription:
		to := map[int]*string{tlvPortDescription: &u.PortDescription, tlvSystemName: &u.SystemName, tlvSystemDescription: &u.SystemDescription}[kind]
		if first {
			*to = clean(string(v[:min(len(v), maxText)]))
		}
	case tlvCapabilities:
		if len(v) >= 4 && first {
			u.Can, u.Is = Capabilities(binary.BigEndian.Uint16(v)), Capabilities(binary.BigEndian.Uint16(v[2:]))
		}
	case tlvManagement:
		if a, ok := managementAddr(v); ok && len(u.Management) < mostAddresses {
			u.Management = append(u.Management, a)
		}
	case tlvOrganisation:
		if len(v) < 6 {
			return nil // too short for what is read here
		}
		n := binary.BigEndian.Uint16(v[4:])
		switch uint32(v[0])<<16 | uint32(v[1])<<8 | uint32(v[2]) {
		case oui8021:
			if v[3] == 1 {
				u.VLAN = n
			}
		case oui8023:
			if v[3] == 4 {
				u.MaxFrame = int(n)
			}
		}
	}
	return nil
}

// Numbers of address families (IANA).
const (
	familyIPv4 = 1
	familyIPv6 = 2
)

func managementAddr(v []byte) (netip.Addr, bool) {
	if len(v) < 2 || int(v[0]) < 2 || len(v) < 1+int(v[0]) {
		return netip.Addr{}, false
	}
	family, raw := v[1], v[2:1+int(v[0])]
	a, ok := netip.AddrFromSlice(raw)
	return a, ok && (family == familyIPv4 && a.Is4() || family == familyIPv6 && a.Is6())
}

// clean makes a stranger's text fit to be printed on a terminal: a switch must not be able to move the cursor.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimRight(s, "\x00"))
	return strings.TrimSpace(s)
}

// ChassisText is the chassis as people write it.
func (u *Unit) ChassisText() string { return u.Chassis.text(ChassisMAC, ChassisAddr) }

// PortText is the port as people write it.
func (u *Unit) PortText() string { return u.Port.text(PortMAC, PortAddr) }

func (id ID) text(mac, addr byte) string {
	raw := id.Value
	switch {
	case id.Subtype == mac && len(raw) == 6:
		return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", raw[0], raw[1], raw[2], raw[3], raw[4], raw[5])
	case id.Subtype == addr && len(raw) > 1:
		if a, ok := netip.AddrFromSlice([]byte(raw[1:])); ok {
			return a.String()
		}
	}
	if utf8.ValidString(raw) {
		if text := clean(raw); text != "" {
			return text
		}
	}
	return fmt.Sprintf("%x", raw)
}

// Frame encodes it, as sent by the given port. An error says which field does not fit.
func (u *Unit) Frame(from [6]byte) ([]byte, error) {
	b := append(append([]byte{}, Nearest[:]...), from[:]...)
	b = binary.BigEndian.AppendUint16(b, EtherType)
	var err error
	add := func(kind int, what string, parts ...[]byte) {
		n := 0
		for _, p := range parts {
			n += len(p)
		}
		if n > maxTLV {
			err = errors.Join(err, fmt.Errorf("%s is of %d bytes, at most %d fit", what, n, maxTLV))
			return
		}
		b = binary.BigEndian.AppendUint16(b, uint16(kind<<9|n))
		for _, p := range parts {
			b = append(b, p...)
		}
	}
	for kind, id := range map[int]ID{tlvChassis: u.Chassis, tlvPort: u.Port} {
		if len(id.Value) == 0 || len(id.Value) > maxText {
			err = errors.Join(err, fmt.Errorf("name of type %d is of %d bytes, must be 1 to %d", kind, len(id.Value), maxText))
		}
	}
	if u.TTL < 0 || u.TTL > 65535*time.Second {
		err = errors.Join(err, fmt.Errorf("time to live %v does not fit", u.TTL))
	}
	add(tlvChassis, "chassis", []byte{u.Chassis.Subtype}, []byte(u.Chassis.Value))
	add(tlvPort, "port", []byte{u.Port.Subtype}, []byte(u.Port.Value))
	add(tlvTTL, "time to live", binary.BigEndian.AppendUint16(nil, uint16(u.TTL/time.Second)))
	for _, t := range []struct {
		kind       int
		what, text string
	}{{tlvPortDescription, "port description", u.PortDescription}, {tlvSystemName, "system name", u.SystemName}, {tlvSystemDescription, "system description", u.SystemDescription}} {
		if len(t.text) > maxText {
			err = errors.Join(err, fmt.Errorf("%s is of %d bytes, at most %d fit", t.what, len(t.text), maxText))
		} else if t.text != "" {
			add(t.kind, t.what, []byte(t.text))
		}
	}
	if u.Can != 0 {
		add(tlvCapabilities, "capabilities", binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, uint16(u.Can)), uint16(u.Is)))
	}
	for _, a := range u.Management {
		family, raw := byte(familyIPv4), a.AsSlice()
		if a.Is6() {
			family = familyIPv6
		}
		// Then: numbered in an unknown way, no number, no object identifier.
		add(tlvManagement, "management address", []byte{byte(1 + len(raw)), family}, raw, []byte{1, 0, 0, 0, 0, 0})
	}
	organisation := func(oui uint32, subtype byte, n uint16) {
		add(tlvOrganisation, "extension", []byte{byte(oui >> 16), byte(oui >> 8), byte(oui), subtype, byte(n >> 8), byte(n)})
	}
	if u.VLAN != 0 {
		organisation(oui8021, 1, u.VLAN)
	}
	if u.MaxFrame != 0 {
		organisation(oui8023, 4, uint16(u.MaxFrame))
	}
	add(tlvEnd, "end")
	for len(b) < minFrame {
		b = append(b, 0)
	}
	return b, err
}
