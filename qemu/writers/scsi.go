package writers

import "encoding/binary"

// Status codes (SAM-5, 5.3.1).
const (
	statusGood     = 0x00
	statusConflict = 0x18 // RESERVATION CONFLICT
)

// Reserve is a service action of PERSISTENT RESERVE OUT (SPC-4, table 205).
type Reserve byte

const (
	Register       Reserve = 0
	ReserveDisk    Reserve = 1
	Release        Reserve = 2
	Clear          Reserve = 3
	Preempt        Reserve = 4
	PreemptAbort   Reserve = 5
	RegisterIgnore Reserve = 6
	RegisterMove   Reserve = 7
	ReplaceLost    Reserve = 8
)

var reserveNames = [...]string{"register", "reserve", "release", "clear", "preempt", "preempt and abort",
	"register and ignore existing key", "register and move", "replace lost reservation"}

func (r Reserve) String() string {
	if int(r) < len(reserveNames) {
		return reserveNames[r]
	}
	return "reserved service action"
}

// moves tells whether the command may give the disk to who sends it.
func (r Reserve) moves() bool {
	return r == ReserveDisk || r == Preempt || r == PreemptAbort || r == ReplaceLost
}

// allRegistrants are the reservations that every registrant holds (SPC-4, 5.13.4.2): types 7 and 8.
func allRegistrants(kind byte) bool { return kind == 7 || kind == 8 }

const (
	cdbReserveOut = 0x5f
	reserveBytes  = 24 // of PERSISTENT RESERVE OUT's parameters, without transport IDs
)

// writes tells whether a command changes what is on the disk (SBC-4, SPC-4).
func writes(cdb []byte) bool {
	switch cdb[0] {
	case 0x0a, 0x2a, 0xaa, 0x8a, // WRITE(6), (10), (12), (16)
		0x2e, 0xae, 0x8e, // WRITE AND VERIFY
		0x41, 0x93, // WRITE SAME
		0x42,       // UNMAP
		0x89,       // COMPARE AND WRITE
		0x8b,       // ORWRITE
		0x9c,       // WRITE ATOMIC
		0x3f,       // WRITE LONG(10)
		0x83,       // EXTENDED COPY, POPULATE TOKEN
		0x04, 0x48: // FORMAT UNIT, SANITIZE
		return true
	case 0x9f: // SERVICE ACTION OUT(16): WRITE LONG(16)
		return cdb[1]&0x1f == 0x11
	case 0x7f: // of variable length
		switch binary.BigEndian.Uint16(cdb[8:]) {
		case 0x0b, 0x0c, 0x0d, 0x0e, 0x0f: // WRITE, WRITE AND VERIFY, WRITE SAME, ORWRITE, WRITE ATOMIC
			return true
		}
	}
	return false
}

// lunOf reads the first level of a logical unit number (SAM-5, 4.7): peripheral or flat addressing. Others are
// returned as they are.
func lunOf(b []byte) uint64 {
	switch raw := binary.BigEndian.Uint64(b); b[0] >> 6 {
	case 0:
		if b[0] == 0 {
			return uint64(b[1])
		}
		return raw
	case 1:
		return uint64(b[0]&0x3f)<<8 | uint64(b[1])
	default:
		return raw
	}
}
