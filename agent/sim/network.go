package sim

import (
	"net/netip"
	"slices"
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
	jitter time.Duration      // on top of delay, at most
	broken float64            // share of datagrams of which one bit arrives flipped
	side   map[string]int     // partition: machines of different sides do not reach each other
	cuts   map[[2]string]bool // what the first sends the second does not get
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
	// Asked for each datagram: most of the time nothing is cut.
	return (len(a.cut) == 0 || !a.cut[link+" out"]) && (len(b.cut) == 0 || !b.cut[link+" in"]) &&
		(len(s.net.side) == 0 || s.net.side[a.name] == s.net.side[b.name]) &&
		(len(s.net.cuts) == 0 || !s.net.cuts[[2]string{a.name, b.name}])
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
		if s.net.jitter > 0 {
			delay += s.between(0, s.net.jitter)
		}
		payload, broken := d.Payload, s.net.broken > 0 && len(d.Payload) > 0 && s.rng.Float64() < s.net.broken
		if broken {
			payload = slices.Clone(payload)
			if !s.cfg.blind {
				payload[s.rng.IntN(len(payload))] ^= 1 << s.rng.IntN(8)
			}
		}
		boot := to.boot
		s.after(delay, func() {
			if to.powered && to.boot == boot {
				to.do(func() {
					if to.brain == nil {
						return
					}
					to.frames++
					err := to.brain.Datagram(d.Link, payload) // refusals are part of the game
					if err != nil {
						s.Refused++
					}
					if broken && err == nil && to.brain.Ended() == "" {
						s.violate("%s takes a datagram of %s with a flipped bit", to.name, from.name)
					}
				})
			}
		})
	}
}
