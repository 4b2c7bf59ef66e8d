package lldp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reopen is between two attempts to open a port's socket.
	reopen = 5 * time.Second
	// breath is between two frames that are taken of one port: a hundred in a second, of which it needs one in thirty.
	breath = 10 * time.Millisecond
	// queueBytes of a port's socket: what does not fit is dropped by the kernel.
	queueBytes = 64 << 10
	// longestFrame that is read, bytes.
	longestFrame = 9216
)

// Port is where to speak and listen.
type Port struct {
	Name  string
	Index int // of the interface
	MAC   [6]byte
	Up    bool // has a carrier
}

// Speaker speaks and listens on ports. Make one with NewSpeaker, end it with Close.
type Speaker struct {
	log     *slog.Logger
	say     func(port string) Unit
	changed func()
	start   time.Time
	refused atomic.Uint64

	mu    sync.Mutex
	ports map[Port]*worker // by the port with Up false
}

// NewSpeaker makes a speaker without ports. say is what to say on a port, without the time to live; changed is
// called whenever the neighbours of a port have changed. Both are called by goroutines of the speaker and must be
// quick.
func NewSpeaker(log *slog.Logger, say func(port string) Unit, changed func()) *Speaker {
	return &Speaker{log: log, say: say, changed: changed, start: time.Now(), ports: map[Port]*worker{}}
}

// SetPorts makes these the ports. One that stays keeps its neighbours, unless it is not up any more.
func (s *Speaker) SetPorts(list []Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[Port]bool{}
	for _, p := range list {
		up := p.Up
		p.Up = false
		wanted[p] = true
		w := s.ports[p]
		if w == nil {
			w = s.open(p)
			s.ports[p] = w
		}
		w.setUp(up)
	}
	for p, w := range s.ports {
		if !wanted[p] {
			delete(s.ports, p)
			w.close(false)
		}
	}
}

// Neighbours are what is heard on a port now.
func (s *Speaker) Neighbours(port string) []Unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, w := range s.ports {
		if p.Name == port {
			return w.neighbours()
		}
	}
	return nil
}

// Renew has all ports speak soon: what there is to say has changed.
func (s *Speaker) Renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.ports {
		w.poke(func(now time.Duration) { w.schedule.Changed(now) })
	}
}

// Refused counts frames that made no sense.
func (s *Speaker) Refused() uint64 { return s.refused.Load() }

// Close ends all ports and waits for them. With goodbye the neighbours are told that this system is gone; without,
// they remember it for TTL, as is right for an agent that is about to be back.
func (s *Speaker) Close(goodbye bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, w := range s.ports {
		delete(s.ports, p)
		w.close(goodbye)
	}
}

// worker is one port.
type worker struct {
	s      *Speaker
	port   Port
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{}

	mu       sync.Mutex
	up       bool
	goodbye  bool
	schedule Schedule
	table    Table
}

func (s *Speaker) open(p Port) *worker {
	ctx, cancel := context.WithCancel(context.Background())
	w := &worker{s: s, port: p, cancel: cancel, wake: make(chan struct{}, 1)}
	w.wg.Go(func() { w.run(ctx) })
	return w
}

func (w *worker) close(goodbye bool) {
	w.mu.Lock()
	w.goodbye = goodbye
	w.mu.Unlock()
	w.cancel()
	w.wg.Wait()
}

func (w *worker) neighbours() []Unit {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.table.List()
}

func (w *worker) setUp(up bool) {
	w.mu.Lock()
	same := w.up == up
	w.up = up
	w.mu.Unlock()
	if same {
		return
	}
	w.poke(func(now time.Duration) {
		if up {
			w.schedule.Hurry(now)
		} else {
			w.schedule.Down()
			w.table.Clear() // SetPorts was called by who knows that
		}
	})
}

// poke changes something under the lock and has the worker look at its clocks.
func (w *worker) poke(change func(now time.Duration)) {
	w.mu.Lock()
	change(w.now())
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) now() time.Duration { return time.Since(w.s.start) }

// run keeps a socket open until ctx ends.
func (w *worker) run(ctx context.Context) {
	log := w.s.log.With("port", w.port.Name)
	said := ""
	for ctx.Err() == nil {
		err := w.converse(ctx)
		if err == nil {
			return
		}
		if err.Error() != said {
			said = err.Error()
			log.Warn("LLDP: trying again", "err", err)
		}
		t := time.NewTimer(reopen)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// converse speaks and listens on one socket. It returns nil when ctx has ended.
func (w *worker) converse(ctx context.Context) error {
	sock, err := openSocket(w.port)
	if err != nil {
		return err
	}
	var reader sync.WaitGroup
	failed := make(chan error, 1)
	reader.Go(func() { failed <- w.listen(ctx, sock) })
	defer reader.Wait()
	defer sock.Close() // a read that waits returns
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		w.speak(sock, TTL)
		timer.Reset(w.untilNext())
		select {
		case <-ctx.Done():
			w.mu.Lock()
			goodbye := w.goodbye && w.up
			w.mu.Unlock()
			if goodbye {
				w.send(sock, 0)
			}
			return nil
		case err := <-failed:
			return err
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// untilNext is for how long there is nothing to do.
func (w *worker) untilNext() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.now() + Interval
	if at, ok := w.schedule.Next(); ok {
		next = min(next, at)
	}
	if at, ok := w.table.Next(); ok {
		next = min(next, at)
	}
	return max(next-w.now(), 0)
}

// speak says what is due, and forgets who has not been heard for too long.
func (w *worker) speak(sock *os.File, ttl time.Duration) {
	w.mu.Lock()
	expired := w.table.Expire(w.now())
	due := w.schedule.Due(w.now())
	w.mu.Unlock()
	if expired {
		w.s.changed()
	}
	if due {
		w.send(sock, ttl)
	}
}

func (w *worker) send(sock *os.File, ttl time.Duration) {
	u := w.s.say(w.port.Name)
	u.TTL = ttl
	frame, err := u.Frame(w.port.MAC)
	if err != nil {
		w.s.log.Error("LLDP: what this node says of itself does not fit", "port", w.port.Name, "err", err)
		return
	}
	if _, err := sock.Write(frame); err != nil {
		w.s.log.Debug("LLDP: not sent, the next one will be", "port", w.port.Name, "err", err)
	}
}

// listen reads until the socket fails or is closed.
func (w *worker) listen(ctx context.Context, sock *os.File) error {
	buf := make([]byte, longestFrame)
	pause := time.NewTicker(breath)
	defer pause.Stop()
	for {
		n, err := sock.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENETDOWN): // told once, when the port goes down
		case err != nil:
			return fmt.Errorf("listen on %s: %w", w.port.Name, err)
		default:
			w.receive(buf[:n])
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *worker) receive(frame []byte) {
	u, err := Parse(frame)
	if err != nil {
		w.s.refused.Add(1)
		return
	}
	own := w.s.say(w.port.Name)
	if u.Chassis == own.Chassis && u.Port == own.Port {
		return // a port that is in loopback
	}
	w.mu.Lock()
	now := w.now()
	known := slices.ContainsFunc(w.table.list, func(n neighbour) bool { return n.unit.Chassis == u.Chassis && n.unit.Port == u.Port })
	changed := w.table.Receive(now, u)
	if changed && !known && w.up {
		w.schedule.Hurry(now)
	}
	w.mu.Unlock()
	if changed {
		select {
		case w.wake <- struct{}{}:
		default:
		}
		w.s.changed()
	}
}

// openSocket opens a packet socket for LLDP alone, bound to the port.
func openSocket(p Port) (_ *os.File, err error) {
	fail := func(what string, err error) (*os.File, error) {
		return nil, fmt.Errorf("LLDP on %s: %s: %w", p.Name, what, err)
	}
	const proto = EtherType>>8 | EtherType&0xff<<8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail("open a packet socket (needs CAP_NET_RAW)", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queueBytes)
	// The port's filter lets the address through; LLDP goes to nobody's own.
	mreq := unix.PacketMreq{Ifindex: int32(p.Index), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(Nearest))}
	copy(mreq.Address[:], Nearest[:])
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq); err != nil {
		return fail("listen to its address", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: p.Index}); err != nil {
		return fail("bind", err)
	}
	return os.NewFile(uintptr(fd), "lldp "+p.Name), nil
}
