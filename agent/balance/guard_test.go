package balance

import (
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	vip    = netip.MustParseAddr("10.77.9.1")
	vip2   = netip.MustParseAddr("10.77.9.2")
	nodeIP = netip.MustParseAddr("10.80.1.1")
	subnet = netip.MustParsePrefix("10.80.1.0/24")
)

// lan is a node (this namespace) with one port and a client on its wire.
type lan struct {
	*Balancer
	client host
	echoes atomic.Int64 // datagrams that the node's echo service on the floating address got
}

func open(t testing.TB) *Balancer {
	t.Helper()
	needNamespace(t)
	b, err := Open(Config{Log: slog.New(slog.DiscardHandler), Node: nodeIP, Subnet: subnet, Bridge: "skein0"})
	must(t, err)
	t.Cleanup(func() {
		_ = b.Hold(nil, 0)
		b.Close()
		removeTables(t)
	})
	return b
}

func removeTables(t testing.TB) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	x := newTables()
	for _, table := range []*nftables.Table{x.ip, x.netdev, x.arp} {
		c.AddTable(table)
		c.DelTable(table)
	}
	must(t, c.Flush())
}

func newLAN(t testing.TB) *lan {
	t.Helper()
	needNamespace(t)
	l := &lan{client: newHost(t, "lan0", "c0", netip.MustParsePrefix("10.77.0.254/24"))}
	must(t, addAddr("lan0", netip.MustParsePrefix("10.77.0.1/24")))
	for _, s := range []string{"all", "lan0"} {
		must(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", s, "rp_filter"), []byte("0"), 0o644))
	}
	l.client.do(t, func() error { return addRoute("c0", netip.MustParsePrefix("10.77.9.0/24"), netip.Addr{}) })
	l.Balancer = open(t)
	must(t, l.SetFloating([]netip.Addr{vip, vip2}))
	must(t, l.SetLinks([]string{"lan0"}, []netip.Addr{netip.MustParseAddr("10.77.0.1")}))

	// Every datagram is answered, from the address it was sent to: one socket for each address.
	for _, a := range []netip.Addr{vip, vip2} {
		lc := net.ListenConfig{Control: freebind}
		pc, err := lc.ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(a, 7).String())
		must(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 1500)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				l.echoes.Add(1)
				_, _ = pc.WriteTo(buf[:n], from)
			}
		}()
		t.Cleanup(func() { _ = pc.Close(); <-done })
	}
	return l
}

func (l *lan) dial(t testing.TB, a netip.Addr) net.Conn {
	t.Helper()
	var c net.Conn
	l.client.do(t, func() (err error) {
		c, err = net.Dial("udp4", netip.AddrPortFrom(a, 7).String())
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

var askNumber atomic.Int64

// ask sends one datagram and tells whether its answer came within wait. Late answers to former questions
// are passed over.
func ask(t testing.TB, c net.Conn, wait time.Duration) bool {
	t.Helper()
	question := strconv.FormatInt(askNumber.Add(1), 10)
	buf := make([]byte, 32)
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte(question)); err != nil {
		return false // host unreachable: nobody answered its ARP
	}
	for {
		n, err := c.Read(buf)
		if err != nil {
			return false
		}
		if string(buf[:n]) == question {
			return true
		}
	}
}

// forgetNeighbours empties the client's ARP cache.
func (l *lan) forgetNeighbours(t testing.TB) {
	t.Helper()
	l.client.do(t, func() error {
		list, err := netlink.NeighList(0, unix.AF_INET)
		if err != nil {
			return err
		}
		for _, n := range list {
			if n.State&unix.NUD_NOARP == 0 {
				_ = netlink.NeighDel(&n)
			}
		}
		return nil
	})
}

func (l *lan) knows(t testing.TB, a netip.Addr) bool {
	t.Helper()
	found := false
	l.client.do(t, func() error {
		list, err := netlink.NeighList(0, unix.AF_INET)
		found = slices.ContainsFunc(list, func(n netlink.Neigh) bool {
			return n.IP.Equal(a.AsSlice()) && n.State&(unix.NUD_REACHABLE|unix.NUD_STALE|unix.NUD_DELAY|unix.NUD_PROBE) != 0
		})
		return err
	})
	return found
}

func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s in vain: %s", what)
		}
	}
}

// Generous: a short lease in a test is not the point, that it ends is.
const testLease = 400 * time.Millisecond

func TestGuardGoesDarkByItself(t *testing.T) {
	l := newLAN(t)
	c := l.dial(t, vip)
	if ask(t, c, 200*time.Millisecond) || l.knows(t, vip) || l.echoes.Load() != 0 {
		t.Fatal("the address answered before it was held")
	}
	until := Now() + testLease
	must(t, l.Hold([]netip.Addr{vip}, until))
	// No renewal from here on. Ask until silence.
	var answered int
	var last time.Duration
	for Now() < until+500*time.Millisecond {
		if ask(t, c, 20*time.Millisecond) {
			answered++
			last = Now()
		}
	}
	t.Logf("%d answers, the last one %v before the deadline", answered, until-last)
	if answered == 0 {
		t.Error("no answer while the lease ran")
	}
	seen := l.echoes.Load()
	l.forgetNeighbours(t)
	if ask(t, c, 300*time.Millisecond) || l.echoes.Load() != seen {
		t.Error("an IP packet got through after the end of the lease")
	}
	if l.knows(t, vip) {
		t.Error("ARP was answered after the end of the lease")
	}
	if !l.onLoopback(t, vip) {
		t.Error("the test proves nothing: the address is gone")
	}
	// The lease is back: all goes on.
	must(t, l.Hold([]netip.Addr{vip}, Now()+time.Minute))
	await(t, "an answer after the lease is back", func() bool { return ask(t, c, 100*time.Millisecond) })
	if ask(t, l.dial(t, vip2), 200*time.Millisecond) {
		t.Error("an address that is not held answered")
	}
	must(t, l.Hold(nil, Now()+time.Minute))
	if ask(t, c, 200*time.Millisecond) || l.onLoopback(t, vip) {
		t.Error("a dropped address answered")
	}
}

func (l *lan) onLoopback(t testing.TB, a netip.Addr) bool {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	list, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	must(t, err)
	return slices.ContainsFunc(list, func(x netlink.Addr) bool { return x.IP.Equal(a.AsSlice()) })
}

// Each of the two limits closes the guard alone.
func TestEitherLimitCloses(t *testing.T) {
	l := newLAN(t)
	c := l.dial(t, vip)
	open := func() {
		t.Helper()
		must(t, l.renew.send(time.Minute, Now()+wallOffset()+time.Minute))
		await(t, "an answer", func() bool { return ask(t, c, 100*time.Millisecond) })
	}
	must(t, l.Hold([]netip.Addr{vip}, Now()+time.Minute))
	open()
	// As if we had been stopped between computing and sending: the timeout is far too long.
	must(t, l.renew.send(time.Minute, Now()+wallOffset()-time.Millisecond))
	if ask(t, c, 200*time.Millisecond) {
		t.Error("open after the deadline")
	}
	open()
	// As if somebody had set the wall clock back.
	must(t, l.renew.send(0, Now()+wallOffset()+time.Minute))
	time.Sleep(2 * minTimeout)
	if ask(t, c, 200*time.Millisecond) {
		t.Error("open after the timeout")
	}
}

func TestRenewalLosesNothing(t *testing.T) {
	l := newLAN(t)
	must(t, l.Hold([]netip.Addr{vip}, Now()+time.Second))
	c := l.dial(t, vip)
	await(t, "the first answer", func() bool { return ask(t, c, 100*time.Millisecond) })
	stop := make(chan struct{})
	done := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
				n++
				// Far more often than in life, to hit every instant of a renewal.
				if err := l.Hold([]netip.Addr{vip}, Now()+2*time.Second); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	before := l.echoes.Load()
	asked, lost := 0, 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		asked++
		if !ask(t, c, time.Second) {
			lost++
		}
	}
	close(stop)
	t.Logf("%d renewals, %d questions", <-done, asked)
	if got := l.echoes.Load() - before; lost != 0 || got != int64(asked) {
		t.Errorf("got %d of %d questions and lost %d answers, want none lost", got, asked, lost)
	}
}

// A frame of the announcer that is sent too late, because we were stopped before, stays inside.
func TestLateAnnouncementStaysInside(t *testing.T) {
	l := newLAN(t)
	arp := l.listenARP(t)
	heard := func() bool {
		for {
			buf := make([]byte, 128)
			n, _, err := unix.Recvfrom(arp, buf, unix.MSG_DONTWAIT)
			if err != nil {
				return false
			}
			if n >= 42 && netip.AddrFrom4([4]byte(buf[28:32])) == vip {
				return true
			}
		}
	}
	must(t, l.Hold([]netip.Addr{vip}, Now()+time.Minute))
	await(t, "an announcement", heard)
	must(t, l.renew.renew(Now()-time.Millisecond)) // the lease is over, and the announcer does not know
	time.Sleep(20 * time.Millisecond)
	for heard() { // what was on its way
	}
	l.announcer.mu.Lock()
	l.announcer.due = []time.Time{time.Now()}
	l.announcer.mu.Unlock()
	l.announcer.work(time.Now())
	time.Sleep(50 * time.Millisecond)
	if heard() {
		t.Error("an announcement left after the end of the lease")
	}
}

func (l *lan) listenARP(t testing.TB) int {
	t.Helper()
	fd := -1
	l.client.do(t, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ARP)))
		return err
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// A new agent of the same boot takes over what the former one left, without a gap.
func TestAdopt(t *testing.T) {
	l := newLAN(t)
	must(t, l.Hold([]netip.Addr{vip}, Now()+time.Minute))
	c := l.dial(t, vip)
	await(t, "an answer", func() bool { return ask(t, c, 100*time.Millisecond) })
	gen := generation(t)
	next, err := Open(l.cfg)
	must(t, err)
	defer next.Close()
	must(t, next.SetFloating([]netip.Addr{vip, vip2}))
	must(t, next.SetLinks([]string{"lan0"}, []netip.Addr{netip.MustParseAddr("10.77.0.1")}))
	if got := generation(t); got != gen {
		t.Errorf("adopting changed the kernel's tables: generation %d, want %d", got, gen)
	}
	if held, _ := next.Held(); !slices.Equal(held, []netip.Addr{vip}) {
		t.Errorf("adopted %v, want %v", held, vip)
	}
	if !ask(t, c, time.Second) {
		t.Error("no answer after the adoption")
	}
	// And what somebody removed is made again.
	removeTables(t)
	must(t, next.Hold([]netip.Addr{vip}, Now()+time.Minute))
	await(t, "an answer after the rebuild", func() bool { return ask(t, c, 100*time.Millisecond) })
	must(t, next.Hold([]netip.Addr{vip}, Now()))
	if ask(t, c, 200*time.Millisecond) {
		t.Error("the rebuilt guard is open after the deadline")
	}
}

// generation of the kernel's nftables rules in this namespace: it rises with every batch.
func generation(t testing.TB) uint32 {
	t.Helper()
	c, err := mnl.Dial(unix.NETLINK_NETFILTER, nil)
	must(t, err)
	defer func() { _ = c.Close() }()
	got, err := c.Execute(mnl.Message{
		Header: mnl.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: mnl.Request},
		Data:   []byte{0, 0, 0, 0},
	})
	must(t, err)
	ad, err := mnl.NewAttributeDecoder(got[0].Data[4:])
	must(t, err)
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		if ad.Type() == unix.NFTA_GEN_ID {
			return ad.Uint32()
		}
	}
	t.Fatal("the kernel does not say the generation")
	return 0
}

func TestRefusals(t *testing.T) {
	b := open(t)
	if err := b.Hold([]netip.Addr{netip.MustParseAddr("fd00::1")}, Now()+time.Second); err == nil {
		t.Error("got nil, want an error for an IPv6 address")
	}
	// Kernels since 6.16 take a chain for a device to come, older ones refuse it: an error, or none.
	t.Log("link that is not there:", b.SetLinks([]string{"nosuch0"}, nil))
	if err := b.Hold([]netip.Addr{vip}, Now()+time.Second); err != nil {
		t.Errorf("a link that is not there broke the rest: %v", err)
	}
	removeTables(t)
	if err := b.Hold([]netip.Addr{vip}, Now()+time.Second); err != nil {
		t.Errorf("a link that is not there broke the rebuild: %v", err)
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("got nil, want an error for an empty configuration")
	}
}

func TestWallOffsetIsNeverTooLarge(t *testing.T) {
	for range 1000 {
		before := wallClock()
		at := Now() + wallOffset() // the wall clock at some moment of this line, or earlier
		if after := wallClock(); at > after || at < before-time.Second {
			t.Fatalf("got %v, want at most %v and about %v", at, after, before)
		}
	}
}

func BenchmarkRenewal(b *testing.B) {
	l := open(b)
	must(b, l.Hold([]netip.Addr{vip}, Now()+time.Second))
	b.ReportAllocs()
	for b.Loop() {
		must(b, l.Hold([]netip.Addr{vip}, Now()+time.Second))
	}
}

// Take an address and drop it: what a takeover waits for.
func BenchmarkTakeAndDrop(b *testing.B) {
	l := open(b)
	must(b, l.SetFloating([]netip.Addr{vip}))
	for b.Loop() {
		must(b, l.Hold([]netip.Addr{vip}, Now()+time.Second))
		must(b, l.Hold(nil, Now()+time.Second))
	}
}
