package balance

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// burstTimes are when an address is announced after it was taken or a link came up: at once, and again in
// case a frame is lost or a switch port forwards late.
var burstTimes = []time.Duration{0, 50 * time.Millisecond, 250 * time.Millisecond, time.Second}

// repeat is the pause between announcements in peace. They heal a neighbour that was told otherwise.
const repeat = 10 * time.Second

// announcer sends gratuitous ARP (RFC 5227, and RFC 2002 4.6 for the second form) for the held addresses.
// It sends through a packet socket; the guard's netdev chains judge those frames too, so one that is sent
// too late, however long the agent was stopped, does not leave the machine.
type announcer struct {
	log *slog.Logger
	fd  int

	mu    sync.Mutex
	links []string
	held  []netip.Addr
	until time.Duration
	due   []time.Time // sorted
	poke  chan struct{}
}

func newAnnouncer(log *slog.Logger) (*announcer, error) {
	// Protocol 0: it receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket to announce addresses: %w", err)
	}
	return &announcer{log: log, fd: fd, poke: make(chan struct{}, 1)}, nil
}

func (a *announcer) close() { _ = unix.Close(a.fd) }

func (a *announcer) setLinks(links []string) {
	a.mu.Lock()
	more := slices.ContainsFunc(links, func(l string) bool { return !slices.Contains(a.links, l) })
	a.links = slices.Clone(links)
	a.mu.Unlock()
	if more {
		a.burst()
	}
}

// setHeld is called at every renewal: it must cost nothing when only the time differs.
func (a *announcer) setHeld(held []netip.Addr, until time.Duration) {
	a.mu.Lock()
	more := len(minus(held, a.held)) > 0
	// After the end of a lease somebody else may have answered.
	again := len(held) > 0 && a.until < Now() && a.until != 0
	a.held, a.until = held, until
	a.mu.Unlock()
	if more || again {
		a.burst()
	}
}

func (a *announcer) burst() {
	now := time.Now()
	a.mu.Lock()
	a.due = a.due[:0]
	for _, d := range burstTimes {
		a.due = append(a.due, now.Add(d))
	}
	a.mu.Unlock()
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

func (a *announcer) run(ctx context.Context) {
	updates := a.subscribe(ctx)
	timer := time.NewTimer(repeat)
	defer timer.Stop()
	up := map[int32]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.poke:
		case <-timer.C:
		case u, ok := <-updates:
			if !ok {
				updates = a.subscribe(ctx)
				continue
			}
			was := up[u.Index]
			up[u.Index] = u.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
			a.mu.Lock()
			ours := slices.Contains(a.links, u.Attrs().Name)
			a.mu.Unlock()
			if !ours || was || !up[u.Index] {
				continue
			}
			a.burst()
			continue
		}
		timer.Reset(a.work(time.Now()))
	}
}

// subscribe to link changes; nil (never ready) if that fails, and the repetition has to do.
func (a *announcer) subscribe(ctx context.Context) chan netlink.LinkUpdate {
	updates := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		a.log.Warn("cannot watch links: addresses are announced only every 10 s after a link came back", "err", err)
		return nil
	}
	return updates
}

// work sends what is due and says how long to sleep.
func (a *announcer) work(now time.Time) time.Duration {
	a.mu.Lock()
	links, held, until := a.links, a.held, a.until
	send := len(a.due) == 0 // the repetition
	for len(a.due) > 0 && !a.due[0].After(now) {
		a.due = a.due[1:]
		send = true
	}
	next := repeat
	if len(a.due) > 0 {
		next = a.due[0].Sub(now)
	}
	a.mu.Unlock()
	if !send || Now() >= until {
		return next
	}
	for _, link := range links {
		ifi, err := net.InterfaceByName(link)
		if err != nil || len(ifi.HardwareAddr) != 6 {
			continue // gone; it is announced when it is back
		}
		for _, addr := range held {
			for _, frame := range gratuitousARP(ifi.HardwareAddr, addr) {
				to := &unix.SockaddrLinklayer{Ifindex: ifi.Index, Halen: 6, Protocol: htons(unix.ETH_P_ARP)}
				copy(to.Addr[:], frame[:6])
				if err := unix.Sendto(a.fd, frame, 0, to); err != nil {
					a.log.Debug("cannot announce an address", "addr", addr, "link", link, "err", err)
				}
			}
		}
	}
	return next
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// gratuitousARP is the announcement of addr at mac in both forms: as a request, which all systems take,
// and as a reply, which some switches and older systems want.
func gratuitousARP(mac net.HardwareAddr, addr netip.Addr) [2][]byte {
	var frames [2][]byte
	broadcast := bytes.Repeat([]byte{0xff}, 6)
	for i, op := range []uint16{1, 2} {
		target := make([]byte, 6)
		if op == 2 {
			target = broadcast
		}
		f := append(append(make([]byte, 0, 60), broadcast...), mac...)
		f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
		f = append(f, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4
		f = binary.BigEndian.AppendUint16(f, op)
		f = append(append(f, mac...), addr.AsSlice()...)
		f = append(append(f, target...), addr.AsSlice()...)
		frames[i] = f[:60] // the shortest frame of Ethernet
	}
	return frames
}
