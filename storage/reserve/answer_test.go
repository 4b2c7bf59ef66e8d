package reserve

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unsafe"
)

// bytes of a hexadecimal dump with blanks.
func dump(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseAnswers(t *testing.T) {
	keys := func(b []byte) (any, error) { return parseKeys(b) }
	reservation := func(b []byte) (any, error) { return parseReservation(b) }
	capabilities := func(b []byte) (any, error) { return parseCapabilities(b) }
	status := func(b []byte) (any, error) { return parseFullStatus(b) }
	capacity := func(b []byte) (any, error) { return parseCapacity(b) }
	sas := "06 00 00 00 6001405000000001 " + strings.Repeat("00", 12)
	for _, tt := range []struct {
		name  string
		parse func([]byte) (any, error)
		data  string
		want  any // nil: an error
	}{
		{"no keys", keys, "00000007 00000000", []Key(nil)},
		{"two keys and rubbish after", keys, "00000007 00000010 0000000000000001 fedcba9876543210 ffff", []Key{1, 0xfedcba9876543210}},
		{"keys cut short", keys, "00000007 00000010 0000000000000001", nil},
		{"half a key", keys, "00000007 00000004 00000001", nil},
		{"keys without a length", keys, "00000007 000000", nil},
		{"keys of 4 GiB", keys, "00000007 fffffff8 0000000000000001", nil},
		{"empty", keys, "", nil},

		{"no reservation", reservation, "00000001 00000000", (*Reservation)(nil)},
		{"WERO", reservation, "00000001 00000010 0123456789abcdef 00000000 00 05 0000", &Reservation{0x0123456789abcdef, 5}},
		{"all registrants hold it", reservation, "00000001 00000010 0000000000000000 00000000 00 07 0000", &Reservation{0, 7}},
		{"of an element", reservation, "00000001 00000010 0123456789abcdef 00000000 00 25 0000", nil},
		{"half a reservation", reservation, "00000001 00000008 0123456789abcdef", nil},

		{"LIO's capabilities", capabilities, "0008 0d 80 ea01 0000", Capabilities{CanPersist: true, TypesListed: true, WriteExclRO: true, AllPorts: true}},
		{"persisting", capabilities, "0008 01 81 2000 0000", Capabilities{CanPersist: true, Persists: true, TypesListed: true, WriteExclRO: true}},
		{"nothing", capabilities, "0008 00 00 0000 0000", Capabilities{}},
		{"capabilities that say they are short", capabilities, "0004 0d 80 ea01 0000", nil},
		{"capabilities cut short", capabilities, "0008 0d 80", nil},

		{"nobody", status, "00000001 00000000", []Registrant(nil)},
		{"a SAS holder and an iSCSI registrant", status,
			"00000001 00000060" +
				"00000000000000aa 00000000 01 05 0000 0000 0001 00000018" + sas +
				"00000000000000bb 00000000 00 00 0000 0000 0002 00000018" + "45 00 0014 " + hex.EncodeToString([]byte("iqn.x,i,0x0001\x00\x00\x00\x00\x00\x00")),
			[]Registrant{{0xaa, true, 5, 1, "naa.6001405000000001"}, {0xbb, false, 0, 2, "iqn.x,i,0x0001"}}},
		{"a name that would clear the terminal", status,
			"00000001 00000024 00000000000000bb 00000000 00 00 0000 0000 0002 0000000c 05 00 0008 " + hex.EncodeToString([]byte("i\x1b[2J\n\xff\x00")),
			[]Registrant{{0xbb, false, 0, 2, "i?[2J???"[:7]}}},
		{"no name", status, "00000001 00000018 00000000000000bb 00000000 00 00 0000 0000 0002 00000000", []Registrant{{0xbb, false, 0, 2, "unknown"}}},
		{"a descriptor longer than the answer", status, "00000001 00000018 00000000000000bb 00000000 00 00 0000 0000 0002 ffffffff", nil},
		{"half a descriptor", status, "00000001 00000008 00000000000000bb", nil},

		{"10 blocks", capacity, "0000000000000009 00000200" + strings.Repeat("00", 20), Capacity{10, 512}},
		{"blocks of 0 bytes", capacity, "0000000000000009 00000000", nil},
		{"blocks of 3 GB", capacity, "0000000000000009 c0000000", nil},
		{"one more than fits", capacity, "ffffffffffffffff 00000200", nil},
	} {
		got, err := tt.parse(dump(t, tt.data))
		if (err != nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, %v", tt.name, got, err)
		} else if err == nil && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	var long truncatedError
	if _, err := parseKeys(dump(t, "00000007 00000010 0000000000000001")); !errors.As(err, &long) || long.need != 24 {
		t.Errorf("got %v, want that 24 bytes are needed", err)
	}
}

func TestParseSense(t *testing.T) {
	for _, tt := range []struct {
		name, data string
		want       Sense
		ok         bool
	}{
		{"fixed, registrations preempted", "70 00 06 00000000 0a 00000000 2a 05 00000000", Sense{Key: 6, ASC: 0x2a, ASCQ: 5}, true},
		{"fixed, deferred", "f1 00 03 00000000 0a 00000000 0c 00 00000000", Sense{Key: 3, ASC: 0x0c, Deferred: true}, true},
		{"fixed, codes not sent", "70 00 06 00000000 00 00000000 2a 05", Sense{Key: 6}, true},
		{"descriptor, invalid field", "72 05 24 00 000000 00", Sense{Key: 5, ASC: 0x24}, true},
		{"descriptor, cut short", "72 05 24", Sense{}, false},
		{"none", "", Sense{}, false},
		{"not sense data", "00 00 00 00", Sense{}, false},
	} {
		if got, ok := parseSense(dump(t, tt.data)); got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %+v, %v, want %+v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestVerdictOfCommand(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status uint8
		sense  string
		host   uint16
		want   error
	}{
		{"good", 0x00, "", 0, nil},
		{"conflict, as kernel 6.1 has it", 0x18, "", 0, ErrConflict},
		{"conflict, as older kernels have it", 0x18, "", 0x11, ErrConflict},
		{"reset", 0x02, "70 00 06 00000000 0a 00000000 29 00 00000000", 0, ErrAttention},
		{"no such command", 0x02, "70 00 05 00000000 0a 00000000 20 00 00000000", 0, ErrUnsupported},
		{"no APTPL", 0x02, "70 00 05 00000000 0a 00000000 26 00 00000000", 0, ErrUnsupported},
		{"cannot save registrations", 0x02, "70 00 05 00000000 0a 00000000 08 00 00000000", 0, ErrTarget},
		{"check without a reason", 0x02, "", 0, ErrTarget},
		{"an attention of before", 0x02, "71 00 06 00000000 0a 00000000 29 00 00000000", 0, ErrTarget},
		{"no connection, status never set", 0x00, "", 1, ErrTransport},
		{"time limit", 0x00, "", 3, ErrTransport},
		{"busy", 0x08, "", 0, ErrTarget},
		{"aborted", 0x40, "", 0, ErrTarget},
		{"unheard of", 0x30, "", 0, ErrTarget},
	} {
		if _, _, got := verdict(tt.status, dump(t, tt.sense), tt.host); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	for _, tt := range []struct {
		result int
		want   error
	}{{0, nil}, {0x118, ErrConflict}, {0x18, ErrConflict}, {0x402, ErrUnsupported}, {2, ErrAttention}, {0x10000, ErrTransport}, {8, ErrTarget}} {
		if _, got := kernelVerdict(tt.result); got != tt.want {
			t.Errorf("ioctl's result %#x: got %v, want %v", tt.result, got, tt.want)
		}
	}
}

func TestPassingAttentions(t *testing.T) {
	for _, tt := range []struct {
		asc, ascq uint8
		want      bool
	}{
		{0x29, 0, false}, {0x29, 7, false}, {0x2a, 3, false}, {0x2a, 4, false}, {0x2a, 5, false}, {0x2f, 0, false}, {0x28, 0, false},
		{0x2a, 1, true}, {0x2a, 6, true}, {0x2a, 9, true}, {0x3f, 0x0e, true}, {0x38, 7, true}, {0x00, 0x00, false}, {0x2a, 0x0b, false},
	} {
		if got := (Sense{Key: senseAttention, ASC: tt.asc, ASCQ: tt.ascq}).passing(); got != tt.want {
			t.Errorf("%02x/%02x: got %v, want %v", tt.asc, tt.ascq, got, tt.want)
		}
	}
}

func TestCommandBytes(t *testing.T) {
	for _, tt := range []struct {
		c        Command
		cdb, out string
	}{
		{Command{Op: ReadKeys}, "5e 00 0000000000 0200 00", ""},
		{Command{Op: ReadFullStatus}, "5e 03 0000000000 0200 00", ""},
		{Command{Op: RegisterIgnore, Key: 9, New: 0x1122334455667788, APTPL: true}, "5f 06 00 0000 00000018 00", "0000000000000000 1122334455667788 00000000 01 000000"},
		{Command{Op: Register, Key: 1, New: 0}, "5f 00 00 0000 00000018 00", "0000000000000001 0000000000000000 00000000 00 000000"},
		{Command{Op: Reserve, Key: 1}, "5f 01 05 0000 00000018 00", "0000000000000001 0000000000000000 00000000 00 000000"},
		{Command{Op: PreemptAbort, Key: 1, Victim: 2}, "5f 05 05 0000 00000018 00", "0000000000000001 0000000000000002 00000000 00 000000"},
		{Command{Op: Clear, Key: 1}, "5f 03 00 0000 00000018 00", "0000000000000001 0000000000000000 00000000 00 000000"},
		{Command{Op: WriteBlock, LBA: 5, Data: []byte{1, 2}}, "8a 00 0000000000000005 00000001 0000", "0102"},
		{Command{Op: ReadBlock, LBA: 1 << 40, Size: 512}, "88 00 0000010000000000 00000001 0000", ""},
		{Command{Op: TestUnitReady}, "000000000000", ""},
	} {
		w, err := tt.c.encode(512)
		if err != nil || hex.EncodeToString(w.cdb) != hex.EncodeToString(dump(t, tt.cdb)) || hex.EncodeToString(w.out) != hex.EncodeToString(dump(t, tt.out)) {
			t.Errorf("%s: got %x %x, %v, want %s %s", tt.c.Op, w.cdb, w.out, err, tt.cdb, tt.out)
		}
	}
	for _, c := range []Command{{Op: "format"}, {Op: WriteBlock}, {Op: ReadBlock}} {
		if _, err := c.encode(512); err == nil {
			t.Errorf("%q: want an error", c.Op)
		}
	}
	if got := unsafe.Sizeof(sgHeader{}); got != 88 {
		t.Errorf("struct sg_io_hdr has %d bytes here, 88 in the kernel", got)
	}
	if _, two, _, err := (Command{Op: PreemptAbort, Key: 1, Victim: 2}).kernelCall(); err != nil || two.old != 1 || two.new != 2 {
		t.Errorf("got %+v, %v, want the own key as the old one and the victim's as the new one", two, err)
	}
	if iocPreemptAbort != 0x401870cc || iocReserve != 0x401070c9 {
		t.Errorf("got %#x and %#x for ioctls of linux/pr.h", iocPreemptAbort, iocReserve)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{0, 0, 0, 7, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add(dump(f, "00000001 00000024 00000000000000bb 00000000 00 00 0000 0000 0002 0000000c 05 00 0008 697171717171710a"))
	f.Add(dump(f, "70 00 06 00000000 0a 00000000 2a 05 00000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if keys, err := parseKeys(b); err == nil && len(keys) != int(binary.BigEndian.Uint32(b[4:])/8) {
			t.Errorf("%x: %d keys", b, len(keys))
		}
		if r, err := parseReservation(b); err == nil && r != nil && r.Type > 15 {
			t.Errorf("%x: %+v", b, r)
		}
		status, err := parseFullStatus(b)
		if err == nil && len(status)*24 > len(b) {
			t.Errorf("%x: %d registrants", b, len(status))
		}
		for _, r := range status {
			if strings.ContainsFunc(r.Initiator, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Errorf("%x: name %q", b, r.Initiator)
			}
		}
		if c, err := parseCapacity(b); err == nil && (c.Blocks == 0 || c.BlockSize < 512) {
			t.Errorf("%x: %+v", b, c)
		}
		_, _ = parseCapabilities(b)
		if s, ok := parseSense(b); ok && s.Key > 15 {
			t.Errorf("%x: %+v", b, s)
		}
	})
}
