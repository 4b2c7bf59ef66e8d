package reserve

import (
	"encoding/binary"
	"fmt"
)

// Type of a reservation (SPC-4, table 64).
type Type uint8

// WriteExclusiveRegistrantsOnly lets everybody read and the registered ones write. One of them is the
// holder; the reservation ends when that one unregisters, and passes to who preempts it.
const WriteExclusiveRegistrantsOnly Type = 5

var typeNames = map[Type]string{
	1: "write exclusive", 3: "exclusive access", 5: "write exclusive, registrants only",
	6: "exclusive access, registrants only", 7: "write exclusive, all registrants", 8: "exclusive access, all registrants",
}

func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Op is a command to a disk.
type Op string

// The commands. Those of PERSISTENT RESERVE IN only look.
const (
	TestUnitReady    Op = "test unit ready"
	ReadKeys         Op = "read keys"
	ReadReservation  Op = "read reservation"
	ReadCapabilities Op = "report capabilities"
	ReadFullStatus   Op = "read full status"
	ReadCapacity     Op = "read capacity"
	ReadIdentity     Op = "inquiry, device identification"
	ReadPortGroups   Op = "report target port groups"
	ReadBlock        Op = "read"
	WriteBlock       Op = "write"

	// Register needs Key to be the nexus's present one, and replaces it by New; New 0 unregisters.
	Register Op = "register"
	// RegisterIgnore registers New whatever the nexus had before.
	RegisterIgnore Op = "register and ignore existing key"
	Reserve        Op = "reserve"
	Release        Op = "release"
	Clear          Op = "clear"
	// Preempt takes the registrations of Victim away, and the reservation if Victim holds it.
	Preempt Op = "preempt"
	// PreemptAbort does that and ends what Victim has under way before it answers.
	PreemptAbort Op = "preempt and abort"
)

// Command is one command to the disk.
type Command struct {
	Op     Op
	Key    Key  // of this nexus: for all that change something, but RegisterIgnore
	New    Key  // for Register and RegisterIgnore
	Victim Key  // for Preempt and PreemptAbort
	APTPL  bool // for Register and RegisterIgnore: registrations outlast the target's power
	LBA    uint64
	Data   []byte // of WriteBlock
	Size   int    // bytes wanted by ReadBlock: one block of the disk
}

// Answer of a command that the disk executed.
type Answer struct {
	Keys         []Key        // of ReadKeys, as listed: one for each registered nexus
	Reservation  *Reservation // of ReadReservation; nil: there is none
	Capabilities Capabilities // of ReadCapabilities
	Registrants  []Registrant // of ReadFullStatus
	Capacity     Capacity     // of ReadCapacity
	Data         []byte       // of ReadBlock, ReadIdentity (VPD page 0x83), ReadPortGroups: as it came
	// Attentions are unit attentions that were swallowed on the way, oldest first.
	Attentions []Sense
}

// Service actions of PERSISTENT RESERVE IN and OUT (SPC-4, tables 197 and 205).
var inActions = map[Op]byte{ReadKeys: 0, ReadReservation: 1, ReadCapabilities: 2, ReadFullStatus: 3}
var outActions = map[Op]byte{Register: 0, Reserve: 1, Release: 2, Clear: 3, Preempt: 4, PreemptAbort: 5, RegisterIgnore: 6}

// maxAnswer bounds what a disk may send, bytes: the allocation length of PERSISTENT RESERVE IN has 16 bits. READ
// KEYS of 8,000 nexuses fits.
const maxAnswer = 1<<16 - 1

// Room for answers that are not asked for twice, bytes. Names of one unit and groups of one target are few.
const (
	identityRoom   = 2048
	portGroupsRoom = 8192
)

// wire is a command as bytes.
type wire struct {
	cdb  []byte
	out  []byte // to the disk
	want int    // bytes wanted from the disk
}

// encode makes the bytes; alloc is the room for the answer of what is read in parts.
func (c Command) encode(alloc int) (wire, error) {
	if sa, ok := inActions[c.Op]; ok {
		if alloc < 8 || alloc > maxAnswer {
			return wire{}, fmt.Errorf("%s: cannot ask for %d bytes", c.Op, alloc)
		}
		w := wire{cdb: make([]byte, 10), want: alloc}
		w.cdb[0], w.cdb[1] = 0x5e, sa
		binary.BigEndian.PutUint16(w.cdb[7:], uint16(alloc))
		return w, nil
	}
	if sa, ok := outActions[c.Op]; ok {
		w := wire{cdb: make([]byte, 10), out: make([]byte, 24)}
		w.cdb[0], w.cdb[1] = 0x5f, sa
		binary.BigEndian.PutUint32(w.cdb[5:], uint32(len(w.out)))
		service := c.Victim
		switch c.Op {
		case Reserve, Release, Preempt, PreemptAbort:
			w.cdb[2] = byte(WriteExclusiveRegistrantsOnly) // scope 0: the logical unit
		case Register, RegisterIgnore:
			service = c.New
			if c.APTPL {
				w.out[20] = 1
			}
		}
		if c.Op != RegisterIgnore { // its reservation key is ignored, and reserved in later versions
			binary.BigEndian.PutUint64(w.out, uint64(c.Key))
		}
		binary.BigEndian.PutUint64(w.out[8:], uint64(service))
		return w, nil
	}
	switch c.Op {
	case TestUnitReady:
		return wire{cdb: make([]byte, 6)}, nil
	case ReadIdentity: // INQUIRY of the device identification page, SPC-4 6.6 and 7.8.6
		w := wire{cdb: []byte{0x12, 1, 0x83, 0, 0, 0}, want: identityRoom}
		binary.BigEndian.PutUint16(w.cdb[3:], identityRoom)
		return w, nil
	case ReadPortGroups: // REPORT TARGET PORT GROUPS, SPC-4 6.37, in its short form, which all targets with ALUA have
		w := wire{cdb: make([]byte, 12), want: portGroupsRoom}
		w.cdb[0], w.cdb[1] = 0xa3, 0x0a
		binary.BigEndian.PutUint32(w.cdb[6:], portGroupsRoom)
		return w, nil
	case ReadCapacity: // READ CAPACITY(16), SBC-3 5.16
		w := wire{cdb: make([]byte, 16), want: 32}
		w.cdb[0], w.cdb[1], w.cdb[13] = 0x9e, 0x10, 32
		return w, nil
	case ReadBlock, WriteBlock: // READ(16) and WRITE(16) of one block
		w := wire{cdb: make([]byte, 16), out: c.Data, want: c.Size}
		w.cdb[0] = 0x88
		if c.Op == WriteBlock {
			w.cdb[0], w.want = 0x8a, 0
		}
		if len(w.out) == 0 && w.want <= 0 {
			return wire{}, fmt.Errorf("%s of nothing", c.Op)
		}
		binary.BigEndian.PutUint64(w.cdb[2:], c.LBA)
		binary.BigEndian.PutUint32(w.cdb[10:], 1)
		return w, nil
	default:
		return wire{}, fmt.Errorf("no command %q", c.Op)
	}
}
