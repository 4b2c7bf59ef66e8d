package owners

import (
	"net/netip"
	"slices"
	"time"
)

// Limits of the judgement.
type Limits struct {
	// Overlap is for how long after it was succeeded a machine may in no case answer. Longer than the shortest
	// honest way back it would accuse the innocent.
	Overlap time.Duration
	// Announce is by when a machine that got an address back must have announced it twice. Longer only delays
	// the verdict.
	Announce time.Duration
	// Apart is how far apart two announcements must be to count as two: both forms are sent at once.
	Apart time.Duration
}

// DefaultLimits: 500 ms, 4 s and 20 ms. Nodes announce at 0, 50, 250 and 1000 ms (agent/balance), and a lease
// alone takes 858 ms to be proven ended (agent/member).
func DefaultLimits() Limits {
	return Limits{Overlap: 500 * time.Millisecond, Announce: 4 * time.Second, Apart: 20 * time.Millisecond}
}

// Answer is one frame that spoke for a floating address.
type Answer struct {
	Time time.Time
	Node string // the machine on the port, whatever MAC it used
	LAN  int
	Addr netip.Addr
	Kind Kind
}

// Handover is a change of the owner.
type Handover struct {
	Time    time.Time  `json:"time"`
	Address netip.Addr `json:"address"`
	From    string     `json:"from,omitempty"` // empty: nobody had answered before
	To      string     `json:"to"`
	By      Kind       `json:"by"` // the first answer of the new owner
	LAN     int        `json:"lan"`
	DarkMs  float64    `json:"dark_ms"` // since the last answer of the owner before
}

// Fault is why there was a double owner.
type Fault string

const (
	Overlap Fault = "overlap"
	Return  Fault = "return"
)

// Violation is a double owner: Node spoke for the address of Owner. Frames of the same machine that follow in the
// same ownership are counted, not listed.
type Violation struct {
	Time    time.Time  `json:"time"` // of the first frame
	Address netip.Addr `json:"address"`
	Fault   Fault      `json:"fault"`
	Owner   string     `json:"owner"` // who had succeeded it
	Node    string     `json:"node"`  // who answered nevertheless
	By      Kind       `json:"by"`
	LAN     int        `json:"lan"`
	LateMs  float64    `json:"late_ms"` // of the first frame, after the owner's first
	Frames  int        `json:"frames"`
}

// Address is what is known of one floating address.
type Address struct {
	Address   netip.Addr `json:"address"`
	Owner     string     `json:"owner"`
	Since     time.Time  `json:"since"`
	Last      time.Time  `json:"last"`    // the owner's newest answer
	Answers   uint64     `json:"answers"` // all there were, of anybody
	Handovers []Handover `json:"handovers"`
}

// keep bounds the lists; what is counted is counted on.
const keep = 5000

// Book is the judge: pure, without clock or lock. Answers come in the order of their times.
type Book struct {
	limits     Limits
	addrs      map[netip.Addr]*entry
	violations []Violation
	count      int
}

type entry struct {
	Address
	ended map[string]time.Time // when each earlier owner was succeeded
	// back: the owner has been one before, and must announce that it is again.
	back  *Handover
	heard int       // announcements of it, apart
	when  time.Time // of the newest that counted
	bad   map[string]int
}

// NewBook makes a judge who has seen nothing.
func NewBook(l Limits) *Book { return &Book{limits: l, addrs: map[netip.Addr]*entry{}} }

// Note judges one answer. It returns the handover that it is, if it is one, and the violations that are found now.
func (b *Book) Note(a Answer) (*Handover, []Violation) {
	found := b.Expire(a.Time)
	e := b.addrs[a.Addr]
	if e == nil {
		e = &entry{Address: Address{Address: a.Addr}, ended: map[string]time.Time{}, bad: map[string]int{}}
		b.addrs[a.Addr] = e
	}
	e.Answers++
	if a.Node == e.Owner {
		e.Last = a.Time
		b.announced(e, a)
		return nil, found
	}
	ended, before := e.ended[a.Node]
	if before && a.Time.Sub(ended) < b.limits.Overlap {
		if i, again := e.bad[a.Node]; again {
			if i < len(b.violations) {
				b.violations[i].Frames++
			}
			return nil, found
		}
		v := b.add(Violation{Time: a.Time, Address: a.Addr, Fault: Overlap, Owner: e.Owner, Node: a.Node, By: a.Kind, LAN: a.LAN, LateMs: ms(a.Time.Sub(ended)), Frames: 1})
		e.bad[a.Node] = b.count - 1
		return nil, append(found, v)
	}
	h := Handover{Time: a.Time, Address: a.Addr, From: e.Owner, To: a.Node, By: a.Kind, LAN: a.LAN}
	if e.Owner != "" {
		h.DarkMs = ms(a.Time.Sub(e.Last))
		e.ended[e.Owner] = a.Time
	}
	if len(e.Handovers) < keep {
		e.Handovers = append(e.Handovers, h)
	}
	e.Owner, e.Since, e.Last, e.back, e.heard = a.Node, a.Time, a.Time, nil, 0
	clear(e.bad)
	if before {
		e.back = &h
		b.announced(e, a)
	}
	return &h, found
}

// announced notes an announcement by the owner.
func (b *Book) announced(e *entry, a Answer) {
	if e.back == nil || a.Kind != Announcement || e.heard > 0 && a.Time.Sub(e.when) < b.limits.Apart {
		return
	}
	e.heard++
	e.when = a.Time
	if e.heard >= 2 {
		e.back = nil
	}
}

// Expire finds the returns that were not announced by now.
func (b *Book) Expire(now time.Time) (found []Violation) {
	for _, addr := range b.sorted() {
		e := b.addrs[addr]
		if h := e.back; h != nil && now.Sub(h.Time) > b.limits.Announce {
			e.back = nil
			found = append(found, b.add(Violation{Time: h.Time, Address: addr, Fault: Return, Owner: h.From, Node: h.To, By: h.By, LAN: h.LAN,
				LateMs: ms(h.Time.Sub(e.began(h))), Frames: 1}))
		}
	}
	return found
}

// began is when the owner before a handover had begun to answer.
func (e *entry) began(h *Handover) time.Time {
	for i := len(e.Handovers) - 1; i >= 0; i-- {
		if x := e.Handovers[i]; x.To == h.From && x.Time.Before(h.Time) {
			return x.Time
		}
	}
	return h.Time
}

func (b *Book) add(v Violation) Violation {
	b.count++
	if len(b.violations) < keep {
		b.violations = append(b.violations, v)
	}
	return v
}

func (b *Book) sorted() []netip.Addr {
	all := make([]netip.Addr, 0, len(b.addrs))
	for a := range b.addrs {
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func ms(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
