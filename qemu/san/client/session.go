// Package client is a small iSCSI initiator for looking at the lab's storage array from outside: over any connection,
// so also from the lab's host, which has no kernel in those networks. One session with one connection, one command at
// a time, no authentication, no digests, no recovery: after an error the session is of no more use. It shares no code
// with what nodes use, so that it can judge them.
//
// Numbers in brackets are sections of RFC 7143.
package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

const (
	headerSize = 48
	// maxSegment is the largest data segment that is taken, bytes; it is what the target is told.
	maxSegment = 64 << 10
	// maxImmediate is the most that is sent with a command, bytes: what every target must take (13.12).
	maxImmediate = 8192
	noTag        = 0xffffffff
)

// Opcodes (11.1).
const (
	nopOut, scsiCommand, loginRequest, logoutRequest           = 0x00, 0x01, 0x03, 0x06
	nopIn, scsiResponse, loginResponse, dataIn, logoutResponse = 0x20, 0x21, 0x23, 0x25, 0x26
)

// Session is logged in at a target.
type Session struct {
	conn   net.Conn
	cmdSN  uint32
	statSN uint32 // the next one that is expected
	tag    uint32
}

// Result of a command that the target has answered.
type Result struct {
	Status byte   // of SCSI, 0: good
	Sense  []byte // as it came, if the status is "check condition"
	Data   []byte
}

// pdu is a protocol data unit: header and data segment.
type pdu struct {
	header [headerSize]byte
	data   []byte
}

// Login starts a session as an initiator; isid tells its sessions apart. The connection is the session's, also if
// there is an error.
func Login(conn net.Conn, initiator, target string, isid [6]byte) (*Session, error) {
	s := &Session{conn: conn, cmdSN: 1}
	// All keys that a target may want to agree on: one that it had to propose would have to be answered.
	data := []byte(strings.Join([]string{
		"InitiatorName=" + initiator, "TargetName=" + target, "SessionType=Normal", "HeaderDigest=None", "DataDigest=None",
		fmt.Sprintf("MaxRecvDataSegmentLength=%d", maxSegment), "MaxBurstLength=262144", fmt.Sprintf("FirstBurstLength=%d", maxSegment),
		"InitialR2T=Yes", "ImmediateData=Yes", "MaxOutstandingR2T=1", "MaxConnections=1", "ErrorRecoveryLevel=0",
		"DataPDUInOrder=Yes", "DataSequenceInOrder=Yes", "DefaultTime2Wait=2", "DefaultTime2Retain=0",
	}, "\x00") + "\x00")
	// The target may want some rounds to say all its keys; each begins with an empty request.
	for range 8 {
		var p pdu
		p.header[0], p.header[1] = 0x40|loginRequest, 0x87 // immediate; transit from operational negotiation to full feature
		copy(p.header[8:14], isid[:])
		binary.BigEndian.PutUint32(p.header[24:], s.cmdSN)
		binary.BigEndian.PutUint32(p.header[28:], s.statSN)
		p.data = data
		if err := s.send(&p); err != nil {
			return nil, err
		}
		answer, err := s.receive()
		if err != nil {
			return nil, err
		}
		if answer.opcode() != loginResponse {
			return nil, fmt.Errorf("log in: the target answers with opcode %#x", answer.opcode())
		}
		if class, detail := answer.header[36], answer.header[37]; class != 0 {
			return nil, fmt.Errorf("log in: the target refuses with status %02x%02x", class, detail)
		}
		s.statSN = binary.BigEndian.Uint32(answer.header[24:]) + 1
		if answer.header[1]&0x83 == 0x83 {
			return s, nil
		}
		data = nil
	}
	return nil, errors.New("log in: the target does not come to an end")
}

// Close logs out and closes the connection, whether the target answers or not.
func (s *Session) Close() error {
	s.tag++
	var p pdu
	p.header[0], p.header[1] = 0x40|logoutRequest, 0x80 // close the session
	binary.BigEndian.PutUint32(p.header[16:], s.tag)
	binary.BigEndian.PutUint32(p.header[24:], s.cmdSN)
	binary.BigEndian.PutUint32(p.header[28:], s.statSN)
	err := s.send(&p)
	if err == nil {
		_, err = s.next(logoutResponse)
	}
	return errors.Join(err, s.conn.Close())
}

// Abort closes the connection without a word, as an initiator that dies.
func (s *Session) Abort() { s.conn.Close() }

// Do sends a command to a LUN, with out as its data, and takes up to want bytes.
func (s *Session) Do(lun int, cdb, out []byte, want int) (Result, error) {
	if lun < 0 || lun > 255 || len(cdb) > 16 || len(out) > maxImmediate || want < 0 || len(out) > 0 && want > 0 {
		return Result{}, fmt.Errorf("command to LUN %d with %d bytes, %d out, %d in: not possible here", lun, len(cdb), len(out), want)
	}
	s.tag++
	var p pdu
	p.header[0], p.header[1] = scsiCommand, 0x81 // final; simple task attribute
	length := len(out)
	if want > 0 {
		p.header[1], length = p.header[1]|0x40, want
	} else if len(out) > 0 {
		p.header[1] |= 0x20
	}
	p.header[9] = byte(lun) // peripheral device addressing (SAM-5, 4.7.7.2)
	binary.BigEndian.PutUint32(p.header[16:], s.tag)
	binary.BigEndian.PutUint32(p.header[20:], uint32(length))
	binary.BigEndian.PutUint32(p.header[24:], s.cmdSN)
	binary.BigEndian.PutUint32(p.header[28:], s.statSN)
	copy(p.header[32:], cdb)
	p.data = out
	s.cmdSN++
	if err := s.send(&p); err != nil {
		return Result{}, err
	}
	var r Result
	buf := make([]byte, want)
	filled := 0 // data comes in order, as was agreed (13.18, 13.19)
	for {
		p, err := s.next(dataIn, scsiResponse)
		if err != nil {
			return Result{}, err
		}
		if p.opcode() == scsiResponse {
			if p.header[2] != 0 {
				return Result{}, fmt.Errorf("the target failed: response %#x", p.header[2])
			}
			r.Status, r.Data = p.header[3], buf[:filled]
			if len(p.data) >= 2 {
				n := int(binary.BigEndian.Uint16(p.data))
				r.Sense = p.data[2:min(2+n, len(p.data))]
			}
			return r, nil
		}
		at := binary.BigEndian.Uint32(p.header[40:])
		if uint64(at) != uint64(filled) || len(p.data) > want-filled {
			return Result{}, fmt.Errorf("the target sends %d bytes at %d, want at most %d at %d", len(p.data), at, want-filled, filled)
		}
		filled += copy(buf[filled:], p.data)
		if p.header[1]&1 != 0 { // the status comes with the last data
			r.Status, r.Data = p.header[3], buf[:filled]
			return r, nil
		}
	}
}

// next receives what answers the present command, one of the opcodes. It answers the target's pings.
func (s *Session) next(opcodes ...byte) (*pdu, error) {
	for {
		p, err := s.receive()
		if err != nil {
			return nil, err
		}
		tag := binary.BigEndian.Uint32(p.header[16:])
		hasStatus := p.opcode() != dataIn || p.header[1]&1 != 0
		if p.opcode() == nopIn {
			if transfer := binary.BigEndian.Uint32(p.header[20:]); transfer != noTag {
				if err := s.pong(transfer, p); err != nil {
					return nil, err
				}
				hasStatus = false // a ping has the number of the next answer (11.19.3)
			}
		}
		if hasStatus {
			s.statSN = binary.BigEndian.Uint32(p.header[24:]) + 1
		}
		if p.opcode() == nopIn {
			continue
		}
		for _, o := range opcodes {
			if p.opcode() == o && tag == s.tag {
				return p, nil
			}
		}
		return nil, fmt.Errorf("the target sends opcode %#x for task %d, want %#x for %d", p.opcode(), tag, opcodes, s.tag)
	}
}

func (s *Session) pong(transfer uint32, ping *pdu) error {
	var p pdu
	p.header[0], p.header[1] = 0x40|nopOut, 0x80
	copy(p.header[8:16], ping.header[8:16])
	binary.BigEndian.PutUint32(p.header[16:], noTag)
	binary.BigEndian.PutUint32(p.header[20:], transfer)
	binary.BigEndian.PutUint32(p.header[24:], s.cmdSN)
	binary.BigEndian.PutUint32(p.header[28:], s.statSN)
	return s.send(&p)
}

func (p *pdu) opcode() byte { return p.header[0] & 0x3f }

func (s *Session) send(p *pdu) error {
	n := len(p.data)
	p.header[5], p.header[6], p.header[7] = byte(n>>16), byte(n>>8), byte(n)
	b := append(p.header[:], p.data...)
	if _, err := s.conn.Write(append(b, make([]byte, -n&3)...)); err != nil {
		return fmt.Errorf("send to the target: %w", err)
	}
	return nil
}

func (s *Session) receive() (*pdu, error) {
	p, err := read(s.conn)
	if err != nil {
		return nil, fmt.Errorf("receive from the target: %w", err)
	}
	return p, nil
}

// read reads one unit.
func read(r io.Reader) (*pdu, error) {
	var p pdu
	if _, err := io.ReadFull(r, p.header[:]); err != nil {
		return nil, err
	}
	n := int(p.header[5])<<16 | int(p.header[6])<<8 | int(p.header[7])
	if p.header[4] != 0 || n > maxSegment {
		return nil, fmt.Errorf("a unit with %d words of additional headers and %d bytes of data, want none and at most %d", p.header[4], n, maxSegment)
	}
	p.data = make([]byte, n+(-n&3))
	if _, err := io.ReadFull(r, p.data); err != nil {
		return nil, fmt.Errorf("cut short: %w", err)
	}
	p.data = p.data[:n]
	return &p, nil
}
