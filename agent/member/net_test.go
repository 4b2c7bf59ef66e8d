package member

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sort"
	"time"
)

// world is a network of Cores under virtual time. True time is in nanoseconds from 0; each node's clock
// has its own rate and offset. Everything random comes from one seed.
type world struct {
	rng    *rand.Rand
	now    time.Duration
	nodes  []*simNode
	wires  []wire // in flight, by arrival
	loss   float64
	delay  func() time.Duration
	copies float64
	cut    func(from, to int, link string) bool
	cfg    func(*Config)
	after  func(n *simNode) // runs whenever a node did something
	ledger []lostEntry
}

type lostEntry struct {
	at         time.Duration
	node, boot string
}

type wire struct {
	at       time.Duration
	from, to int
	link     string
	payload  []byte
}

type simNode struct {
	id          int
	name, boot  string
	core        *Core
	rate        float64
	offset      time.Duration
	frozenUntil time.Duration
	dead        bool
	backlog     []wire
	ledgerLag   time.Duration
	applied     int // ledger entries it has read
	errs        map[error]int
	mutant      mutant
}

func (n *simNode) clock(t time.Duration) time.Duration {
	return n.offset + time.Duration(float64(t)*n.rate)
}

// trueTime is the true time at which the node's clock shows local.
func (n *simNode) trueTime(local time.Duration) time.Duration {
	return time.Duration(float64(local-n.offset) / n.rate)
}

var simLinks = []string{"eth0", "eth1"}

func simAddr(node, link int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(link), byte(node + 1)}), 7700)
}

func newWorld(seed uint64, size int) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1))}
	w.delay = func() time.Duration { return time.Millisecond }
	w.cut = func(int, int, string) bool { return false }
	for i := range size {
		w.nodes = append(w.nodes, &simNode{id: i, name: fmt.Sprintf("n%02d", i+1), boot: fmt.Sprintf("boot-%d", i+1), rate: 1})
	}
	return w
}

// start makes the node's Core, as an agent does that starts or restarts: refusals first, then peers.
func (w *world) start(n *simNode, voters int) {
	cfg := DefaultConfig()
	cfg.Self, cfg.BootID, cfg.ClusterID, cfg.Key = n.name, n.boot, "lab", []byte("0123456789abcdef0123456789abcdef")
	if w.cfg != nil {
		w.cfg(&cfg)
	}
	n.core = New(cfg)
	n.core.mutant = n.mutant
	now := n.clock(w.now)
	for _, e := range w.ledger[:n.applied] {
		n.core.Refuse(now, e.node, e.boot)
	}
	n.core.SetPeers(now, n.id < voters, w.peersOf(n, voters))
}

func (w *world) peersOf(n *simNode, voters int) []Peer {
	var peers []Peer
	for _, o := range w.nodes {
		if o == n {
			continue
		}
		p := Peer{Name: o.name, BootID: o.boot, Voter: o.id < voters}
		for i, l := range simLinks {
			p.Links = append(p.Links, PeerLink{Link: l, Addr: simAddr(o.id, i)})
		}
		peers = append(peers, p)
	}
	return peers
}

func (w *world) send(n *simNode, out []Datagram) {
	for _, d := range out {
		a := d.To.Addr().As4()
		to, link := int(a[3])-1, simLinks[a[2]]
		if w.cut(n.id, to, link) {
			continue
		}
		for range 2 {
			if w.rng.Float64() >= w.loss {
				w.wires = append(w.wires, wire{w.now + w.delay(), n.id, to, link, d.Payload})
			}
			if w.rng.Float64() >= w.copies {
				break
			}
		}
	}
}

func (w *world) deliver(n *simNode, x wire) {
	err := n.core.Step(n.clock(w.now), x.link, x.payload)
	if err != nil && n.errs != nil {
		n.errs[err]++
	}
}

// run runs the world for d in slices of 5 ms: what arrived, what the ledger told, ticks every 25 ms.
func (w *world) run(d time.Duration) {
	for end := w.now + d; w.now < end; {
		w.now += 5 * time.Millisecond
		sort.SliceStable(w.wires, func(i, j int) bool { return w.wires[i].at < w.wires[j].at })
		k := 0
		for ; k < len(w.wires) && w.wires[k].at <= w.now; k++ {
			n := w.nodes[w.wires[k].to]
			if !n.dead {
				n.backlog = append(n.backlog, w.wires[k])
			}
		}
		w.wires = w.wires[k:]
		for _, n := range w.nodes {
			if n.dead || n.core == nil || w.now < n.frozenUntil {
				continue
			}
			for _, x := range n.backlog {
				w.deliver(n, x)
			}
			n.backlog = nil
			for n.applied < len(w.ledger) && w.ledger[n.applied].at+n.ledgerLag <= w.now {
				e := w.ledger[n.applied]
				n.core.Refuse(n.clock(w.now), e.node, e.boot)
				n.applied++
			}
			if (w.now/(5*time.Millisecond)+time.Duration(n.id))%5 == 0 {
				w.send(n, n.core.Tick(n.clock(w.now)))
			}
			if w.after != nil {
				w.after(n)
			}
		}
	}
}
