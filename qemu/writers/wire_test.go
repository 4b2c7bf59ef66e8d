package writers

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	target = "iqn.2026-01.dev.skein:lab"
	mss    = 1448
)

// wire carries the frames of hand-built connections to a judge.
type wire struct {
	t     testing.TB
	judge *Judge
	now   time.Time
	port  uint16 // of the next connection
	found []Record
	ipv6  bool
	frame func(port string, lan int, frame []byte) // nil: to the judge
}

func newWire(t testing.TB) *wire {
	return &wire{t: t, judge: NewJudge(DefaultLimits()), now: start, port: 40000}
}

func (w *wire) wait(ms int) { w.now = w.now.Add(time.Duration(ms) * time.Millisecond) }

// session is a connection of a node with a target, from both sides.
type session struct {
	w              *wire
	node           string
	lan            int
	isid           byte
	client, server netip.AddrPort
	seq, ack       uint32 // next byte of the node, of the target
	acked          uint32 // the target's acknowledgement
	tag            uint32
	cmd, stat      uint32
	digests        string
	late           bool // the target acknowledges only when told
	lose           bool // what is sent is not seen by the judge
	held           []func()
	holding        bool
}

func (s *session) pass(port string, f []byte) {
	if s.lose {
		return
	}
	send := func() {
		s.w.now = s.w.now.Add(time.Microsecond)
		if s.w.frame != nil {
			s.w.frame(port, s.lan, f)
			return
		}
		s.w.found = append(s.w.found, s.w.judge.Frame(s.w.now, s.lan, port, f)...)
	}
	if s.holding {
		s.held = append(s.held, send)
		return
	}
	send()
}

// node sends a segment to the target, and the target's acknowledgement unless it is late.
func (s *session) toTarget(seq uint32, flags byte, data []byte) {
	s.pass(s.node, s.w.packet(s.client, s.server, seq, s.ack, flags, data))
}

func (s *session) toNode(seq uint32, flags byte, data []byte) {
	s.pass("san", s.w.packet(s.server, s.client, seq, s.acked, flags, data))
}

// send sends a PDU of the node, cut into segments.
func (s *session) send(pdu []byte) {
	for len(pdu) > 0 {
		n := min(mss, len(pdu))
		s.toTarget(s.seq, flagACK, pdu[:n])
		s.seq += uint32(n)
		pdu = pdu[n:]
	}
	if !s.late {
		s.acknowledge()
	}
}

// acknowledge sends the target's acknowledgement of all.
func (s *session) acknowledge() {
	s.acked = s.seq
	s.toNode(s.ack, flagACK, nil)
}

// answer sends a PDU of the target, cut into segments, and the node's acknowledgement.
func (s *session) answer(pdu []byte) {
	for len(pdu) > 0 {
		n := min(mss, len(pdu))
		s.toNode(s.ack, flagACK, pdu[:n])
		s.ack += uint32(n)
		pdu = pdu[n:]
	}
	s.toTarget(s.seq, flagACK, nil)
}

func (w *wire) packet(from, to netip.AddrPort, seq, ack uint32, flags byte, data []byte) []byte {
	f := append(make([]byte, 0, 80+len(data)), 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
	if from.Addr().Is4() {
		f = append(f, 8, 0, 0x45, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(40+len(data)))
		f = append(f, 0, 0, 0x40, 0, 64, protoTCP, 0, 0)
	} else {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(20+len(data)))
		f = append(f, protoTCP, 64)
	}
	f = append(append(f, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	f = binary.BigEndian.AppendUint16(f, from.Port())
	f = binary.BigEndian.AppendUint16(f, to.Port())
	f = binary.BigEndian.AppendUint32(f, seq)
	f = binary.BigEndian.AppendUint32(f, ack)
	f = append(f, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	f = append(f, data...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

func initiator(node string) string { return "iqn.2026-01.dev.skein:" + node }

// connect opens a connection without logging in.
func (w *wire) connect(node string, lan int) *session {
	n := node[1] - '0'
	s := &session{w: w, node: node, lan: lan, isid: byte(lan), seq: 0xfffffff0 + uint32(w.port), ack: 77 * uint32(w.port), cmd: 1, stat: 0xfffffffe,
		client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(lan), n}), w.port),
		server: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(lan), 251}), Port)}
	if w.ipv6 {
		s.client = netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd77::%d:%d", lan, n)), w.port)
		s.server = netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd77::%d:251", lan)), Port)
	}
	w.port++
	return s
}

func (s *session) shake() {
	s.toTarget(s.seq, flagSYN, nil)
	s.seq++
	s.acked = s.seq
	s.toNode(s.ack, flagSYN|flagACK, nil)
	s.ack++
	s.toTarget(s.seq, flagACK, nil)
}

// login opens a connection and logs in.
func (w *wire) login(node string, lan int) *session {
	s := w.connect(node, lan)
	s.shake()
	s.logIn("None")
	return s
}

func (s *session) logIn(digests string) {
	text := "InitiatorName=" + initiator(s.node) + "\x00TargetName=" + target + "\x00SessionType=Normal\x00HeaderDigest=CRC32C,None\x00DataDigest=CRC32C,None\x00"
	h := s.header(opLogin|0x40, 0x87)
	copy(h[8:14], []byte{0, 2, 0x3d, 0, s.isid, 0})
	s.send(pdu(h, []byte(text)))
	h = s.reply(opLoginResp, 0x87)
	s.answer(pdu(h, []byte("TargetPortalGroupTag=1\x00HeaderDigest="+digests+"\x00DataDigest="+digests+"\x00")))
	s.digests = digests
}

func pdu(h, data []byte) []byte {
	h[5], h[6], h[7] = byte(len(data)>>16), byte(len(data)>>8), byte(len(data))
	return append(append(h, data...), make([]byte, -len(data)&3)...)
}

// cut is a PDU with the digests of the session, which nobody checks.
func (s *session) cut(h, data []byte) []byte {
	p := pdu(h, data)
	if s.digests != "CRC32C" {
		return p
	}
	p = append(append(append([]byte{}, p[:48]...), 0xde, 0xad, 0xbe, 0xef), p[48:]...)
	if len(data) > 0 {
		p = append(p, 0xde, 0xad, 0xbe, 0xef)
	}
	return p
}

func (s *session) header(op, flags byte) []byte {
	h := make([]byte, headerBytes)
	h[0], h[1] = op, flags
	binary.BigEndian.PutUint32(h[16:], s.tag)
	if op&0x3f != opDataOut {
		binary.BigEndian.PutUint32(h[24:], s.cmd)
	}
	binary.BigEndian.PutUint32(h[28:], s.stat)
	return h
}

func (s *session) reply(op, flags byte) []byte {
	h := make([]byte, headerBytes)
	h[0], h[1] = op, flags
	binary.BigEndian.PutUint32(h[16:], s.tag)
	binary.BigEndian.PutUint32(h[24:], s.stat)
	binary.BigEndian.PutUint32(h[28:], s.cmd+1)
	binary.BigEndian.PutUint32(h[32:], s.cmd+64)
	return h
}

// command sends a command with immediate data and returns its tag.
func (s *session) command(lun byte, length int, cdb, immediate []byte) uint32 {
	s.tag++
	s.cmd++
	h := s.header(opCommand, 0xa0)
	h[9] = lun
	binary.BigEndian.PutUint32(h[20:], uint32(length))
	copy(h[32:], cdb)
	s.send(s.cut(h, immediate))
	return s.tag
}

// status answers a command.
func (s *session) status(tag uint32, status byte) {
	s.stat++
	was := s.tag
	s.tag = tag
	h := s.reply(opResponse, 0x80)
	s.tag = was
	h[3] = status
	s.answer(s.cut(h, nil))
}

// write sends WRITE(10) with so much data: some with the command, the rest as Data-Out.
func (s *session) write(lun byte, length int) uint32 {
	first := min(length, 8192)
	tag := s.command(lun, length, []byte{0x2a, 0, 0, 0, 0, 0, 0, 0, byte(length / 512), 0}, make([]byte, first))
	for at := first; at < length; at += 65536 {
		h := s.header(opDataOut, 0x80)
		binary.BigEndian.PutUint32(h[40:], uint32(at))
		s.send(s.cut(h, make([]byte, min(65536, length-at))))
	}
	return tag
}

func params(key, other uint64) []byte {
	p := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, key), other)
	return append(p, 0, 0, 0, 0, 1, 0, 0, 0)
}

func (s *session) ask(lun byte, do Reserve, key, other uint64) uint32 {
	return s.command(lun, 24, []byte{cdbReserveOut, byte(do), 5, 0, 0, 0, 0, 0, 24, 0}, params(key, other))
}

// reserve does a PERSISTENT RESERVE OUT that is answered GOOD.
func (s *session) reserve(lun byte, do Reserve, key, other uint64) {
	s.w.wait(1)
	tag := s.ask(lun, do, key, other)
	s.w.wait(1)
	s.status(tag, statusGood)
	s.w.wait(1)
}

// written does a write that is answered.
func (s *session) written(lun byte, status byte) {
	s.w.wait(1)
	tag := s.write(lun, 4096)
	s.w.wait(1)
	s.status(tag, status)
	s.w.wait(1)
}

// claim is what a node does to get a disk: its epoch is in the key.
func (s *session) claim(lun byte, key, old uint64) {
	s.reserve(lun, RegisterIgnore, 0, key)
	if old == 0 {
		s.reserve(lun, ReserveDisk, key, 0)
		return
	}
	s.reserve(lun, PreemptAbort, key, old)
}

// brief is a report in short.
func brief(r Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Verdict)
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "lun %d: %s %s write over %s, %d\n", v.LUN, v.Node, v.Fault, v.Fence.By, v.Writes)
		if v.Doubt != "" {
			fmt.Fprintf(&b, "doubt: %s\n", v.Doubt)
		}
	}
	for _, o := range r.Overlaps {
		fmt.Fprintf(&b, "lun %d: %s overlaps %s, %d\n", o.LUN, o.Node, o.Over, o.Writes)
	}
	return b.String()
}

func (w *wire) check(want string) {
	w.t.Helper()
	if got := strings.TrimSpace(brief(w.judge.Report([]uint64{0}))); got != strings.TrimSpace(want) {
		w.t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
