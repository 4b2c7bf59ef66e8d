package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// MaxDatagram is the longest heartbeat that is received; longer ones are dropped.
const MaxDatagram = 8192

// socketPriority puts heartbeats into the first band of the kernel's default queue (pfifo_fast), before
// the bulk traffic of services.
const socketPriority = 6

// receiveBuffer of each socket, bytes as the kernel counts them: some thousand datagrams.
const receiveBuffer = 1 << 20

// Heartbeats has one UDP socket for each port, bound to it: what is sent on a port leaves by that port or
// not at all, whatever the routes say, and what is received came in there.
type Heartbeats struct {
	log     *slog.Logger
	port    uint16
	receive func(link string, from netip.AddrPort, payload []byte)
	wake    int // eventfd, tells the receiver that the sockets changed
	wg      sync.WaitGroup

	mu      sync.RWMutex
	sockets map[string]int
	ended   bool
}

// OpenHeartbeats opens the sockets and starts the one receiver, a preferred thread (refusal
// of that is logged, not fatal). receive is called on it: it must be quick, must not keep payload, and
// must not call SetLinks or Close.
func OpenHeartbeats(log *slog.Logger, links []string, port uint16, receive func(link string, from netip.AddrPort, payload []byte)) (*Heartbeats, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("heartbeats: %w", err)
	}
	h := &Heartbeats{log: log, port: port, receive: receive, wake: wake, sockets: map[string]int{}}
	h.wg.Go(h.run)
	if err := h.SetLinks(links); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// SetLinks makes these the ports: sockets that are open stay, so nothing is lost on a link that is not
// concerned. A port that cannot be opened does not stop the others; call again to try again.
func (h *Heartbeats) SetLinks(links []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return errors.New("heartbeats are closed")
	}
	var errs []error
	for link, fd := range h.sockets {
		if !slices.Contains(links, link) {
			delete(h.sockets, link)
			_ = unix.Close(fd) // the receiver holds h.mu while it uses it, and is woken below
		}
	}
	for _, link := range links {
		if _, ok := h.sockets[link]; ok {
			continue
		}
		fd, err := openHeartbeat(link, h.port)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		h.sockets[link] = fd
	}
	h.poke()
	return errors.Join(errs...)
}

func (h *Heartbeats) poke() {
	_, _ = unix.Write(h.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only if it is set already
}

func openHeartbeat(link string, port uint16) (_ int, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("heartbeats on %s: %w", link, err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	for _, o := range []struct{ opt, value int }{
		{unix.SO_REUSEADDR, 1}, {unix.SO_BROADCAST, 1}, {unix.SO_PRIORITY, socketPriority},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.opt, o.value); err != nil {
			return 0, fmt.Errorf("heartbeats on %s: socket option %d: %w", link, o.opt, err)
		}
	}
	// A burst of whatever kind must not push out the heartbeats between. Without the right to more, the
	// system's limit has to do.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err := unix.BindToDevice(fd, link); err != nil {
		return 0, fmt.Errorf("heartbeats: bind to link %s: %w", link, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); err != nil {
		return 0, fmt.Errorf("heartbeats on %s: UDP port %d: %w", link, port, err)
	}
	return fd, nil
}

// run receives until Close.
func (h *Heartbeats) run() {
	undo, err := Urgent()
	defer undo()
	if err != nil {
		h.log.Warn("heartbeats run at ordinary priority", "err", err)
	}
	var (
		fds   []unix.PollFd
		names []string
		buf   = make([]byte, MaxDatagram+1)
	)
	for {
		h.mu.RLock()
		if h.ended {
			h.mu.RUnlock()
			return
		}
		fds = append(fds[:0], unix.PollFd{Fd: int32(h.wake), Events: unix.POLLIN})
		names = append(names[:0], "")
		for link, fd := range h.sockets {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			names = append(names, link)
		}
		h.mu.RUnlock()
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			h.log.Error("heartbeats: poll", "err", err)
			return
		}
		if fds[0].Revents != 0 {
			var b [8]byte
			_, _ = unix.Read(h.wake, b[:])
			continue // the list has changed
		}
		for i, p := range fds {
			if p.Revents != 0 {
				h.drain(names[i], int(p.Fd), buf)
			}
		}
	}
}

// drain reads what has arrived on a link. A bounded number at a time, so that a flood on one link does
// not starve the other.
func (h *Heartbeats) drain(link string, fd int, buf []byte) {
	for range 64 {
		h.mu.RLock()
		if have, ok := h.sockets[link]; !ok || have != fd {
			h.mu.RUnlock()
			return // closed meanwhile; the number may be somebody else's by now
		}
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		h.mu.RUnlock()
		if err != nil {
			return // EAGAIN, or the link's error state (ENETDOWN), which reading has cleared
		}
		if a, ok := from.(*unix.SockaddrInet4); ok && n <= MaxDatagram {
			h.receive(link, netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), buf[:n])
		}
	}
}

// Send sends to one peer through the port link. A full queue or a dead link is an error and no retry: the
// next heartbeat is more useful than this one.
func (h *Heartbeats) Send(link string, to netip.AddrPort, payload []byte) error {
	if !to.Addr().Is4() {
		return fmt.Errorf("send heartbeat to %s: not an IPv4 address", to)
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	fd, ok := h.sockets[link]
	if !ok {
		return fmt.Errorf("send heartbeat to %s: no socket on link %q", to, link)
	}
	err := unix.Sendto(fd, payload, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	if err != nil {
		return fmt.Errorf("send heartbeat to %s on %s: %w", to, link, err)
	}
	return nil
}

// Broadcast sends to everyone on the LAN of link, this node too: the receiver must know its own.
func (h *Heartbeats) Broadcast(link string, payload []byte) error {
	return h.Send(link, netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), h.port), payload)
}

// Close ends the receiver and waits for it.
func (h *Heartbeats) Close() {
	h.mu.Lock()
	if h.ended {
		h.mu.Unlock()
		return
	}
	h.ended = true
	h.poke()
	h.mu.Unlock()
	h.wg.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	for link, fd := range h.sockets {
		_ = unix.Close(fd)
		delete(h.sockets, link)
	}
	_ = unix.Close(h.wake)
}
