package sim

import (
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
)

var lans = []string{"eth0", "eth1"}

// network is two Ethernet switches with every machine on both.
type network struct {
	delay  time.Duration // at least; up to four times that, now and then up to late
	late   time.Duration
	loss   float64
	copies float64
	side   map[string]int // partition: machines of different sides do not reach each other
}

// links of node number n: 10.77.0.n and 10.77.1.n.
func links(n uint8) []cluster.Link {
	var out []cluster.Link
	for i, name := range lans {
		out = append(out, cluster.Link{Name: name, Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i), n}), 24)})
	}
	return out
}

// passes tells whether a frame from a gets to b on a LAN, loss aside.
func (s *Sim) passes(a, b *machine, link string) bool {
	return !a.cut[link+" out"] && !b.cut[link+" in"] && s.net.side[a.name] == s.net.side[b.name]
}

// connected tells whether a and b can talk over TCP: some link passes both ways.
func (s *Sim) connected(a, b *machine) bool {
	if a == b {
		return true
	}
	for _, l := range lans {
		if s.passes(a, b, l) && s.passes(b, a, l) {
			return true
		}
	}
	return false
}

func (s *Sim) send(from *machine, d member.Datagram) {
	ip := d.To.Addr().As4()
	var to *machine
	for _, m := range s.nodes {
		if m.number == ip[3] {
			to = m
		}
	}
	if to == nil || !s.passes(from, to, d.Link) || s.rng.Float64() < s.net.loss {
		return
	}
	times := 1
	if s.rng.Float64() < s.net.copies {
		times = 2
	}
	for range times {
		delay := s.between(s.net.delay, 4*s.net.delay)
		if s.net.late > 0 && s.rng.IntN(20) == 0 {
			delay = s.between(delay, s.net.late)
		}
		boot := to.boot
		s.after(delay, func() {
			if to.powered && to.boot == boot {
				to.do(func() {
					if to.brain != nil {
						_ = to.brain.Datagram(d.Link, d.Payload) // refusals are part of the game
					}
				})
			}
		})
	}
}
