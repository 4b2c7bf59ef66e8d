package netboot

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ErrPoolFull: all addresses are given.
var ErrPoolFull = errors.New("all addresses of the pool are given")

// Pool gives addresses to machines, the same one to the same machine as long as that can be. It is pure: now is on
// any clock that only rises.
type Pool struct {
	first, last netip.Addr
	lease       time.Duration
	byMAC       map[string]*grant
	byAddr      map[netip.Addr]*grant
}

type grant struct {
	mac   string
	addr  netip.Addr
	until time.Duration
	gone  bool // the address answers to somebody else (a DECLINE), or is otherwise not to be given
}

// offerTime is how long an address that was offered is kept for who has not taken it yet.
const offerTime = time.Minute

// NewPool has the IPv4 addresses from first to last.
func NewPool(first, last netip.Addr, lease time.Duration) (*Pool, error) {
	if !first.Is4() || !last.Is4() || last.Less(first) {
		return nil, fmt.Errorf("%s-%s is no range of IPv4 addresses: want FIRST-LAST", first, last)
	}
	if lease < time.Minute {
		return nil, fmt.Errorf("a lease of %v is too short: a minute at least", lease)
	}
	return &Pool{first: first, last: last, lease: lease, byMAC: map[string]*grant{}, byAddr: map[netip.Addr]*grant{}}, nil
}

// Offer finds an address for a machine. What it had before is preferred, then wanted, then the first free one, then the
// one whose lease has been over for longest.
func (p *Pool) Offer(now time.Duration, mac string, wanted netip.Addr) (netip.Addr, error) {
	if g := p.byMAC[mac]; g != nil && !g.gone {
		g.until = max(g.until, now+offerTime)
		return g.addr, nil
	}
	addr, err := p.free(now, wanted)
	if err != nil {
		return netip.Addr{}, err
	}
	p.give(now+offerTime, mac, addr)
	return addr, nil
}

func (p *Pool) free(now time.Duration, wanted netip.Addr) (netip.Addr, error) {
	if p.has(wanted) && p.byAddr[wanted] == nil {
		return wanted, nil
	}
	var oldest *grant
	for a := p.first; p.has(a); a = a.Next() {
		g := p.byAddr[a]
		if g == nil {
			return a, nil
		}
		if g.until < now && (oldest == nil || g.until < oldest.until) {
			oldest = g
		}
	}
	if oldest == nil {
		return netip.Addr{}, fmt.Errorf("%w: %s-%s", ErrPoolFull, p.first, p.last)
	}
	return oldest.addr, nil
}

func (p *Pool) has(a netip.Addr) bool {
	return a.IsValid() && a.Is4() && !a.Less(p.first) && !p.last.Less(a)
}

func (p *Pool) give(until time.Duration, mac string, addr netip.Addr) {
	if old := p.byAddr[addr]; old != nil {
		delete(p.byMAC, old.mac)
	}
	if old := p.byMAC[mac]; old != nil {
		delete(p.byAddr, old.addr)
	}
	g := &grant{mac: mac, addr: addr, until: until}
	p.byMAC[mac], p.byAddr[addr] = g, g
}

// Take confirms an address for a machine that asks for it. False: it is another's, or not of this pool.
func (p *Pool) Take(now time.Duration, mac string, addr netip.Addr) bool {
	if !p.has(addr) {
		return false
	}
	if g := p.byAddr[addr]; g != nil && (g.gone || g.mac != mac && g.until >= now) {
		return false
	}
	p.give(now+p.lease, mac, addr)
	return true
}

// Decline takes an address out for the time of a lease: the machine that got it found another with it.
func (p *Pool) Decline(now time.Duration, mac string, addr netip.Addr) {
	g := p.byAddr[addr]
	if g == nil || g.mac != mac {
		return
	}
	delete(p.byMAC, mac)
	g.mac, g.gone, g.until = "", true, now+p.lease
}

// Release gives an address back. It is kept for the machine until it is needed.
func (p *Pool) Release(now time.Duration, mac string, addr netip.Addr) {
	if g := p.byAddr[addr]; g != nil && g.mac == mac && !g.gone {
		g.until = now
	}
}
