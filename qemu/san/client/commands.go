package client

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Statuses of SCSI (SAM-5, 5.3.1).
const (
	Good                = 0x00
	CheckCondition      = 0x02
	ReservationConflict = 0x18
)

// unitAttention is a sense key: the target tells once that something has changed, and has done nothing.
const unitAttention = 6

// StatusError is a command that was refused.
type StatusError struct {
	What   string
	Status byte
	// Key, Code and Qualifier are the sense of a check condition.
	Key, Code, Qualifier byte
}

func (e *StatusError) Error() string {
	switch e.Status {
	case ReservationConflict:
		return e.What + ": reservation conflict"
	case CheckCondition:
		return fmt.Sprintf("%s: check condition, sense %x/%02x/%02x", e.What, e.Key, e.Code, e.Qualifier)
	default:
		return fmt.Sprintf("%s: status %#x", e.What, e.Status)
	}
}

// execute sends a command again as long as the target only tells that something has changed.
func (s *Session) execute(what string, lun int, cdb, out []byte, want int) ([]byte, error) {
	for again := 0; ; again++ {
		r, err := s.Do(lun, cdb, out, want)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if r.Status == Good {
			return r.Data, nil
		}
		e := &StatusError{What: what, Status: r.Status}
		if r.Status == CheckCondition && len(r.Sense) >= 14 && r.Sense[0]&0x7e == 0x70 { // fixed format (SPC-4, 4.5.3)
			e.Key, e.Code, e.Qualifier = r.Sense[2]&0xf, r.Sense[12], r.Sense[13]
		}
		if e.Key != unitAttention || again == 8 {
			return nil, e
		}
	}
}

var errShort = errors.New("the answer is cut short")

// LUNs are those that the target reports.
func (s *Session) LUNs() ([]int, error) {
	const room = 8 + 8*256
	cdb := make([]byte, 12)
	cdb[0] = 0xa0
	binary.BigEndian.PutUint32(cdb[6:], room)
	data, err := s.execute("report LUNs", 0, cdb, nil, room)
	if err != nil {
		return nil, err
	}
	body, err := cut("report LUNs", data, 0)
	if err != nil {
		return nil, err
	}
	var all []int
	for ; len(body) >= 8; body = body[8:] {
		all = append(all, int(body[0]&0x3f)<<8|int(body[1]))
	}
	return all, nil
}

// cut returns what follows the 8 bytes of a header that has the length of the rest at the given place.
func cut(what string, data []byte, at int) ([]byte, error) {
	if len(data) < 8 {
		return nil, fmt.Errorf("%s: %w", what, errShort)
	}
	n := binary.BigEndian.Uint32(data[at:])
	if uint64(n) > uint64(len(data)-8) {
		return nil, fmt.Errorf("%s: %w", what, errShort)
	}
	return data[8 : 8+n], nil
}

// Identity of a LUN.
type Identity struct {
	Vendor, Product string
	Serial          string // unit serial number
	WWN             string // naa. and hexadecimal digits
}

// Inquiry asks a LUN who it is (SPC-4, 6.6, 7.8.6 and 7.8.17).
func (s *Session) Inquiry(lun int) (Identity, error) {
	var id Identity
	ask := func(page byte, flag byte) ([]byte, error) {
		return s.execute("inquiry", lun, []byte{0x12, flag, page, 0, 255, 0}, nil, 255)
	}
	data, err := ask(0, 0)
	if err != nil {
		return id, err
	}
	if len(data) < 32 {
		return id, fmt.Errorf("inquiry: %w", errShort)
	}
	id.Vendor, id.Product = trim(data[8:16]), trim(data[16:32])
	page := func(number byte) ([]byte, error) {
		data, err := ask(number, 1)
		if err != nil {
			return nil, err
		}
		if len(data) < 4 || data[1] != number {
			return nil, fmt.Errorf("inquiry page %#x: %w", number, errShort)
		}
		return data[4:min(len(data), 4+int(binary.BigEndian.Uint16(data[2:])))], nil
	}
	serial, err := page(0x80)
	if err != nil {
		return id, err
	}
	id.Serial = trim(serial)
	names, err := page(0x83)
	if err != nil {
		return id, err
	}
	for len(names) >= 4 {
		n := int(names[3])
		if n > len(names)-4 {
			break // the rest did not fit in the answer
		}
		if names[1]&0x3f == 3 { // NAA, of the LUN
			id.WWN = "naa." + hex.EncodeToString(names[4:4+n])
		}
		names = names[4+n:]
	}
	return id, nil
}

// trim takes the padding from a name, and what is no printable ASCII.
func trim(b []byte) string {
	var out []byte
	for _, c := range b {
		if c > 0x20 && c < 0x7f || c == ' ' && len(out) > 0 {
			out = append(out, c)
		}
	}
	for len(out) > 0 && out[len(out)-1] == ' ' {
		out = out[:len(out)-1]
	}
	return string(out)
}

// Keys are the registered ones of a LUN, one for each nexus (PERSISTENT RESERVE IN, READ KEYS).
func (s *Session) Keys(lun int) ([]uint64, error) {
	const room = 8 + 8*512
	cdb := make([]byte, 10)
	cdb[0] = 0x5e
	binary.BigEndian.PutUint16(cdb[7:], room)
	data, err := s.execute("read keys", lun, cdb, nil, room)
	if err != nil {
		return nil, err
	}
	body, err := cut("read keys", data, 4)
	if err != nil {
		return nil, err
	}
	var keys []uint64
	for ; len(body) >= 8; body = body[8:] {
		keys = append(keys, binary.BigEndian.Uint64(body))
	}
	return keys, nil
}

// Register gives this session a key whatever it had before (REGISTER AND IGNORE EXISTING KEY); 0 takes it away. With
// aptpl the registration is to outlast the target's power.
func (s *Session) Register(lun int, key uint64, aptpl bool) error {
	return s.reserveOut("register", lun, 6, 0, 0, key, aptpl)
}

// Reserve makes this session with its key the holder of a reservation "write exclusive, registrants only".
func (s *Session) Reserve(lun int, key uint64) error {
	return s.reserveOut("reserve", lun, 1, writeExclusiveRegistrants, key, 0, false)
}

// Preempt takes all registrations of a key away, as the session whose own is key.
func (s *Session) Preempt(lun int, key, victim uint64) error {
	return s.reserveOut("preempt", lun, 4, writeExclusiveRegistrants, key, victim, false)
}

// writeExclusiveRegistrants is a type of reservation (SPC-4, table 64).
const writeExclusiveRegistrants = 5

// reserveOut is PERSISTENT RESERVE OUT (SPC-4, 6.16).
func (s *Session) reserveOut(what string, lun int, action, kind byte, key, service uint64, aptpl bool) error {
	cdb, out := make([]byte, 10), make([]byte, 24)
	cdb[0], cdb[1], cdb[2] = 0x5f, action, kind
	binary.BigEndian.PutUint32(cdb[5:], uint32(len(out)))
	binary.BigEndian.PutUint64(out, key)
	binary.BigEndian.PutUint64(out[8:], service)
	if aptpl {
		out[20] = 1
	}
	_, err := s.execute(what, lun, cdb, out, 0)
	return err
}

// BlockSize of the array's LUNs, bytes.
const BlockSize = 512

// Read reads a block, Write writes one.
func (s *Session) Read(lun int, block uint32) ([]byte, error) {
	data, err := s.execute("read", lun, transfer(0x28, block), nil, BlockSize)
	if err == nil && len(data) != BlockSize {
		return nil, fmt.Errorf("read: %w", errShort)
	}
	return data, err
}

func (s *Session) Write(lun int, block uint32, data []byte) error {
	if len(data) != BlockSize {
		return fmt.Errorf("write %d bytes: a block has %d", len(data), BlockSize)
	}
	_, err := s.execute("write", lun, transfer(0x2a, block), data, 0)
	return err
}

// transfer is READ(10) or WRITE(10) of one block.
func transfer(code byte, block uint32) []byte {
	cdb := make([]byte, 10)
	cdb[0], cdb[8] = code, 1
	binary.BigEndian.PutUint32(cdb[2:], block)
	return cdb
}
