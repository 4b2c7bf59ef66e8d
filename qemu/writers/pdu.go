package writers

import (
	"encoding/binary"
)

// headerBytes is the basic header segment of a PDU (RFC 7143, 11.2.1).
const headerBytes = 48

// Opcodes (RFC 7143, 11.2.1.2).
const (
	opNopOut    = 0x00
	opCommand   = 0x01
	opTask      = 0x02
	opLogin     = 0x03
	opText      = 0x04
	opDataOut   = 0x05
	opLogout    = 0x06
	opSNACK     = 0x10
	opNopIn     = 0x20
	opResponse  = 0x21
	opTaskResp  = 0x22
	opLoginResp = 0x23
	opTextResp  = 0x24
	opDataIn    = 0x25
	opLogoutRsp = 0x26
	opR2T       = 0x31
	opAsync     = 0x32
	opReject    = 0x3f
)

const (
	// trusted is how many PDUs in a row must fit before one is judged, after a boundary was lost.
	trusted = 3
	// fits is how far the numbers of PDUs around a gap may lie apart, in commands.
	fits = 1 << 16
	// largest data that is believed of a PDU while its boundary is not yet trusted, in bytes. Initiators and targets
	// take 256 KiB at most by default.
	largest = 1 << 20
	// forget is after how many bytes without a boundary the numbers from before are forgotten: there may have been
	// so many commands that they do not fit any more.
	forget = 16 << 20
)

// sink takes the PDUs of one direction.
type sink interface {
	// header takes a header, and says how many bytes of the data it wants. end is the sequence number after it.
	header(h *[headerBytes]byte, end uint32) int
	// data takes those bytes.
	data(d []byte)
	// lost says that PDUs may have been missed, and how many bytes were not judged.
	lost(n int)
	// found says that PDUs are judged again.
	found()
}

// parser cuts one direction of a connection into PDUs. Data is passed over without looking at it.
type parser struct {
	sink                     sink
	server                   bool // the target's direction
	headerDigest, dataDigest bool

	at      uint32 // sequence number of the next byte
	base    uint32 // of a byte at which a PDU began
	aligned bool   // base is known: PDUs are multiples of four bytes long

	head  [headerBytes]byte
	n     int // bytes of head that are there
	pre   int // to pass over before the data that is wanted
	want  int // data that is wanted and missing
	got   []byte
	after int // to pass over then

	trust   int // PDUs in a row that fitted; below trusted, nothing is judged
	hunting bool
	seen    numbers // of the last PDU
	last    numbers // of the last one that was judged before the boundary was lost
	blind   int     // bytes since
}

// numbers of a PDU rise with the commands: CmdSN and ExpStatSN, or the target's ExpCmdSN and MaxCmdSN.
type numbers struct {
	known    bool
	one, two uint32
}

// skips tells whether the next n bytes do not matter.
func (p *parser) skips(n int) bool {
	switch {
	case p.hunting || p.n > 0:
		return false
	case p.want == 0:
		return n <= p.pre+p.after
	}
	return n <= p.pre
}

func (p *parser) skip(n int) {
	p.at += uint32(n)
	k := min(n, p.pre)
	p.pre -= k
	p.after -= n - k
}

// lose gives up the boundary, and n bytes that were not seen.
func (p *parser) lose(n int) {
	p.at += uint32(n)
	if p.trust == trusted {
		p.last, p.blind = p.seen, 0
	} else {
		p.seen = p.last
	}
	n += p.n
	p.n, p.pre, p.want, p.after, p.got = 0, 0, 0, 0, nil
	p.hunting, p.trust = true, 0
	p.missed(n)
}

// missed counts bytes that are not judged.
func (p *parser) missed(n int) {
	if p.blind += n; p.blind > forget {
		p.last.known = false
	}
	p.sink.lost(n)
}

func (p *parser) feed(b []byte) {
	for first := true; len(b) > 0; first = false {
		var n int
		switch {
		case p.hunting:
			n = p.hunt(b, first)
		case p.pre > 0:
			n = min(len(b), p.pre)
			p.pre -= n
		case p.want > 0:
			n = min(len(b), p.want)
			p.got = append(p.got, b[:n]...)
			if p.want -= n; p.want == 0 {
				p.sink.data(p.got)
				p.got = p.got[:0]
			}
		case p.after > 0:
			n = min(len(b), p.after)
			p.after -= n
		default:
			n = copy(p.head[p.n:], b)
			p.n += n
		}
		p.at += uint32(n)
		b = b[n:]
		if p.trust < trusted {
			p.missed(n)
		}
		if p.n == headerBytes && !p.hunting {
			p.n = 0
			p.pdu()
		}
	}
}

// pdu takes the header that is complete.
func (p *parser) pdu() {
	h := &p.head
	data := int(h[5])<<16 | int(h[6])<<8 | int(h[7])
	if !p.valid(h) || p.trust < trusted && !p.plausible(h, data) {
		p.lose(0)
		return
	}
	p.anchor(h)
	p.pre = 4 * int(h[4])
	// Digests begin after the login, and it has none itself.
	login := h[0]&0x3f == opLogin || h[0]&0x3f == opLoginResp
	if p.headerDigest && !login {
		p.pre += 4
	}
	p.after = (data + 3) &^ 3
	if p.dataDigest && data > 0 && !login {
		p.after += 4
	}
	if p.trust < trusted {
		if p.trust++; p.trust < trusted {
			return
		}
		p.aligned, p.base = true, p.at
		p.sink.found()
	}
	p.want = min(p.sink.header(h, p.at), data)
	p.after -= p.want
}

// hunt looks for a boundary and returns how many bytes of b it has used up. A header that is found is in head. Where
// it is not known which of four bytes a PDU can begin at, only the beginnings of segments are tried.
func (p *parser) hunt(b []byte, first bool) int {
	if !p.aligned && p.n == 0 && !first {
		return len(b)
	}
	if off := int((p.base - p.at) & 3); p.aligned && p.n == 0 && off > 0 {
		return min(off, len(b))
	}
	old, all := p.n, b
	if old > 0 { // the end of the segment before, and enough to have seen all that begins there
		var both [2 * headerBytes]byte
		copy(both[:], p.head[:old])
		all = both[:old+copy(both[old:], b[:min(len(b), headerBytes)])]
	}
	i := 0
	for ; i+headerBytes <= len(all); i += 4 {
		if h := (*[headerBytes]byte)(all[i:]); p.candidate(h) {
			p.head, p.n, p.hunting = *h, headerBytes, false
			return i + headerBytes - old
		}
		if !p.aligned {
			p.n = 0
			return len(b)
		}
		if old > 0 && i+4 >= old && len(b) >= headerBytes { // the rest is in b alone
			p.n = 0
			return i + 4 - old
		}
	}
	p.n = copy(p.head[:], all[i:])
	return len(b)
}

func (p *parser) candidate(h *[headerBytes]byte) bool {
	return p.valid(h) && p.plausible(h, int(h[5])<<16|int(h[6])<<8|int(h[7]))
}

// valid tells what no PDU of this direction may break.
func (p *parser) valid(h *[headerBytes]byte) bool {
	if h[0]&0x80 != 0 {
		return false
	}
	op := h[0] & 0x3f
	if p.server {
		switch op {
		case opNopIn, opResponse, opTaskResp, opLoginResp, opTextResp, opDataIn, opLogoutRsp, opR2T, opAsync, opReject:
			return h[0] == op // I is the initiator's
		}
		return false
	}
	switch op {
	case opNopOut, opCommand, opTask, opLogin, opText, opDataOut, opLogout, opSNACK:
		return true
	}
	return false
}

// plausible is stricter, for a header that may as well be data: what is reserved must be zero, and the numbers must be
// near those of the PDU before.
func (p *parser) plausible(h *[headerBytes]byte, data int) bool {
	if data > largest || h[4] > 16 || h[4] != 0 && h[0]&0x3f != opCommand {
		return false
	}
	flags := h[1]
	ok := false
	switch h[0] & 0x3f {
	case opNopOut, opNopIn:
		ok = flags == 0x80 && h[2] == 0 && h[3] == 0
	case opCommand:
		ok = flags&0x18 == 0 && flags&7 <= 4 && h[2] == 0 && h[3] == 0
	case opTask, opLogout:
		ok = flags&0x80 != 0 && h[2] == 0 && h[3] == 0 && data == 0
	case opDataOut:
		ok = h[0] == opDataOut && flags&0x7f == 0 && h[2] == 0 && h[3] == 0 && binary.BigEndian.Uint32(h[24:]) == 0
	case opResponse:
		ok = flags&0xe1 == 0x80 && h[2] <= 1
	case opDataIn:
		ok = flags&0x38 == 0 && h[2] == 0
	case opR2T:
		ok = flags == 0x80 && h[2] == 0 && h[3] == 0 && data == 0
	case opTaskResp, opLogoutRsp, opAsync, opReject:
		ok = flags == 0x80
	}
	if !ok {
		return false
	}
	n, has := p.numbers(h)
	if p.server && (ahead(n.two, n.one) < -1 || ahead(n.two, n.one) > fits) {
		return false // the window of commands
	}
	if !p.seen.known {
		return has
	}
	return (!has || near(n.one, p.seen.one)) && near(n.two, p.seen.two)
}

func near(a, b uint32) bool { d := ahead(a, b); return d >= -fits && d <= fits }

// numbers reads them; has false: the first one is not in this PDU.
func (p *parser) numbers(h *[headerBytes]byte) (n numbers, has bool) {
	if p.server {
		return numbers{true, binary.BigEndian.Uint32(h[28:]), binary.BigEndian.Uint32(h[32:])}, true
	}
	return numbers{true, binary.BigEndian.Uint32(h[24:]), binary.BigEndian.Uint32(h[28:])}, h[0]&0x3f != opDataOut
}

func (p *parser) anchor(h *[headerBytes]byte) {
	n, has := p.numbers(h)
	if !has {
		n.one, n.known = p.seen.one, p.seen.known
	}
	p.seen = n
}
