package member

import (
	"math"
	"slices"
	"time"
)

// majority of the voters; 0 if no voters are known.
func (c *Core) majority() int {
	if c.voters == 0 {
		return 0
	}
	return c.voters/2 + 1 - c.mutant.majorityLess
}

// reached is the newest of our send times that a majority of voters has acknowledged, according to
// what of says of each peer; this node acknowledges itself if it is a voter.
func (c *Core) reached(of func(*peer) uint64) (time.Duration, bool) {
	need := c.majority()
	if need <= 0 || c.lastSeq == 0 {
		return 0, false
	}
	seqs := make([]uint64, 0, 8)
	if c.selfVoter {
		seqs = append(seqs, c.lastSeq)
	}
	for _, p := range c.peers {
		if s := of(p); p.Voter && s > 0 {
			seqs = append(seqs, s)
		}
	}
	if len(seqs) < need {
		return 0, false
	}
	slices.Sort(seqs)
	return sentAt(seqs[len(seqs)-need]), true
}

// updateLease extends the lease. It never shortens it: what a majority granted stays granted, whatever
// the voters are afterwards.
func (c *Core) updateLease() {
	if c.ended {
		return
	}
	if sent, ok := c.reached(func(p *peer) uint64 { return p.leaseSeq }); ok {
		c.leaseUntil = max(c.leaseUntil, sent+c.cfg.Lease)
	}
}

// acked is when the newest heartbeat was sent that a majority of voters acknowledged; 0 if there is none.
func (c *Core) acked() time.Duration {
	if c.ended || c.leaseUntil == 0 {
		return 0
	}
	return c.leaseUntil - c.cfg.Lease
}

// heardByMajority tells whether a majority of voters received something we sent within Silent. One more
// interval is allowed for the acknowledgement, which travels with the next heartbeat.
func (c *Core) heardByMajority(now time.Duration) bool {
	sent, ok := c.reached(func(p *peer) uint64 { return p.ackSeq })
	return ok && !c.ended && now-sent <= c.cfg.Silent+c.cfg.Interval
}

// prove looks for proof L1 of peer number x: a majority of voters refuse it, and the newest heartbeat
// that each of them may have acknowledged is too old for any lease. Once found it holds for ever.
func (c *Core) prove(now time.Duration, x int) bool {
	p := c.peers[x]
	if p.condemned || p.dark {
		return true
	}
	if !c.refusing[p.inc] {
		return false
	}
	limit := c.cfg.proofAge()
	if c.mutant.noMargin {
		limit = c.cfg.Lease
	}
	p.condemned = c.unacked(now, x) > limit
	return p.condemned
}

// unacked is for how long at least no majority of voters has acknowledged anything of peer number x, and never
// will again: 0 unless a majority of them refuse it.
func (c *Core) unacked(now time.Duration, x int) time.Duration {
	p := c.peers[x]
	if !c.refusing[p.inc] {
		return 0
	}
	ages := make([]time.Duration, 0, 8)
	if c.selfVoter {
		ages = append(ages, now-c.lastAck(p))
	}
	most := time.Duration(math.MaxInt64)
	for i, v := range c.peers {
		s := &v.says[x]
		if i == x || !s.valid {
			continue
		}
		age := s.age + now - v.saidAt
		// It was told of the loss later than we, and hears what we do not hear: wait for it.
		if !s.refused && s.acked && c.alive(now, v) {
			most = min(most, age)
		}
		if v.Voter && s.refused {
			ages = append(ages, age)
		}
	}
	need := c.majority()
	if need <= 0 || len(ages) < need {
		return 0
	}
	slices.Sort(ages)
	return max(min(most, ages[len(ages)-need]), 0)
}

// unackedLong is unacked for limits so long that the voters may change meanwhile. Of two majorities of the same
// voters at least one voter is in both; so only the time since the last change of the voters counts.
func (c *Core) unackedLong(now time.Duration, x int) time.Duration {
	return max(min(c.unacked(now, x), now-c.votersSince), 0)
}
