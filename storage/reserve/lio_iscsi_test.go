package reserve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The smallest iSCSI initiator that makes block devices of the kernel's (iscsi_tcp): it logs in by itself and hands
// the connection over. It is for the test's own target only. A node uses iscsid: this one knows no
// authentication, no digests, and no way back from an error.

const lioTargetName = "iqn.2026-11.os.skein.test:target"

// iscsiSession is a session of the kernel's with one connection.
type iscsiSession struct {
	sid, host uint32
	socket    int
}

// Events of scsi/iscsi_if.h that go to the kernel; each comes back with its result.
const (
	iscsiCreateSession     = 11
	iscsiDestroySession    = 12
	iscsiCreateConnection  = 13
	iscsiDestroyConnection = 14
	iscsiBindConnection    = 15
	iscsiSetParameter      = 16
	iscsiStartConnection   = 17
	iscsiStopConnection    = 18
)

// iscsiKernel talks to the kernel's iSCSI initiator.
type iscsiKernel struct {
	t      testing.TB
	fd     int
	handle uint64
}

func openISCSI(t testing.TB) *iscsiKernel {
	t.Helper()
	text, err := os.ReadFile("/sys/class/iscsi_transport/tcp/handle")
	if err != nil {
		t.Fatal(err)
	}
	handle, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ISCSI)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(maxWait.Seconds())})
	}
	if err != nil {
		t.Fatal(err)
	}
	return &iscsiKernel{t, fd, handle}
}

// iscsiEvent is the length of struct iscsi_uevent: type, interface's error, transport, 24 bytes of arguments,
// 16 of results.
const iscsiEvent = 56

// call sends one event with its arguments and returns the results.
func (k *iscsiKernel) call(event uint32, args []uint32, data []byte) (uint32, uint32, error) {
	b := make([]byte, unix.SizeofNlMsghdr+iscsiEvent, unix.SizeofNlMsghdr+iscsiEvent+len(data))
	b = append(b, data...)
	le := binary.LittleEndian
	le.PutUint32(b, uint32(len(b)))
	le.PutUint16(b[4:], uint16(event))
	le.PutUint16(b[6:], unix.NLM_F_REQUEST)
	ev := b[unix.SizeofNlMsghdr:]
	le.PutUint32(ev, event)
	le.PutUint64(ev[8:], k.handle)
	for i, a := range args {
		le.PutUint32(ev[16+4*i:], a)
	}
	if err := unix.Sendto(k.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, 0, err
	}
	for {
		buf := make([]byte, 4096)
		n, _, err := unix.Recvfrom(k.fd, buf, 0)
		if err != nil {
			return 0, 0, fmt.Errorf("iSCSI event %d: %w", event, err)
		}
		if n < unix.SizeofNlMsghdr+iscsiEvent {
			continue
		}
		if ev := buf[unix.SizeofNlMsghdr:]; le.Uint32(ev) == event {
			if e := le.Uint32(ev[4:]); e != 0 {
				return 0, 0, fmt.Errorf("iSCSI event %d: error %d", event, int32(e))
			}
			return le.Uint32(ev[40:]), le.Uint32(ev[44:]), nil
		}
	}
}

// must is call for events whose result is 0 or an error.
func (k *iscsiKernel) must(event uint32, args []uint32, data []byte) {
	k.t.Helper()
	result, _, err := k.call(event, args, data)
	if err == nil && result != 0 {
		err = fmt.Errorf("iSCSI event %d %v: result %d", event, args, int32(result))
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// login connects, logs in as this initiator and makes the kernel go on with the connection.
func (k *iscsiKernel) login(initiator string, isid byte, portal [4]byte) *iscsiSession {
	k.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(maxWait.Seconds())})
	}
	if err == nil { // or each command waits for the acknowledgement of the last
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 3260, Addr: portal})
	}
	if err != nil {
		k.t.Fatalf("connect to the target: %v", err)
	}
	keys, statSN, err := iscsiLogin(fd, initiator, isid)
	if err != nil {
		k.t.Fatalf("log in as %s: %v", initiator, err)
	}
	// No time limit for the kernel.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{}); err != nil {
		k.t.Fatal(err)
	}
	s := &iscsiSession{socket: fd}
	// The login's command number was 1 and did not count; 32 commands at once, as iscsid has it.
	if s.sid, s.host, err = k.call(iscsiCreateSession, []uint32{1, 32<<16 | 128}, nil); err != nil {
		k.t.Fatal(err)
	}
	if _, _, err := k.call(iscsiCreateConnection, []uint32{s.sid, 0}, nil); err != nil {
		k.t.Fatal(err)
	}
	k.must(iscsiBindConnection, []uint32{s.sid, 0, uint32(fd), 0, 1}, nil)
	// Numbers of enum iscsi_param.
	for _, p := range []struct {
		param uint32
		value string
	}{
		{0, "65536"}, {1, keys["MaxRecvDataSegmentLength"]}, {2, "0"}, {3, "0"}, {4, "1"}, {5, "1"}, {6, "1"}, {7, "65536"}, {8, "262144"},
		{9, "1"}, {10, "1"}, {11, "0"}, {14, fmt.Sprint(statSN + 1)}, {15, lioTargetName}, {16, "1"}, {34, initiator},
	} {
		k.must(iscsiSetParameter, []uint32{s.sid, 0, p.param, uint32(len(p.value) + 1)}, append([]byte(p.value), 0))
	}
	k.must(iscsiStartConnection, []uint32{s.sid, 0}, nil)
	return s
}

// logout ends the session without a word, as a node does that dies.
func (k *iscsiKernel) logout(s *iscsiSession) {
	k.t.Helper()
	const terminate = 1
	k.must(iscsiStopConnection, []uint32{s.sid, 0, 0, 0, terminate}, nil)
	k.must(iscsiDestroyConnection, []uint32{s.sid, 0}, nil)
	k.must(iscsiDestroySession, []uint32{s.sid}, nil)
	unix.Close(s.socket)
}

// iscsiLogin goes through the login phase (RFC 7143, 6.3) and returns the target's keys and last status number.
func iscsiLogin(fd int, initiator string, isid byte) (map[string]string, uint32, error) {
	offer := []string{
		"InitiatorName=" + initiator, "TargetName=" + lioTargetName, "SessionType=Normal", "HeaderDigest=None", "DataDigest=None",
		"MaxRecvDataSegmentLength=65536", "MaxBurstLength=262144", "FirstBurstLength=65536", "InitialR2T=Yes", "ImmediateData=Yes",
		"MaxOutstandingR2T=1", "MaxConnections=1", "ErrorRecoveryLevel=0", "DataPDUInOrder=Yes", "DataSequenceInOrder=Yes",
		"DefaultTime2Wait=2", "DefaultTime2Retain=0",
	}
	data := []byte(strings.Join(offer, "\x00") + "\x00")
	keys := map[string]string{"MaxRecvDataSegmentLength": "8192"}
	be := binary.BigEndian
	var statSN uint32
	for range 5 {
		pdu := make([]byte, 48, 48+len(data)+3)
		pdu[0], pdu[1] = 0x43, 0x87 // immediate login; from the operational stage on to full feature
		pdu[5], pdu[6], pdu[7] = byte(len(data)>>16), byte(len(data)>>8), byte(len(data))
		pdu[8], pdu[13] = 0x80, isid
		be.PutUint32(pdu[16:], 1)
		be.PutUint32(pdu[24:], 1)
		be.PutUint32(pdu[28:], statSN)
		pdu = append(pdu, data...)
		pdu = append(pdu, make([]byte, -len(pdu)&3)...)
		if _, err := unix.Write(fd, pdu); err != nil {
			return nil, 0, err
		}
		answer := make([]byte, 48)
		if err := readFull(fd, answer); err != nil {
			return nil, 0, err
		}
		body := make([]byte, (int(answer[5])<<16|int(answer[6])<<8|int(answer[7])+3)&^3)
		if err := readFull(fd, body); err != nil {
			return nil, 0, err
		}
		if answer[0] != 0x23 || answer[36] != 0 {
			return nil, 0, fmt.Errorf("refused: opcode %#x, status %02x%02x", answer[0], answer[36], answer[37])
		}
		for kv := range strings.SplitSeq(string(body), "\x00") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				keys[k] = v
			}
		}
		statSN = be.Uint32(answer[24:])
		if answer[1] == 0x87 {
			return keys, statSN, nil
		}
		data, statSN = nil, statSN+1
	}
	return nil, 0, errors.New("the target does not come to an end")
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the target closed the connection")
		}
		b = b[n:]
	}
	return nil
}

// disk makes the kernel look for the session's disk and returns its device.
func (l *lioTarget) disk(s *iscsiSession) string {
	l.t.Helper()
	l.write(fmt.Sprintf("/sys/class/scsi_host/host%d/scan", s.host), "- - -")
	var dev string
	l.until("disk of the session", func() bool {
		found, err := filepath.Glob(fmt.Sprintf("/sys/bus/scsi/devices/%d:0:0:0/block/*", s.host))
		if err != nil || len(found) != 1 {
			return false
		}
		dev = "/dev/" + filepath.Base(found[0])
		fd, err := unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0) // refused until the kernel has looked at the disk
		if err != nil {
			return false
		}
		unix.Close(fd)
		return true
	})
	return dev
}
