package pathmtu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// busy and idle are between two looks at the paths, while something is searched and while nothing is.
	busy = 100 * time.Millisecond
	idle = time.Second
	// mostAtOnce packets are sent at one look: a node with many peers does not send them all in one burst.
	mostAtOnce = 4
)

// Path is one way to a peer.
type Path struct {
	Link string // the local link
	MTU  int    // of it
	Peer string
	Addr netip.Addr // the peer's, on that link
}

// Limit is a path on which less arrives than the port's MTU promises.
type Limit struct {
	Path
	Largest int // packet that arrives, bytes
}

// Config of a Prober.
type Config struct {
	Log  *slog.Logger
	Key  []byte // the members' heartbeat key
	Port uint16 // UDP, on every node
	// Paths are those to probe now. Only peers in it are answered. It must be quick.
	Paths func() []Path
	// OnChange is called when Limits has changed. It must be quick.
	OnChange func()

	pause time.Duration // for tests
}

// Prober probes the paths to all peers, and answers theirs. Make one with Open, end it with Close.
type Prober struct {
	cfg    Config
	key    []byte
	start  time.Time
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	sockets  map[string]*net.UDPConn // by link
	searches map[pathKey]*Search
	paths    map[pathKey]Path
	asked    map[uint64]ask // under way, by number
	limits   []Limit
}

type pathKey struct {
	link string
	addr netip.Addr
}

type ask struct {
	path pathKey
	size int
	at   time.Duration
}

// Open begins to probe.
func Open(cfg Config) *Prober {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Prober{cfg: cfg, key: deriveKey(cfg.Key), start: time.Now(), cancel: cancel,
		sockets: map[string]*net.UDPConn{}, searches: map[pathKey]*Search{}, paths: map[pathKey]Path{}, asked: map[uint64]ask{}}
	p.wg.Go(func() { p.run(ctx) })
	return p
}

// Close ends it and waits.
func (p *Prober) Close() {
	p.cancel()
	p.wg.Wait()
}

// Limits are the paths on which less arrives than it should, found twice in a row, sorted.
func (p *Prober) Limits() []Limit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.limits)
}

func (p *Prober) now() time.Duration { return time.Since(p.start) }

func (p *Prober) run(ctx context.Context) {
	defer func() {
		p.mu.Lock()
		for _, c := range p.sockets {
			c.Close() // its reader returns
		}
		p.mu.Unlock()
	}()
	t := time.NewTimer(0)
	defer t.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := p.follow(p.cfg.Paths()); err == nil {
			said = ""
		} else if err.Error() != said {
			said = err.Error()
			p.cfg.Log.Warn("how large packets may be is not probed on a link, trying again", "err", err)
		}
		if p.look() {
			t.Reset(busy)
		} else {
			t.Reset(idle)
		}
	}
}

// follow makes these the paths.
func (p *Prober) follow(list []Path) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	links, paths := map[string]bool{}, map[pathKey]Path{}
	var errs []error
	for _, path := range list {
		k := pathKey{path.Link, path.Addr}
		paths[k] = path
		if p.searches[k] == nil {
			p.searches[k] = &Search{pause: p.cfg.pause}
		}
		if links[path.Link] {
			continue
		}
		links[path.Link] = true
		if p.sockets[path.Link] != nil {
			continue
		}
		conn, err := open(path.Link, p.cfg.Port)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.sockets[path.Link] = conn
		p.wg.Go(func() { p.listen(path.Link, conn) })
	}
	p.paths = paths
	for link, conn := range p.sockets {
		if !links[link] {
			conn.Close()
			delete(p.sockets, link)
		}
	}
	maps.DeleteFunc(p.searches, func(k pathKey, _ *Search) bool { _, ok := paths[k]; return !ok })
	return errors.Join(errs...)
}

// open opens a socket that is bound to a link, whose packets are never cut into fragments and never held back by
// what the kernel believes of the path.
func open(link string, port uint16) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			if err = unix.BindToDevice(int(fd), link); err == nil {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	c, err := lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("probe packets on %s: %w", link, err)
	}
	return c.(*net.UDPConn), nil
}

// look sends what is due. It tells whether a search is going on.
func (p *Prober) look() (searching bool) {
	p.mu.Lock()
	now := p.now()
	sent := 0
	for _, k := range slices.SortedFunc(maps.Keys(p.searches), func(a, b pathKey) int {
		if c := strings.Compare(a.link, b.link); c != 0 {
			return c
		}
		return a.addr.Compare(b.addr)
	}) {
		conn := p.sockets[k.link]
		if conn == nil || sent == mostAtOnce {
			searching = searching || conn != nil
			continue
		}
		s := p.searches[k]
		size, send := s.Next(now, p.paths[k].MTU)
		searching = searching || s.size != 0
		if !send {
			continue
		}
		sent++
		m := message{kind: kindAsk, size: size, number: rand.Uint64()}
		p.asked[m.number] = ask{path: k, size: size, at: now}
		// An error is a packet that did not arrive, as it would not on the way.
		_, _ = conn.WriteToUDPAddrPort(m.encode(p.key), netip.AddrPortFrom(k.addr, p.cfg.Port))
	}
	maps.DeleteFunc(p.asked, func(_ uint64, a ask) bool { return now-a.at > 4*answerTime })
	changed := p.judge()
	p.mu.Unlock()
	if changed && p.cfg.OnChange != nil {
		p.cfg.OnChange()
	}
	return searching
}

// judge makes the list of limits. The caller holds mu.
func (p *Prober) judge() (changed bool) {
	var limits []Limit
	for k, s := range p.searches {
		if largest, ok := s.Limit(); ok {
			limits = append(limits, Limit{p.paths[k], largest})
		}
	}
	slices.SortFunc(limits, func(a, b Limit) int {
		return strings.Compare(a.Link+" "+a.Peer, b.Link+" "+b.Peer)
	})
	changed = !slices.Equal(limits, p.limits)
	p.limits = limits
	return changed
}

// listen answers asks and takes answers until the socket is closed.
func (p *Prober) listen(link string, conn *net.UDPConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the link's state, which reading has cleared
		}
		m, err := decode(p.key, buf[:n])
		if err != nil {
			continue
		}
		k := pathKey{link, from.Addr().Unmap()}
		p.mu.Lock()
		_, peer := p.paths[k]
		if a, ok := p.asked[m.number]; ok && m.kind == kindHere && a.path == k && a.size == m.size {
			delete(p.asked, m.number)
			if s := p.searches[k]; s != nil {
				s.Answer(p.now(), m.size)
			}
		}
		p.mu.Unlock()
		if m.kind == kindAsk && peer && from.Port() == p.cfg.Port {
			m.kind = kindHere
			_, _ = conn.WriteToUDPAddrPort(m.encode(p.key), from) // lost, if at all, as others are
		}
	}
}
