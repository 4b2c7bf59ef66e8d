package client

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
)

// script is a target that says the same whatever it is told.
type script struct {
	net.Conn
	*bytes.Reader
}

func (s script) Read(b []byte) (int, error)  { return s.Reader.Read(b) }
func (s script) Write(b []byte) (int, error) { return len(b), nil }
func (s script) Close() error                { return nil }

// unit makes a unit of the target's.
func unit(opcode, flags byte, tag uint32, set func(header []byte), data string) []byte {
	b := make([]byte, headerSize)
	b[0], b[1] = opcode, flags
	b[5], b[6], b[7] = byte(len(data)>>16), byte(len(data)>>8), byte(len(data))
	binary.BigEndian.PutUint32(b[16:], tag)
	if set != nil {
		set(b)
	}
	b = append(b, data...)
	return append(b, make([]byte, -len(data)&3)...)
}

func at(offset uint32) func([]byte) {
	return func(h []byte) { binary.BigEndian.PutUint32(h[40:], offset) }
}

var (
	loggedIn = unit(loginResponse, 0x87, 0, nil, "TargetPortalGroupTag=1\x00")
	ping     = unit(nopIn, 0x80, noTag, func(h []byte) { binary.BigEndian.PutUint32(h[20:], 5) }, "")
)

func TestSession(t *testing.T) {
	for _, tt := range []struct {
		name string
		says [][]byte
		want string // data of a read of 8 bytes; "!": an error
	}{
		{"data with status", [][]byte{unit(dataIn, 0x81, 1, at(0), "12345678")}, "12345678"},
		{"data in two parts, a ping between", [][]byte{unit(dataIn, 0, 1, at(0), "12345"), ping, unit(dataIn, 0x80, 1, at(5), "678"), unit(scsiResponse, 0x80, 1, nil, "")}, "12345678"},
		{"less data", [][]byte{unit(dataIn, 0x80, 1, at(0), "123"), unit(scsiResponse, 0x80, 1, nil, "")}, "123"},
		{"too much data", [][]byte{unit(dataIn, 0x81, 1, at(0), "123456789")}, "!"},
		{"data at another place", [][]byte{unit(dataIn, 0x81, 1, at(4), "1234")}, "!"},
		{"data of another task", [][]byte{unit(dataIn, 0x81, 2, at(0), "12345678")}, "!"},
		{"the target failed", [][]byte{unit(scsiResponse, 0x80, 1, func(h []byte) { h[2] = 1 }, "")}, "!"},
		{"rejected", [][]byte{unit(0x3f, 0x80, noTag, nil, "")}, "!"},
		{"cut short", [][]byte{unit(dataIn, 0x81, 1, at(0), "12345678")[:50]}, "!"},
	} {
		s, err := Login(script{Reader: bytes.NewReader(bytes.Join(append([][]byte{loggedIn}, tt.says...), nil))}, "a", "b", [6]byte{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Do(0, []byte{0x28}, nil, 8)
		if got := string(r.Data); (err != nil) != (tt.want == "!") || err == nil && got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
	refused := unit(loginResponse, 0, 0, func(h []byte) { h[36], h[37] = 2, 1 }, "")
	if _, err := Login(script{Reader: bytes.NewReader(refused)}, "a", "b", [6]byte{}); err == nil || err.Error() != "log in: the target refuses with status 0201" {
		t.Errorf("refused: got %v", err)
	}
}

// FuzzSession: no target makes it fail otherwise than by an error.
func FuzzSession(f *testing.F) {
	f.Add(unit(dataIn, 0x81, 1, at(0), "\x00\x00\x00\x08\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"))
	f.Add(append(ping, unit(scsiResponse, 0x80, 1, func(h []byte) { h[3] = 2 }, "\x00\x12\x70\x00\x06\x00\x00\x00\x00\x0a\x00\x00\x00\x00\x29\x00\x00\x00\x00\x00")...))
	f.Add(unit(dataIn, 0x81, 1, at(0), "\x00\x83\x00\x0c\x01\x03\x00\x08\x60\x01\x40\x55\xce\x10\x00\x06"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, ask := range []func(*Session) error{
			func(s *Session) error { _, err := s.LUNs(); return err },
			func(s *Session) error { _, err := s.Keys(0); return err },
			func(s *Session) error { _, err := s.Inquiry(0); return err },
			func(s *Session) error { return s.Register(0, 1, true) },
			(*Session).Close,
		} {
			s, err := Login(script{Reader: bytes.NewReader(append(bytes.Clone(loggedIn), data...))}, "a", "b", [6]byte{})
			if err != nil {
				t.Fatal(err)
			}
			_ = ask(s)
		}
	})
}
