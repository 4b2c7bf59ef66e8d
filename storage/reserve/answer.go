package reserve

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// errShort is an answer that ends before the fields that must be there.
var errShort = errors.New("the disk's answer is cut short")

// truncatedError is an answer that says it is longer than the room it was given.
type truncatedError struct{ need int }

func (e truncatedError) Error() string {
	return fmt.Sprintf("the disk's answer has %d bytes, more than fitted", e.need)
}

// list cuts an answer of PERSISTENT RESERVE IN to its body: PRGENERATION, ADDITIONAL LENGTH, body.
func list(data []byte) ([]byte, error) {
	if len(data) < 8 {
		return nil, errShort
	}
	n := uint64(binary.BigEndian.Uint32(data[4:]))
	if n > uint64(len(data)-8) {
		return nil, truncatedError{need: int(n + 8)}
	}
	return data[8 : 8+n], nil
}

// parseKeys reads an answer of READ KEYS (SPC-4, table 198).
func parseKeys(data []byte) ([]Key, error) {
	body, err := list(data)
	if err != nil {
		return nil, err
	}
	if len(body)%8 != 0 {
		return nil, fmt.Errorf("the disk lists keys in %d bytes, which is no multiple of 8", len(body))
	}
	var keys []Key
	for ; len(body) > 0; body = body[8:] {
		keys = append(keys, Key(binary.BigEndian.Uint64(body)))
	}
	return keys, nil
}

// Reservation is the one that a disk has.
type Reservation struct {
	Key  Key // of the holder; 0 if all registrants hold it
	Type Type
}

// parseReservation reads an answer of READ RESERVATION (SPC-4, table 199): nil if there is none.
func parseReservation(data []byte) (*Reservation, error) {
	body, err := list(data)
	switch {
	case err != nil:
		return nil, err
	case len(body) == 0:
		return nil, nil
	case len(body) < 16:
		return nil, errShort
	}
	if scope := body[13] >> 4; scope != 0 {
		return nil, fmt.Errorf("the reservation is of scope %d, not of the whole disk", scope)
	}
	return &Reservation{Key: Key(binary.BigEndian.Uint64(body)), Type: Type(body[13] & 0xf)}, nil
}

// Capabilities are what a target says of its reservations (SPC-4, table 201).
type Capabilities struct {
	CanPersist  bool // PTPL_C: registrations can outlast a loss of power
	Persists    bool // PTPL_A: they do, as last asked for
	TypesListed bool // TMV: WriteExclRO is meaningful
	WriteExclRO bool // write exclusive, registrants only
	AllPorts    bool // ATP_C: one registration may be for all ports
}

func parseCapabilities(data []byte) (Capabilities, error) {
	if len(data) < 8 {
		return Capabilities{}, errShort
	}
	if n := binary.BigEndian.Uint16(data); n < 8 {
		return Capabilities{}, errShort
	}
	return Capabilities{
		CanPersist: data[2]&1 != 0, AllPorts: data[2]&4 != 0,
		Persists: data[3]&1 != 0, TypesListed: data[3]&0x80 != 0, WriteExclRO: data[4]&0x20 != 0,
	}, nil
}

// Registrant is one registered nexus, of READ FULL STATUS.
type Registrant struct {
	Key       Key
	Holder    bool
	Type      Type   // of the reservation, if Holder
	Port      uint16 // relative target port
	Initiator string // its name in the protocol's way: iqn..., naa...
}

// parseFullStatus reads an answer of READ FULL STATUS (SPC-4, tables 202 and 203).
func parseFullStatus(data []byte) ([]Registrant, error) {
	body, err := list(data)
	if err != nil {
		return nil, err
	}
	var out []Registrant
	for len(body) > 0 {
		if len(body) < 24 {
			return nil, errShort
		}
		n := uint64(binary.BigEndian.Uint32(body[20:]))
		if n > uint64(len(body)-24) {
			return nil, errShort
		}
		r := Registrant{
			Key: Key(binary.BigEndian.Uint64(body)), Holder: body[12]&1 != 0,
			Port: binary.BigEndian.Uint16(body[18:]), Initiator: transportID(body[24 : 24+n]),
		}
		if r.Holder {
			r.Type = Type(body[13] & 0xf)
		}
		out = append(out, r)
		body = body[24+n:]
	}
	return out, nil
}

// transportID names an initiator port (SPC-4, 7.6.4). What it does not know comes out as hexadecimal digits; it
// is for people only, nothing is decided by it.
func transportID(id []byte) string {
	if len(id) == 0 {
		return "unknown"
	}
	switch protocol := id[0] & 0xf; {
	case protocol == 0 && len(id) >= 16:
		return "fc." + hex.EncodeToString(id[8:16])
	case protocol == 6 && len(id) >= 12:
		return "naa." + hex.EncodeToString(id[4:12])
	case protocol == 5 && len(id) >= 4:
		name := id[4:]
		if n := int(binary.BigEndian.Uint16(id[2:])); n <= len(name) {
			name = name[:n]
		}
		text, _, _ := strings.Cut(string(name), "\x00")
		return printable(text)
	default:
		return "protocol " + hex.EncodeToString(id[:min(len(id), 32)])
	}
}

// printable keeps a stranger's name from writing on the operator's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x21 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
}

// Capacity of a disk.
type Capacity struct {
	Blocks    uint64
	BlockSize int // bytes
}

// maxBlock is the largest block size believed, bytes.
const maxBlock = 64 << 10

func parseCapacity(data []byte) (Capacity, error) {
	if len(data) < 12 {
		return Capacity{}, errShort
	}
	last, size := binary.BigEndian.Uint64(data), binary.BigEndian.Uint32(data[8:])
	if size < 512 || size > maxBlock || size&(size-1) != 0 || last == 1<<64-1 {
		return Capacity{}, fmt.Errorf("the disk says it has %d+1 blocks of %d bytes", last, size)
	}
	return Capacity{Blocks: last + 1, BlockSize: int(size)}, nil
}
