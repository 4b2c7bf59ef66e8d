package member

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Core is the state of one member. It is not safe for concurrent use: its driver owns it.
type Core struct {
	cfg  Config
	self incarnation
	authenticator
	msg message // scratch of decode

	peers      []*peer // sorted by name
	byName     map[string]*peer
	index      map[incarnation]int // of the committed boots, into peers
	selfVoter  bool
	voterSince time.Duration
	voters     int    // self included
	voterSet   uint64 // digest of the voters' incarnations
	// votersSince is when voterSet last changed.
	votersSince time.Duration

	linkIDs map[string]uint8 // own links, numbered in the order they became known
	links   []ownLink

	firstSeq uint64 // of this Core's first heartbeat
	lastSeq  uint64 // of our newest heartbeat
	lastWill uint64 // of our newest will
	nextSend time.Duration
	started  bool
	spoken   time.Duration // when the newest heartbeat was sent
	// refusedMore: an incarnation is refused, and no heartbeat of ours has said so yet.
	refusedMore bool
	round       int
	busy        bool // see Busy
	ended       bool // Gasp was called, or the ledger says this very boot is lost
	refusing    map[incarnation]bool
	past        map[incarnation]bool // boots that once were committed and are no more

	leaseUntil time.Duration

	lastCall time.Duration
	stalled  time.Duration // time during which nobody called us

	mutant mutant
}

// mutant breaks a rule on purpose, so that tests can show that they would notice.
type mutant struct {
	leaseFromReceipt bool // owner counts from the receipt of the acknowledgement
	majorityLess     int  // a majority of voters, less this
	forgetRefusals   bool // acknowledges again what it promised to refuse
	keepNews         bool // until the next heartbeat is due
	noMargin         bool // proof after Lease, as if all clocks were one
}

type ownLink struct {
	name  string
	count uint64 // datagrams sent on it, so that peers see what is missing
}

// peer is what is known of one committed incarnation of another member.
type peer struct {
	Peer
	inc     incarnation
	addedAt time.Duration

	newest  uint64        // newest seq received, on whichever link
	ackedAt time.Duration // when we received the newest one that we acknowledge
	heardAt time.Duration // awake time, for suspicion
	ever    bool          // heard at all

	ackSeq   uint64 // newest of our heartbeats that it echoed
	leaseSeq uint64 // the same, while it held the same voter set as we do

	refusesUs bool
	voterSet  uint64
	says      []statement // its newest heartbeat, by index of the peer it speaks of
	saidAt    time.Duration
	deaf      bool          // its newest heartbeat says of everybody that it hears nothing of him
	deafSince time.Duration // when the first of those came
	busy      bool          // that one says that other frames reach it

	gasped  string
	over    bool // it said that this boot ends for certain: nothing revives it
	ordered bool // by its own words, somebody asked for its end
	dark    bool // proof: it said farewell
	told    bool // that its silence means something, in a heartbeat of ours

	willSeq      uint64        // of the newest will taken
	restarting   bool          // by that will, and no new agent was heard since
	patientUntil time.Duration // of that restart
	patience     time.Duration // what is left of the budget that began at budgetAt
	budgetAt     time.Duration

	gaspSeq   uint64
	newBoot   string
	condemned bool // proof: its lease has expired
	hearsUsOn uint64

	rx  map[uint8]*rxLink   // by the sender's link number
	on  map[string]*localRx // by our own link
	tx  map[uint8]txLink    // by our own link's number, as it reports
	evs map[string]*linkState
}

// statement is what a peer says of one incarnation.
type statement struct {
	valid, refused, silent, acked bool
	age                           time.Duration // at the time of saying
}

// rxLink follows the sequence numbers of one of a sender's links.
type rxLink struct {
	seq, count, first uint64
	window            uint64        // bit i: datagram count-i was received
	at                time.Duration // receipt of seq
	heardAt           time.Duration // the same in awake time
}

type localRx struct {
	heardAt time.Duration // awake time
	link    uint8         // the sender's number of the link that ends here
}

type txLink struct {
	rtt  time.Duration
	loss uint8
}

// New makes a Core that knows no peers yet. Durations that are zero get their defaults. It panics if
// the configuration cannot work at all: no name, no boot id, a key below 16 bytes, a lease over 4 s.
func New(cfg Config) *Core {
	d := DefaultConfig()
	cfg.Interval = cmp.Or(cfg.Interval, d.Interval)
	cfg.Silent = cmp.Or(cfg.Silent, d.Silent)
	cfg.Lease = cmp.Or(cfg.Lease, d.Lease)
	cfg.Patience = cmp.Or(cfg.Patience, d.Patience)
	if cfg.Self == "" || cfg.BootID == "" || len(cfg.Self) > 255 || len(cfg.BootID) > 255 {
		panic(fmt.Sprintf("member: node name %q and boot id %q must have 1 to 255 bytes", cfg.Self, cfg.BootID))
	}
	if len(cfg.Key) < 16 {
		panic("member: heartbeat key is shorter than 16 bytes")
	}
	if cfg.Interval < 0 || cfg.Silent < cfg.Interval || cfg.Lease < cfg.Silent || cfg.Lease > maxLease {
		panic(fmt.Sprintf("member: need interval %v <= silent %v <= lease %v <= %v", cfg.Interval, cfg.Silent, cfg.Lease, maxLease))
	}
	if cfg.Patience < 0 || cfg.Patience > patienceEvery {
		panic(fmt.Sprintf("member: patience %v with a restarting agent, need at most %v", cfg.Patience, patienceEvery))
	}
	return &Core{
		cfg:           cfg,
		self:          incarnationOf(cfg.Self, cfg.BootID),
		authenticator: newAuthenticator(cfg.ClusterID, cfg.Key),
		byName:        map[string]*peer{},
		index:         map[incarnation]int{},
		linkIDs:       map[string]uint8{},
		refusing:      map[incarnation]bool{},
		past:          map[incarnation]bool{},
	}
}

// Silent is Config.Silent, with its default.
func (c *Core) Silent() time.Duration { return c.cfg.Silent }

// Busy tells whether other frames than heartbeats of peers reach this node. Peers learn of it while none of theirs
// does (PeerView.Busy).
func (c *Core) Busy(busy bool) { c.busy = busy }

// SetPeers tells all other members as committed, and whether this node is a voter. Nothing is
// acknowledged before. Nodes that are lost stay in the list until they are removed from the cluster or
// are back in a new boot: there is no proof for a peer that is not listed. At most 64 own links are used.
func (c *Core) SetPeers(now time.Duration, selfVoter bool, peers []Peer) {
	c.wake(now)
	if selfVoter && !c.selfVoter {
		c.voterSince = now
	}
	c.selfVoter = selfVoter
	oldIndex, oldPeers := c.index, c.byName
	c.peers, c.byName, c.index = nil, map[string]*peer{}, map[incarnation]int{}
	for _, np := range peers {
		if np.Name == c.cfg.Self || c.byName[np.Name] != nil {
			continue
		}
		np.Links = slices.Clone(np.Links)
		p := oldPeers[np.Name]
		if p == nil || p.BootID != np.BootID {
			if p != nil {
				c.past[p.inc] = true
			}
			p = &peer{
				inc: incarnationOf(np.Name, np.BootID), addedAt: now, heardAt: c.awake(now),
				rx: map[uint8]*rxLink{}, on: map[string]*localRx{}, tx: map[uint8]txLink{}, evs: map[string]*linkState{},
			}
		}
		p.Peer = np
		c.peers = append(c.peers, p)
		c.byName[p.Name] = p
		for _, l := range np.Links {
			c.linkID(l.Link)
		}
	}
	for name, p := range oldPeers {
		if c.byName[name] == nil {
			c.past[p.inc] = true
		}
	}
	slices.SortFunc(c.peers, func(a, b *peer) int { return cmp.Compare(a.Name, b.Name) })
	for i, p := range c.peers {
		c.index[p.inc] = i
	}
	for _, p := range c.peers {
		says := make([]statement, len(c.peers))
		for inc, i := range oldIndex {
			if j, ok := c.index[inc]; ok && i < len(p.says) {
				says[j] = p.says[i]
			}
		}
		p.says = says
	}
	c.setVoters(now)
}

// setVoters counts the voters and digests their incarnations. Acknowledgements that were given under
// another set of voters do not count for the next lease; the lease that was reached stays.
func (c *Core) setVoters(now time.Duration) {
	names := []string{}
	if c.selfVoter {
		names = append(names, c.cfg.Self+"\x00"+c.cfg.BootID)
	}
	for _, p := range c.peers {
		if p.Voter {
			names = append(names, p.Name+"\x00"+p.BootID)
		}
	}
	slices.Sort(names)
	c.voters = len(names)
	if set := digest64(append([]string{"voters"}, names...)...); set != c.voterSet {
		c.voterSet, c.votersSince = set, now
		for _, p := range c.peers {
			p.leaseSeq = 0
		}
	}
}

func (c *Core) linkID(name string) (uint8, bool) {
	id, ok := c.linkIDs[name]
	if !ok {
		if len(c.links) == maxLinks {
			return 0, false
		}
		id = uint8(len(c.links))
		c.linkIDs[name] = id
		c.links = append(c.links, ownLink{name: name})
	}
	return id, true
}

// Refuse promises never to acknowledge this incarnation again: the ledger says that it is lost. If it is
// this very incarnation, it gives up its lease for good.
func (c *Core) Refuse(now time.Duration, node, bootID string) {
	c.wake(now)
	inc := incarnationOf(node, bootID)
	c.refusedMore = c.refusedMore || !c.refusing[inc]
	c.refusing[inc] = true
	if inc == c.self {
		c.end()
	}
}

func (c *Core) end() {
	c.ended = true
	c.leaseUntil = 0
}

// Tick returns the heartbeats that are due. Call it about every 25 ms.
func (c *Core) Tick(now time.Duration) []Datagram {
	c.wake(now)
	due := !c.started || now >= c.nextSend
	if c.ended || !due && !c.news(now) {
		return nil
	}
	// After a stall there is one heartbeat, not a burst of those that were missed.
	if due {
		c.nextSend += c.cfg.Interval
	}
	if !c.started || c.nextSend <= now {
		c.nextSend = now + c.cfg.Interval
	}
	c.started = true
	c.spoken = now
	c.refusedMore = false
	for _, p := range c.peers {
		p.told = c.suspects(now, p)
	}
	out := c.send(now, kindHeartbeat, "")
	c.updateLease()
	return out
}

// news tells whether there is something that others wait for: a silence that they are asked to confirm, a
// refusal that is missing in their proof. It is not worth more than one heartbeat in half an interval.
func (c *Core) news(now time.Duration) bool {
	if now < c.spoken+c.cfg.Interval/2 || c.mutant.keepNews {
		return false
	}
	return c.refusedMore || slices.ContainsFunc(c.peers, func(p *peer) bool { return !p.told && c.suspects(now, p) })
}

// Gasp returns the last datagrams of this boot: they tell all peers that it ends now and why, so that
// nobody needs to wait for its silence. The lease is given up and Tick sends nothing more. Calling it
// again repeats it. It is a hint, not a proof.
func (c *Core) Gasp(now time.Duration, reason string) []Datagram {
	c.wake(now)
	c.end()
	return c.send(now, kindGasp, cmp.Or(reason, "no reason given"))
}

// each returns one datagram for each peer on each link, made once for a link.
func (c *Core) each(payload func(link uint8) []byte) []Datagram {
	var out []Datagram
	payloads := make([][]byte, len(c.links))
	for _, p := range c.peers {
		for _, l := range p.Links {
			id, ok := c.linkID(l.Link)
			if !ok {
				continue
			}
			if payloads[id] == nil {
				payloads[id] = payload(id)
			}
			out = append(out, Datagram{Link: l.Link, To: l.Addr, Payload: payloads[id]})
		}
	}
	return out
}

func (c *Core) send(now time.Duration, kind byte, reason string) []Datagram {
	c.lastSeq = max(c.lastSeq+1, uint64(max(now, 0)/time.Microsecond))
	if c.firstSeq == 0 {
		c.firstSeq = c.lastSeq
	}
	c.round++
	return c.each(func(id uint8) []byte { return c.encode(now, kind, id, reason) })
}

func (c *Core) encode(now time.Duration, kind byte, link uint8, reason string) []byte {
	c.links[link].count++
	b := make([]byte, 0, 128+28*len(c.peers))
	b = c.appendHeader(b, kind, link, c.lastSeq, c.links[link].count, reason)
	n := min(len(c.peers), maxEntries)
	b = append(b, byte(n&0x7f|0x80), byte(n>>7)) // a uvarint of two bytes
	var details []linkDetail
	for i, p := range c.peers[:n] {
		e := entry{who: p.inc, age: now - c.lastAck(p)}
		if c.refusing[p.inc] {
			e.flags |= flagRefused
		}
		if p.newest > 0 && (!c.refusing[p.inc] || c.mutant.forgetRefusals) {
			e.flags |= flagAcked
			e.ack = p.newest
			details = details[:0]
			for id := uint8(0); id < maxLinks && len(details) < len(p.rx); id++ {
				l := p.rx[id]
				if l == nil {
					continue
				}
				if c.awake(now)-l.heardAt <= c.cfg.Silent {
					e.heardOn |= 1 << id
				}
				details = append(details, linkDetail{link: id, seq: l.seq, hold: now - l.at, loss: l.loss()})
			}
			// Loss and round trips need not be told each time; in a large cluster one in four keeps 64
			// members within one Ethernet frame.
			if n <= 32 || (c.round+i)%4 == 0 {
				e.flags |= flagDetails
			}
		}
		if c.suspects(now, p) {
			e.flags |= flagSilent
			if c.busy {
				e.flags |= flagBusy
			}
		}
		b = appendEntry(b, &e, details)
	}
	return c.appendTag(b)
}

// lastAck is the latest time at which we may have received a heartbeat that we acknowledged. What an
// earlier Core of the same boot did is unknown: count from when this one could begin to.
func (c *Core) lastAck(p *peer) time.Duration {
	return max(p.ackedAt, p.addedAt, c.voterSince)
}

// wake notes that somebody called us. A gap is time in which we could not have heard anything, so it
// does not count as silence of others.
func (c *Core) wake(now time.Duration) {
	if gap := now - c.lastCall; gap > c.cfg.Silent/2 {
		c.stalled += gap
	}
	c.lastCall = max(c.lastCall, now)
}

// awake is the clock of suspicion: it stands while nobody calls us.
func (c *Core) awake(now time.Duration) time.Duration { return now - c.stalled }

func (c *Core) silentFor(now time.Duration, p *peer) time.Duration { return c.awake(now) - p.heardAt }
