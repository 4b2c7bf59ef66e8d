package multipath

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Access is the asymmetric access state of a target port group (SPC-4, table 306).
type Access uint8

// The states. NoALUA is a target that has none: all of its paths are equal.
const (
	Optimized     Access = 0x0
	NonOptimized  Access = 0x1
	Standby       Access = 0x2
	Unavailable   Access = 0x3
	LBADependent  Access = 0x4
	Offline       Access = 0xe
	Transitioning Access = 0xf
	NoALUA        Access = 0xff
)

func (a Access) String() string {
	switch a {
	case Optimized:
		return "optimized"
	case NonOptimized:
		return "non-optimized"
	case Standby:
		return "standby"
	case Unavailable:
		return "unavailable"
	case LBADependent:
		return "LBA dependent"
	case Offline:
		return "offline"
	case Transitioning:
		return "transitioning"
	case NoALUA:
		return "symmetric"
	default:
		return fmt.Sprintf("access state 0x%x", uint8(a))
	}
}

// Priority orders paths: higher is better, 0 takes no I/O. The numbers are those that multipath-tools shows, so
// that people who know it find them again.
func (a Access) Priority() int {
	switch a {
	case Optimized, NoALUA:
		return 50
	case NonOptimized:
		return 10
	case LBADependent:
		return 5
	default:
		return 0
	}
}

// PortGroup is a target port group as REPORT TARGET PORT GROUPS tells (SPC-4, 6.37).
type PortGroup struct {
	ID     uint16
	Access Access
	Ports  []uint16 // relative target port identifiers
}

var errShort = errors.New("the answer is cut off")

// ParsePortGroups reads the answer of REPORT TARGET PORT GROUPS in its short or its extended form.
func ParsePortGroups(b []byte) ([]PortGroup, error) {
	if len(b) < 4 {
		return nil, errShort
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, errShort
	}
	b = b[4 : 4+n]
	if len(b) >= 4 && b[0]&0x70 == 0x10 { // the extended header: format type 1, then the time for a transition
		b = b[4:]
	}
	var out []PortGroup
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, errShort
		}
		g := PortGroup{ID: binary.BigEndian.Uint16(b[2:]), Access: Access(b[0] & 0xf)}
		ports := int(b[7])
		if len(b) < 8+4*ports {
			return nil, errShort
		}
		for i := range ports {
			g.Ports = append(g.Ports, binary.BigEndian.Uint16(b[8+4*i+2:]))
		}
		if slices.ContainsFunc(out, func(o PortGroup) bool { return o.ID == g.ID }) {
			return nil, fmt.Errorf("target port group %d is listed twice", g.ID)
		}
		out = append(out, g)
		b = b[8+4*ports:]
	}
	return out, nil
}

// Identity is who a path leads to, from the device identification page (VPD 0x83; SPC-4, 7.8.6).
type Identity struct {
	Names []string // of the logical unit, in the spelling of sysfs: naa.600..., eui.002..., t10.VENDOR...
	Port  uint16   // relative target port identifier; 0: not told
	Group uint16   // target port group
	ALUA  bool     // Group was told
}

// Has tells whether one of the names is this one.
func (id Identity) Has(wwn string) bool {
	return wwn != "" && slices.ContainsFunc(id.Names, func(n string) bool { return strings.EqualFold(n, strings.TrimSpace(wwn)) })
}

// ParseIdentity reads VPD page 0x83.
func ParseIdentity(b []byte) (Identity, error) {
	var id Identity
	if len(b) < 4 {
		return id, errShort
	}
	if b[1] != 0x83 {
		return id, fmt.Errorf("it is page 0x%02x, not 0x83", b[1])
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n > len(b)-4 {
		return id, errShort
	}
	for b = b[4 : 4+n]; len(b) > 0; {
		if len(b) < 4 || len(b) < 4+int(b[3]) {
			return Identity{}, errShort
		}
		code, association, kind, d := b[0]&0xf, b[1]>>4&3, b[1]&0xf, b[4:4+int(b[3])]
		b = b[4+len(d):]
		switch {
		case association == 0 && kind == 1 && code != 1:
			id.Names = append(id.Names, "t10."+text(d))
		case association == 0 && kind == 2 && code == 1 && len(d) > 0:
			id.Names = append(id.Names, "eui."+hex.EncodeToString(d))
		case association == 0 && kind == 3 && code == 1 && len(d) > 0:
			id.Names = append(id.Names, "naa."+hex.EncodeToString(d))
		case association == 0 && kind == 8 && code == 3:
			id.Names = append(id.Names, text(d))
		case association == 1 && kind == 4 && len(d) == 4:
			id.Port = binary.BigEndian.Uint16(d[2:])
		case association == 1 && kind == 5 && len(d) == 4:
			id.Group, id.ALUA = binary.BigEndian.Uint16(d[2:]), true
		}
	}
	return id, nil
}

// text is a designator that should be printable, up to its padding.
func text(d []byte) string {
	s, _, _ := strings.Cut(string(d), "\x00")
	return strings.TrimSpace(strings.ToValidUTF8(s, "?"))
}

// access is the state of the path's own port group.
func (id Identity) access(groups []PortGroup) (Access, error) {
	for _, g := range groups {
		if g.ID == id.Group {
			return g.Access, nil
		}
	}
	return 0, fmt.Errorf("its port is in target port group %d, which the target does not list", id.Group)
}
