package netboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// TFTP is a server that only gives files (RFC 1350), with the options blksize (RFC 2348), timeout and tsize (RFC 2349)
// and windowsize (RFC 7440), which the firmware of UEFI asks for and libraries at hand do not have. It is for loaders;
// what is large goes by HTTP.
type TFTP struct {
	// Open gives a file and its size.
	Open func(name string, from netip.AddrPort) (io.ReadCloser, int64, error)
	// Listen opens a socket of its own for a transfer, on the address that was asked.
	Listen func() (net.PacketConn, error)
	// Done is told of each transfer that ended; err is nil if the client has the whole file.
	Done func(name string, from netip.AddrPort, sent int64, err error)

	wg    sync.WaitGroup
	mu    sync.Mutex
	busy  map[netip.AddrPort]bool // transfers, by client
	socks map[net.PacketConn]bool
	ended bool
}

const (
	opRead, opWrite, opData, opAck, opError, opOptionAck = 1, 2, 3, 4, 5, 6

	tftpBlock     = 512  // without an option
	maxTFTPBlock  = 1468 // what fits an Ethernet frame: fragments are what firmware is worst at
	maxTFTPWindow = 16
	tftpTimeout   = time.Second
	tftpTries     = 6
	maxTransfers  = 512
	maxTFTPName   = 255
)

// ErrAborted: the client does not want the file any more. UEFI's first request is only for the size, and ends so.
var ErrAborted = errors.New("the client ended the transfer")

// request is what a client asks for.
type request struct {
	name    string
	options map[string]string // by name in lower case
}

// parseRequest reads a request for a file.
func parseRequest(p []byte) (request, error) {
	if len(p) < 2 {
		return request{}, errors.New("too short")
	}
	switch op := binary.BigEndian.Uint16(p); op {
	case opRead:
	case opWrite:
		return request{}, errors.New("nothing can be written here")
	default:
		return request{}, fmt.Errorf("operation %d is no request", op)
	}
	fields := bytes.Split(p[2:], []byte{0})
	if len(fields) < 3 || len(fields[len(fields)-1]) != 0 || len(fields) > 32 {
		return request{}, errors.New("not a file name and a mode, each with a zero after it")
	}
	fields = fields[:len(fields)-1]
	r := request{name: string(fields[0]), options: map[string]string{}}
	if r.name == "" || len(r.name) > maxTFTPName {
		return request{}, errors.New("no usable file name")
	}
	if mode := strings.ToLower(string(fields[1])); mode != "octet" {
		return request{}, fmt.Errorf("mode %q: files are given as they are, in mode octet", mode)
	}
	for i := 2; i+1 < len(fields); i += 2 {
		r.options[strings.ToLower(string(fields[i]))] = string(fields[i+1])
	}
	return r, nil
}

// terms are what a transfer goes by.
type terms struct {
	block, window int
	timeout       time.Duration
	ack           []byte // the packet that confirms options; nil: there were none
}

// agree settles the options. Those that make no sense are left out, as RFC 2347 has it.
func (r *request) agree(size int64) terms {
	t := terms{block: tftpBlock, window: 1, timeout: tftpTimeout}
	var b []byte
	confirm := func(name, value string) { b = append(append(append(append(b, name...), 0), value...), 0) }
	number := func(name string, lo, hi int) (int, bool) {
		n, err := strconv.Atoi(r.options[name])
		return min(n, hi), err == nil && n >= lo
	}
	if n, ok := number("blksize", 8, maxTFTPBlock); ok {
		t.block = n
		confirm("blksize", strconv.Itoa(n))
	}
	if n, ok := number("timeout", 1, 255); ok && n <= 10 {
		t.timeout = time.Duration(n) * time.Second
		confirm("timeout", strconv.Itoa(n))
	}
	if _, ok := r.options["tsize"]; ok {
		confirm("tsize", strconv.FormatInt(size, 10))
	}
	if n, ok := number("windowsize", 1, maxTFTPWindow); ok {
		t.window = n
		confirm("windowsize", strconv.Itoa(n))
	}
	if b != nil {
		t.ack = append([]byte{0, opOptionAck}, b...)
	}
	return t
}

func errorPacket(code uint16, text string) []byte {
	p := binary.BigEndian.AppendUint16([]byte{0, opError}, code)
	return append(append(p, text...), 0)
}

// Serve takes requests on a socket until it is closed.
func (s *TFTP) Serve(conn net.PacketConn) error {
	buf := make([]byte, 2048)
	for {
		n, addr, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		from, err := netip.ParseAddrPort(addr.String())
		if err != nil {
			continue
		}
		r, err := parseRequest(buf[:n])
		if err != nil {
			if n >= 2 && binary.BigEndian.Uint16(buf) != opError { // errors are not answered
				_, _ = conn.WriteTo(errorPacket(4, err.Error()), addr)
			}
			continue
		}
		if !s.begin(from) {
			continue // a repetition, or too many at once: it asks again
		}
		s.wg.Go(func() {
			defer s.end(from)
			sent, err := s.transfer(r, addr, from)
			if s.Done != nil {
				s.Done(r.name, from, sent, err)
			}
		})
	}
}

func (s *TFTP) begin(from netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy == nil {
		s.busy, s.socks = map[netip.AddrPort]bool{}, map[net.PacketConn]bool{}
	}
	if s.ended || s.busy[from] || len(s.busy) >= maxTransfers {
		return false
	}
	s.busy[from] = true
	return true
}

func (s *TFTP) end(from netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, from)
}

// Close ends the transfers. The socket of Serve is the caller's to close.
func (s *TFTP) Close() {
	s.mu.Lock()
	s.ended = true
	for c := range s.socks {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// open makes the socket of a transfer, which Close closes.
func (s *TFTP) open() (net.PacketConn, error) {
	conn, err := s.Listen()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		conn.Close()
		return nil, net.ErrClosed
	}
	s.socks[conn] = true
	return conn, nil
}

func (s *TFTP) transfer(r request, to net.Addr, from netip.AddrPort) (int64, error) {
	conn, err := s.open()
	if err != nil {
		return 0, err
	}
	defer func() {
		s.mu.Lock()
		delete(s.socks, conn)
		s.mu.Unlock()
		conn.Close()
	}()
	f, size, err := s.Open(r.name, from)
	if err != nil {
		code := uint16(0)
		if errors.Is(err, os.ErrNotExist) {
			code = 1
		}
		_, _ = conn.WriteTo(errorPacket(code, err.Error()), to)
		return 0, err
	}
	defer f.Close()
	t := r.agree(size)
	c := &transfer{conn: conn, to: to, terms: t}
	if t.ack != nil {
		if err := c.confirm(); err != nil {
			return 0, err
		}
	}
	return c.send(f)
}

// transfer is one file on its way to one client.
type transfer struct {
	conn net.PacketConn
	to   net.Addr
	terms
	in [1024]byte
}

// answer waits for an acknowledgement.
func (c *transfer) answer() (block uint16, err error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	for {
		n, addr, err := c.conn.ReadFrom(c.in[:])
		if err != nil {
			return 0, err
		}
		if addr.String() != c.to.String() || n < 4 {
			continue // a stranger
		}
		switch binary.BigEndian.Uint16(c.in[:]) {
		case opAck:
			return binary.BigEndian.Uint16(c.in[2:]), nil
		case opError:
			text, _, _ := strings.Cut(string(c.in[4:n]), "\x00")
			return 0, fmt.Errorf("%w: error %d, %q", ErrAborted, binary.BigEndian.Uint16(c.in[2:]), text)
		}
	}
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// confirm has the options acknowledged, which is as block 0.
func (c *transfer) confirm() error {
	var err error
	for range tftpTries {
		if _, err = c.conn.WriteTo(c.ack, c.to); err != nil {
			return err
		}
		var n uint16
		if n, err = c.answer(); err == nil && n == 0 {
			return nil
		} else if err != nil && !timedOut(err) {
			return err
		}
	}
	return fmt.Errorf("no answer to the options: %w", err)
}

// send sends the file in windows of blocks. The last block is a short one, if need be of no bytes.
func (c *transfer) send(f io.Reader) (sent int64, err error) {
	var blocks [][]byte // sent and not acknowledged; the first has number base+1
	base, last := uint64(0), false
	for tries := 0; ; {
		for len(blocks) < c.window && !last {
			p := make([]byte, 4+c.block)
			n, err := io.ReadFull(f, p[4:])
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				_, _ = c.conn.WriteTo(errorPacket(0, "the file cannot be read"), c.to)
				return sent, err
			}
			last = n < c.block
			binary.BigEndian.PutUint16(p, opData)
			binary.BigEndian.PutUint16(p[2:], uint16(base+uint64(len(blocks))+1))
			blocks = append(blocks, p[:4+n])
		}
		if len(blocks) == 0 {
			return sent, nil
		}
		for _, b := range blocks {
			if _, err := c.conn.WriteTo(b, c.to); err != nil {
				return sent, err
			}
		}
		n, err := c.answer()
		got := n - uint16(base) // blocks of this window that arrived; numbers go round
		switch {
		case err != nil && !timedOut(err):
			return sent, err
		case err != nil || got == 0 || int(got) > len(blocks): // of a window before: said twice
			if tries++; tries >= tftpTries {
				return sent, fmt.Errorf("no answer to block %d: %w", base+1, errors.Join(err, os.ErrDeadlineExceeded))
			}
			continue
		}
		for _, b := range blocks[:got] {
			sent += int64(len(b) - 4)
		}
		blocks, base, tries = blocks[got:], base+uint64(got), 0
	}
}
