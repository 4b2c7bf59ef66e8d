package ethernet

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/lldp"
)

// place is where a port is plugged in.
type place struct {
	sw     *Switch
	socket int // from 1
	tap    func(port string, frame []byte)
}

// speaker is what a switch says of itself.
type speaker struct {
	unit lldp.Unit
	mac  MAC
}

// reserved: what a bridge takes itself and never forwards (IEEE 802.1Q, table 8-1).
func reserved(m MAC) bool { return [5]byte(m[:5]) == [5]byte(lldp.Nearest[:5]) && m[5] <= 0x0f }

// plug puts a port into a free socket, the one it was in before if that is free. The caller holds mu.
func (s *Switch) plug(p *Port) {
	used := map[int]bool{}
	for other := range s.ports {
		used[other.place.Load().socket] = true
	}
	n, known := s.sockets[p.name]
	if !known || used[n] {
		for _, taken := range s.sockets { // somebody may come back to it
			used[taken] = true
		}
		for n = 1; used[n]; n++ {
		}
		if !known {
			s.sockets[p.name] = n
		}
	}
	p.place.Store(&place{sw: s, socket: n, tap: s.tap})
	s.ports[p] = struct{}{}
}

func (s *Switch) unplug(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, p)
	for mac, l := range s.table {
		if l.port == p {
			delete(s.table, mac)
		}
	}
}

// Move pulls the port's cable out of its switch and plugs it into another one. Its faults, its group and what
// waits in its queue stay.
func (p *Port) Move(to *Switch) {
	p.place.Load().sw.unplug(p)
	p.mu.Lock()
	p.heard.Clear()
	p.mu.Unlock()
	to.mu.Lock()
	to.plug(p)
	to.mu.Unlock()
	p.Announce()
}

// Socket is the name of the socket that the port is in, as the switch says it by LLDP.
func (p *Port) Socket() string { return socketName(p.place.Load().socket) }

func socketName(n int) string { return fmt.Sprintf("swp%d", n) }

// SetName has the switch say who it is: its name and the address of its chassis. every is how often Announce is called.
func (s *Switch) SetName(name string, chassis MAC, every time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.speaker = &speaker{mac: chassis, unit: lldp.Unit{
		Chassis: lldp.ID{Subtype: lldp.ChassisMAC, Value: string(chassis[:])}, SystemName: name, SystemDescription: "a switch of a Skein lab",
		TTL: 4*every + time.Second, Can: lldp.Bridge, Is: lldp.Bridge, MaxFrame: 9018,
	}}
}

// Announce says on all ports who the switch is.
func (s *Switch) Announce() {
	s.mu.RLock()
	ports := make([]*Port, 0, len(s.ports))
	for p := range s.ports {
		ports = append(ports, p)
	}
	s.mu.RUnlock()
	for _, p := range ports {
		p.Announce()
	}
}

// Announce says on this port who the switch is. The port's faults may take it.
func (p *Port) Announce() {
	at := p.place.Load()
	at.sw.mu.RLock()
	sp := at.sw.speaker
	at.sw.mu.RUnlock()
	if sp == nil {
		return
	}
	u := sp.unit
	u.Port = lldp.ID{Subtype: lldp.PortIface, Value: socketName(at.socket)}
	frame, err := u.Frame(sp.mac)
	if err != nil {
		return // its name is the lab's, and fits
	}
	now := at.sw.now()
	p.mu.Lock()
	if p.announced == nil { // a chance of its own: what becomes of other frames must not depend on the time of these
		p.announced = rand.New(rand.NewPCG(uint64(at.socket), 0))
	}
	f := p.fault[In].next(p.announced)
	p.mu.Unlock()
	if f.copies == 0 {
		p.faulted.Add(1)
		return
	}
	for _, delay := range f.delays() {
		if !p.queue.push(f.apply(frame), now.Add(delay)) {
			p.overflow.Add(1)
		}
	}
}

// hear takes a frame that was for the switch itself.
func (p *Port) hear(frame []byte) {
	u, err := lldp.Parse(frame)
	if err != nil {
		return // another protocol of bridges
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard.Receive(time.Since(started), u)
}

// started is the zero of the ports' clock.
var started = time.Now()

// Cable is one port and what is known of its other end.
type Cable struct {
	Socket  string   `json:"socket"`
	Machine string   `json:"machine"` // who is plugged in, as the lab knows
	Says    []string `json:"says"`    // who it is by its own word: its name and its port, by LLDP
}

// Cables are all ports of the switch, by socket.
func (s *Switch) Cables() []Cable {
	s.mu.RLock()
	ports := make([]*Port, 0, len(s.ports))
	for p := range s.ports {
		ports = append(ports, p)
	}
	s.mu.RUnlock()
	slices.SortFunc(ports, func(a, b *Port) int { return cmp.Compare(a.place.Load().socket, b.place.Load().socket) })
	out := make([]Cable, 0, len(ports))
	for _, p := range ports {
		c := Cable{Socket: p.Socket(), Machine: p.name, Says: []string{}}
		p.mu.Lock()
		p.heard.Expire(time.Since(started))
		for _, u := range p.heard.List() {
			c.Says = append(c.Says, u.SystemName+" "+u.PortText())
		}
		p.mu.Unlock()
		out = append(out, c)
	}
	return out
}
