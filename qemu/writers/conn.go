package writers

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// maxText bounds the text of a login, in bytes.
	maxText = 64 << 10
	// maxPending bounds the commands of a connection without an answer. Initiators have 128 by default.
	maxPending = 8192
)

// nexus is an initiator's port and a target's port (SAM-5): it is what registers a key.
type nexus struct {
	node      string
	initiator string
	isid      string
	group     int // the target's portal group
}

// conn is one TCP connection to a target.
type conn struct {
	j      *Judge
	lan    int
	client netip.AddrPort
	server netip.AddrPort
	port   string // of the switch, on the client's side
	since  time.Time
	last   time.Time
	closed bool // FIN or RST was seen

	toTarget, toNode way
	isn              uint32
	fresh            bool // its SYN was seen

	nexus    nexus
	target   string
	session  string // SessionType
	text     [2][]byte
	loggedIn bool
	digest   [2]string // header, data

	pending map[uint32]*command // by initiator task tag
	unacked []*command          // in the order of their sequence numbers
	writing *command            // whose parameters come next
	offset  int                 // where in them

	commands, writes, unanswered uint64
}

// way is one direction.
type way struct {
	stream
	c   *conn
	gap *Gap // that is open
}

// command is a SCSI command without an answer yet.
type command struct {
	conn     *conn
	lun      *lun
	nexus    nexus
	tag      uint32
	cdb      [16]byte
	bytes    uint32 // expected data transfer length
	seen     time.Time
	end      uint32 // sequence number after it
	acked    time.Time
	param    [reserveBytes]byte
	have     int // bytes of param
	answered bool
}

func (c *conn) open() {
	c.toTarget.c, c.toNode.c = c, c
	c.toTarget.pdus.sink, c.toNode.pdus.sink = (*commands)(c), (*answers)(c)
	c.toNode.pdus.server = true
	c.pending = map[uint32]*command{}
}

// segment takes one segment.
func (c *conn) segment(s *Segment) {
	c.last = c.j.now
	to, from := &c.toTarget, &c.toNode
	if s.FromServer {
		to, from = from, to
	}
	seq := s.Seq
	if s.Flags&flagSYN != 0 {
		seq++
		if !to.known {
			to.start(seq)
		}
	}
	if s.Flags&flagACK != 0 && s.Flags&flagRST == 0 {
		if !from.known && c.fresh {
			from.start(s.Ack) // the other side's SYN was not seen
		}
		from.acked(s.Ack)
		if s.FromServer {
			c.acknowledge(s.Ack)
		}
	}
	if len(s.Payload) > 0 {
		if !to.known {
			to.join(seq)
		}
		if !to.take(seq, s.Payload) {
			c.j.blind = c.j.now
			c.j.unjudged += uint64(len(s.Payload))
		}
	}
	if s.Flags&flagFIN != 0 && to.known {
		to.ended, to.end = true, seq+uint32(len(s.Payload))
	}
	if s.Flags&(flagFIN|flagRST) != 0 {
		c.closed = true
	}
}

// acknowledge notes when the target's TCP said that it has commands.
func (c *conn) acknowledge(ack uint32) {
	n := 0
	for n < len(c.unacked) && ahead(ack, c.unacked[n].end) >= 0 {
		c.unacked[n].acked = c.j.now
		n++
	}
	c.unacked = c.unacked[n:]
}

// end gives up what has no answer.
func (c *conn) end() {
	c.unanswered += uint64(len(c.pending))
	clear(c.pending)
	c.unacked, c.writing = nil, nil
	c.toTarget.closeGap()
	c.toNode.closeGap()
}

func (w *way) lost(n int) {
	c := w.c
	c.j.blind = c.j.now
	c.j.unjudged += uint64(n)
	if w.gap == nil {
		c.j.gapCount++
		w.gap = &Gap{Time: c.j.now, LAN: c.lan, Node: c.node(), Client: c.client, Server: c.server, Answers: w == &c.toNode}
		c.j.openGaps[w.gap] = struct{}{}
	}
	w.gap.Bytes += uint64(n)
}

func (w *way) closeGap() {
	if w.gap == nil {
		return
	}
	w.gap.Until = w.c.j.now
	w.c.j.addGap(*w.gap)
	delete(w.c.j.openGaps, w.gap)
	w.gap = nil
}

// commands is the direction to the target as a sink.
type commands conn

func (s *commands) lost(n int) { (*conn)(s).writing = nil; s.toTarget.lost(n) }
func (s *commands) found()     { s.toTarget.closeGap() }

func (s *commands) header(h *[headerBytes]byte, end uint32) int {
	c := (*conn)(s)
	tag := binary.BigEndian.Uint32(h[16:])
	c.writing = nil
	switch h[0] & 0x3f {
	case opLogin:
		c.nexus.isid = hex.EncodeToString(h[8:14])
		return maxText - len(c.text[0])
	case opCommand:
		return c.command(h, tag, end)
	case opDataOut:
		if p := c.pending[tag]; p != nil && p.cdb[0] == cdbReserveOut {
			c.writing, c.offset = p, int(binary.BigEndian.Uint32(h[40:]))
			return max(0, reserveBytes-c.offset)
		}
	}
	return 0
}

func (s *commands) data(d []byte) {
	c := (*conn)(s)
	if p := c.writing; p != nil {
		if c.offset == p.have { // in order (DataPDUInOrder); otherwise it is missing something, and says so
			p.have += copy(p.param[p.have:], d)
		}
		return
	}
	c.text[0] = append(c.text[0], d...)
	for key, value := range keys(c.text[0]) {
		switch key {
		case "InitiatorName":
			c.nexus.initiator = c.j.name(value)
		case "TargetName":
			c.target = c.j.name(value)
		case "SessionType":
			c.session = value
		}
	}
}

// keys reads the pairs of a login's text (RFC 7143, 6.1).
func keys(text []byte) map[string]string {
	m := map[string]string{}
	for pair := range strings.SplitSeq(string(text), "\x00") {
		if k, v, ok := strings.Cut(pair, "="); ok && len(m) < 256 {
			m[k] = v
		}
	}
	return m
}

// node is who is on the client's side: the machine on the port of the switch, whatever it calls itself. Initiators that
// log in from one port by different names are different nodes (the lab's host plays several).
func (c *conn) node() string {
	if c.nexus.node != "" {
		return c.nexus.node
	}
	if first, ok := c.j.ports[c.port]; c.port != "" && (!ok || first == c.nexus.initiator || c.nexus.initiator == "") {
		return c.port
	}
	return c.nexus.initiator
}

// settle fixes who the node is, when it has logged in.
func (c *conn) settle() {
	if c.nexus.node != "" {
		return
	}
	c.nexus.node = c.node()
	if _, ok := c.j.ports[c.port]; !ok && c.nexus.initiator != "" {
		c.j.ports[c.port] = c.nexus.initiator
	}
}

func (c *conn) command(h *[headerBytes]byte, tag, end uint32) int {
	if c.session == "Discovery" {
		return 0
	}
	l := c.j.lun(c, lunOf(h[8:16]))
	if l == nil {
		return 0
	}
	c.settle()
	c.commands++
	c.j.commands++
	l.Commands++
	cdb := h[32:48]
	if !writes(cdb) && cdb[0] != cdbReserveOut {
		return 0
	}
	if old := c.pending[tag]; old != nil {
		c.unanswered++
	} else if len(c.pending) >= maxPending {
		c.j.blind = c.j.now
		c.j.dropped++
		return 0
	}
	p := &command{conn: c, lun: l, nexus: c.nexus, tag: tag, cdb: [16]byte(cdb), bytes: binary.BigEndian.Uint32(h[20:]), seen: c.j.now, end: end}
	c.pending[tag] = p
	if len(c.unacked) < maxPending {
		c.unacked = append(c.unacked, p)
	}
	if cdb[0] != cdbReserveOut {
		return 0
	}
	if p.action().moves() {
		l.asked[p.nexus.node] = p
	}
	c.writing, c.offset = p, 0
	return reserveBytes
}

func (p *command) action() Reserve { return Reserve(p.cdb[1] & 0x1f) }

// received is the earliest moment at which the target can have got the command.
func (p *command) received() time.Time {
	if t := p.acked.Add(-p.conn.j.limits.Acknowledge); !p.acked.IsZero() && t.After(p.seen) {
		return t
	}
	return p.seen
}

// answers is the direction from the target as a sink.
type answers conn

func (s *answers) lost(n int) { s.toNode.lost(n) }
func (s *answers) found()     { s.toNode.closeGap() }

func (s *answers) header(h *[headerBytes]byte, _ uint32) int {
	c := (*conn)(s)
	switch h[0] {
	case opLoginResp:
		// The last answer of a login: to full feature phase (T, NSG 3), status success.
		c.loggedIn = h[1]&0x83 == 0x83 && h[36] == 0
		if h[5]|h[6]|h[7] == 0 {
			c.login()
		}
		return maxText - len(c.text[1])
	case opResponse, opDataIn:
		if h[0] == opDataIn && h[1]&1 == 0 {
			return 0 // without status
		}
		tag := binary.BigEndian.Uint32(h[16:])
		p := c.pending[tag]
		if p == nil {
			return 0
		}
		delete(c.pending, tag)
		p.answered = true
		if h[0] == opResponse && h[2] != 0 {
			c.unanswered++ // the target failed: there is no status
			return 0
		}
		if p.cdb[0] == cdbReserveOut {
			p.lun.reserved(p, h[3])
		} else {
			p.lun.wrote(p, h[3])
		}
	}
	return 0
}

func (s *answers) data(d []byte) {
	c := (*conn)(s)
	c.text[1] = append(c.text[1], d...)
	if g, err := strconv.Atoi(keys(c.text[1])["TargetPortalGroupTag"]); err == nil {
		c.nexus.group = g
	}
	c.login()
}

// login ends the login, if it was the last answer: digests are on from here.
func (c *conn) login() {
	if !c.loggedIn {
		return
	}
	asked, told := keys(c.text[0]), keys(c.text[1])
	for i, key := range []string{"HeaderDigest", "DataDigest"} {
		c.digest[i] = "None"
		// Who is asked chooses from the list (RFC 7143, 6.2.1): the target, or the initiator if the target asked.
		if v := told[key]; v != "" && !strings.Contains(v, ",") {
			c.digest[i] = v
		} else if w := asked[key]; v != "" && w != "" {
			c.digest[i] = w
		}
	}
	for _, w := range []*way{&c.toTarget, &c.toNode} {
		w.pdus.headerDigest, w.pdus.dataDigest = c.digest[0] == "CRC32C", c.digest[1] == "CRC32C"
	}
	c.text = [2][]byte{}
	if c.session != "Discovery" && c.target != "" && len(c.j.targets) < maxNames {
		c.j.targets[c.server.Addr()] = c.target
	}
}
