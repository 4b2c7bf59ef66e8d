package member

import (
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	// strangers is how many datagrams a second are checked that come from no peer's address, all of them together, on
	// each link. A peer whose address has just changed sends some ten.
	strangers = 100
	// sameEvery is how often the same will or farewell of a boot is passed on: it is meant to be repeated, and
	// costs nothing but time.
	sameEvery = 20 * time.Millisecond
	// mostSeen bounds what a Screen remembers: senders, boots and links whose datagrams were authentic.
	mostSeen = 4096
)

// Checked is the body of a datagram that a Screen let through: authentic, and newer than those before it.
type Checked struct{ body []byte }

// Screen keeps off a Core what it would refuse, where that costs the Core no time: on the thread that receives.
// In this order, cheapest first: length, magic, version and cluster; a budget for sources that are no peers; the
// tag; and whether the datagram is a repetition, which is authentic for ever. What a peer sends is under no
// budget: whoever forges its address would use it up.
//
// It has no clock and no goroutine. Check is for one goroutine; SetPeers and Refused are for any.
type Screen struct {
	auth    authenticator
	peers   atomic.Pointer[map[netip.Addr]bool]
	refused atomic.Uint64
	budget  map[string]*allowance
	seen    map[stream]*newest
}

// stream is one sequence of numbers.
type stream struct {
	sender, boot string
	kind, link   byte
}

type newest struct {
	seq uint64
	at  time.Duration // when it was passed on last
}

type allowance struct {
	since time.Duration
	used  int
}

// NewScreen makes the Screen for a Core of this configuration.
func NewScreen(cfg Config) *Screen {
	return &Screen{auth: newAuthenticator(cfg.ClusterID, cfg.Key), budget: map[string]*allowance{}, seen: map[stream]*newest{}}
}

// SetPeers tells the addresses that peers send from.
func (s *Screen) SetPeers(from []netip.Addr) {
	peers := make(map[netip.Addr]bool, len(from))
	for _, a := range from {
		peers[a] = true
	}
	s.peers.Store(&peers)
}

// Refused counts what was not let through.
func (s *Screen) Refused() uint64 { return s.refused.Load() }

// Check lets a datagram through that came in on a local link. It keeps nothing of payload. The error tells why
// not: ErrMalformed, ErrForeign, ErrAuth, ErrStale, or ErrBudget if nobody looked.
func (s *Screen) Check(now time.Duration, link string, from netip.Addr, payload []byte) (Checked, error) {
	body, err := s.check(now, link, from, payload)
	if err != nil {
		s.refused.Add(1)
		return Checked{}, err
	}
	return Checked{append([]byte(nil), body...)}, nil
}

func (s *Screen) check(now time.Duration, link string, from netip.Addr, payload []byte) ([]byte, error) {
	if err := s.auth.header(payload); err != nil {
		return nil, err
	}
	if peers := s.peers.Load(); (peers == nil || !(*peers)[from]) && !s.allow(now, link) {
		return nil, ErrBudget
	}
	body, err := s.auth.tag(payload)
	if err != nil {
		return nil, err
	}
	r := reader{b: body[headerSize:]}
	key := stream{sender: string(r.str()), boot: string(r.str()), kind: body[3], link: r.byte()}
	seq := r.uvarint()
	if r.bad {
		return nil, ErrMalformed
	}
	n := s.seen[key]
	switch {
	case n == nil:
		if len(s.seen) >= mostSeen {
			clear(s.seen)
		}
		n = &newest{}
		s.seen[key] = n
	case seq < n.seq:
		return nil, ErrStale
	case seq == n.seq && (key.kind < kindRestart || now-n.at < sameEvery):
		return nil, ErrStale
	}
	n.seq, n.at = seq, now
	return body, nil
}

// allow takes one from the budget of strangers on a link. Links are the machine's own, so they are few.
func (s *Screen) allow(now time.Duration, link string) bool {
	a := s.budget[link]
	if a == nil {
		a = &allowance{since: now}
		s.budget[link] = a
	}
	if now-a.since >= time.Second {
		a.since, a.used = now, 0
	}
	a.used++
	return a.used <= strangers
}
