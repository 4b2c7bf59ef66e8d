package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Replies of RFC 1928, section 6.
const (
	replyDone            = 0
	replyNotAllowed      = 2
	replyHostUnreachable = 4
	replyRefused         = 5
	replyNoCommand       = 7
	replyNoAddressType   = 8
)

const socksVersion = 5

// socksError carries the reply code that tells the client what was wrong.
type socksError struct {
	code byte
	text string
}

func (e *socksError) Error() string { return e.text }

// readGreeting reads the methods a client offers and fails unless it can do without authentication.
func readGreeting(r io.Reader) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read SOCKS greeting: %w", err)
	}
	if head[0] != socksVersion {
		return fmt.Errorf("SOCKS version %d, want 5", head[0])
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return fmt.Errorf("read SOCKS greeting: %w", err)
	}
	for _, m := range methods {
		if m == 0 {
			return nil
		}
	}
	return errors.New("SOCKS client insists on authentication")
}

// readRequest reads the request of a client and returns the address it wants a connection to.
func readRequest(r io.Reader) (hostPort string, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", fmt.Errorf("read SOCKS request: %w", err)
	}
	if head[0] != socksVersion {
		return "", fmt.Errorf("SOCKS version %d, want 5", head[0])
	}
	var host string
	switch head[3] {
	case 1, 4:
		raw := make([]byte, map[byte]int{1: 4, 4: 16}[head[3]])
		if _, err := io.ReadFull(r, raw); err != nil {
			return "", fmt.Errorf("read SOCKS address: %w", err)
		}
		a, _ := netip.AddrFromSlice(raw)
		host = a.String()
	case 3:
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return "", fmt.Errorf("read SOCKS address: %w", err)
		}
		raw := make([]byte, n[0])
		if _, err := io.ReadFull(r, raw); err != nil {
			return "", fmt.Errorf("read SOCKS address: %w", err)
		}
		host = string(raw)
	default:
		return "", &socksError{replyNoAddressType, fmt.Sprintf("SOCKS address type %d is not known", head[3])}
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", fmt.Errorf("read SOCKS port: %w", err)
	}
	if head[1] != 1 {
		return "", &socksError{replyNoCommand, fmt.Sprintf("SOCKS command %d: only CONNECT is served", head[1])}
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1]))), nil
}

func writeReply(w io.Writer, code byte) error {
	_, err := w.Write([]byte{socksVersion, code, 0, 1, 0, 0, 0, 0, 0, 0})
	return err
}

// serveSOCKS serves one client whose first byte said SOCKS5.
func (p *Proxy) serveSOCKS(c net.Conn, r *bufio.Reader) error {
	if err := readGreeting(r); err != nil {
		_, _ = c.Write([]byte{socksVersion, 0xff}) // no acceptable method
		return err
	}
	if _, err := c.Write([]byte{socksVersion, 0}); err != nil {
		return err
	}
	target, err := readRequest(r)
	if err != nil {
		var se *socksError
		if errors.As(err, &se) {
			_ = writeReply(c, se.code)
		}
		return err
	}
	out, err := p.dial(c, target)
	if err != nil {
		code := byte(replyHostUnreachable)
		switch {
		case errors.Is(err, ErrOutside):
			code = replyNotAllowed
		case strings.Contains(err.Error(), "refused"): // gVisor's errors have no kind
			code = replyRefused
		}
		_ = writeReply(c, code)
		return err
	}
	defer out.Close()
	defer p.track(out)() // a machine that lost power ends no connection by itself
	if err := writeReply(c, replyDone); err != nil {
		return err
	}
	join(c, r, out)
	return nil
}
