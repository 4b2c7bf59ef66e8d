package ethernet

import (
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-os/skein/agent/lldp"
)

const (
	// QueueFrames is how many frames may wait for a port before more are dropped.
	QueueFrames = 512
	// MaxFrame is the longest frame taken from a port, in bytes: room for jumbo frames.
	MaxFrame = 65536
	// headerBytes is the shortest thing that has two addresses and a type.
	headerBytes = 14
	// ageing is how long a learnt address is believed, as in IEEE 802.1D.
	ageing = 5 * time.Minute
)

// HeaderBytes are what a frame has more than its packet.
const HeaderBytes = headerBytes

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) group() bool { return m[0]&1 == 1 }

// Direction of a frame as the machine on the port sees it.
type Direction int

const (
	Out Direction = iota // from the machine into the switch
	In                   // from the switch to the machine
)

// Stats counts frames of one port.
type Stats struct {
	Received uint64 `json:"received"` // from the machine
	Sent     uint64 `json:"sent"`     // to the machine
	Faulted  uint64 `json:"faulted"`  // lost to a fault or a partition
	Overflow uint64 `json:"overflow"` // dropped because the machine did not take them in time
}

// Sink takes the frames that leave the switch by a port. WriteFrames may block; an error ends the port.
type Sink interface {
	WriteFrames(frames [][]byte) error
}

// Switch is one LAN.
type Switch struct {
	mu      sync.RWMutex
	ports   map[*Port]struct{}
	table   map[MAC]learnt
	sockets map[string]int // number of the socket by the name of who was last in it
	speaker *speaker       // nil: it says nothing of itself
	seed    uint64         // of the chance in faults
	tap     func(port string, frame []byte)
	now     func() time.Time
}

type learnt struct {
	port *Port
	at   time.Time
}

// New makes a switch without ports.
func New() *Switch {
	return &Switch{ports: map[*Port]struct{}{}, table: map[MAC]learnt{}, sockets: map[string]int{}, seed: rand.Uint64(), now: time.Now}
}

// Seed makes the chance in the faults of ports that are attached from now on repeatable: what becomes of
// the n-th frame that meets a fault depends on the seed, the name of the port, the direction and n alone, not on
// what other ports do.
func (s *Switch) Seed(seed uint64) {
	s.mu.Lock()
	s.seed = seed
	s.mu.Unlock()
}

// Tap shows f every frame that a device sends into the switch, with the name of its port, before any fault
// or partition may take it: what a device does is seen even where nobody hears it. f is called by several
// goroutines at once, must be quick and must not keep or change the frame. Call Tap before Attach.
func (s *Switch) Tap(f func(port string, frame []byte)) {
	s.mu.Lock()
	s.tap = f
	s.mu.Unlock()
}

// Port is one socket of a switch.
type Port struct {
	place atomic.Pointer[place]
	name  string
	sink  Sink
	queue *queue
	done  chan struct{}

	mu    sync.Mutex
	group int
	fault [2]Fault
	rand  [2]*rand.Rand // by Direction
	heard lldp.Table

	announced *rand.Rand // the chance of what the switch says itself

	received, sent, faulted, overflow atomic.Uint64
}

// Attach plugs a device in. The port's writer runs until Detach, or until sink fails.
func (s *Switch) Attach(name string, sink Sink) *Port {
	p := &Port{name: name, sink: sink, queue: newQueue(QueueFrames), done: make(chan struct{})}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	s.mu.Lock()
	for d := range p.rand {
		p.rand[d] = rand.New(rand.NewPCG(s.seed, h.Sum64()^uint64(d)))
	}
	s.plug(p)
	s.mu.Unlock()
	go p.write()
	p.Announce()
	return p
}

// Detach unplugs the port. The caller must make a blocked sink return (close its connection) first, or
// Detach waits for it.
func (p *Port) Detach() {
	p.place.Load().sw.unplug(p)
	p.queue.close()
	<-p.done
}

// Name is what the port was attached as.
func (p *Port) Name() string { return p.name }

// Stats returns the port's counters.
func (p *Port) Stats() Stats {
	return Stats{p.received.Load(), p.sent.Load(), p.faulted.Load(), p.overflow.Load()}
}

// SetFault replaces the fault of one direction.
func (p *Port) SetFault(d Direction, f Fault) {
	p.mu.Lock()
	p.fault[d] = f
	p.mu.Unlock()
}

// Fault returns the fault of one direction.
func (p *Port) Fault(d Direction) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault[d]
}

// SetGroup puts the port into a group. Ports of different groups do not hear each other; group 0 hears
// and is heard by all.
func (p *Port) SetGroup(g int) {
	p.mu.Lock()
	p.group = g
	p.mu.Unlock()
}

// meet has the next frame of a direction, of so many bytes, meet the port's fault.
func (p *Port) meet(d Direction, bytes int) (group int, f fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if most := p.fault[d].Longest; most > 0 && bytes > most {
		return p.group, fate{}
	}
	return p.group, p.fault[d].next(p.rand[d])
}

// Receive takes a frame that the device on the port sent. The switch keeps the slice: the caller must
// not write to it again.
func (p *Port) Receive(frame []byte) {
	if len(frame) < headerBytes || len(frame) > MaxFrame {
		return
	}
	p.received.Add(1)
	at := p.place.Load()
	if at.tap != nil {
		at.tap(p.name, frame)
	}
	group, f := p.meet(Out, len(frame))
	if f.copies == 0 {
		p.faulted.Add(1)
		return
	}
	if reserved(MAC(frame[0:6])) {
		p.hear(f.apply(frame))
		return
	}
	now := at.sw.now()
	for _, delay := range f.delays() {
		p.forward(at.sw, group, f.apply(frame), now, now.Add(delay))
	}
}

// forward passes a frame on to the port where its destination is, or to all if that is not known.
func (p *Port) forward(s *Switch, group int, frame []byte, now, at time.Time) {
	dst, src := MAC(frame[0:6]), MAC(frame[6:12])
	s.mu.RLock()
	defer s.mu.RUnlock()
	if l := s.table[src]; !src.group() && (l.port != p || now.Sub(l.at) > ageing/10) {
		s.mu.RUnlock()
		s.mu.Lock()
		if _, attached := s.ports[p]; attached {
			s.table[src] = learnt{p, now}
		}
		s.mu.Unlock()
		s.mu.RLock()
	}
	if l, known := s.table[dst]; known && !dst.group() && now.Sub(l.at) < ageing {
		if l.port != p {
			l.port.deliver(p, group, frame, at)
		}
		return
	}
	for out := range s.ports {
		if out != p {
			out.deliver(p, group, frame, at)
		}
	}
}

// deliver queues a frame for the device on the port, to go out at the given time.
func (p *Port) deliver(from *Port, fromGroup int, frame []byte, at time.Time) {
	group, f := p.meet(In, len(frame))
	if group != 0 && fromGroup != 0 && group != fromGroup {
		from.faulted.Add(1)
		return
	}
	if f.copies == 0 {
		p.faulted.Add(1)
		return
	}
	for _, delay := range f.delays() {
		if !p.queue.push(f.apply(frame), at.Add(delay)) {
			p.overflow.Add(1)
		}
	}
}

// write sends what is due until the port is detached.
func (p *Port) write() {
	defer close(p.done)
	batch := make([][]byte, 0, 32)
	for {
		batch = p.queue.pop(batch[:0], cap(batch))
		if len(batch) == 0 {
			return
		}
		if err := p.sink.WriteFrames(batch); err != nil {
			// The machine is gone (powered off): whatever comes is counted as overflow until it is detached.
			return
		}
		p.sent.Add(uint64(len(batch)))
	}
}
