package member

import (
	"encoding/binary"
	"fmt"
	"time"
)

const (
	// patienceEvery is how often the budget of Config.Patience is renewed, which all restarts in that time
	// share: a crash loop must not keep a node that does nothing from being given up.
	patienceEvery = 30 * time.Second
	// willFresh is how much older than the newest heartbeat a will may be. An agent makes one every second
	// (WillEvery) and dies within the next; more would let a recording of an old one count.
	willFresh = 3 * time.Second
	// WillEvery is how often a driver should leave a new will.
	WillEvery = time.Second
)

// Will returns datagrams that are not for sending, but for whoever outlives this agent (PID 1) to send when
// it has ended: they tell all peers that the node goes on and that a new agent is about to come. Make new
// ones every WillEvery and after each SetPeers; an old will is refused. None if there is nobody to tell, or
// this boot has ended.
func (c *Core) Will(now time.Duration) []Datagram {
	c.wake(now)
	if c.ended {
		return nil
	}
	c.lastWill = max(c.lastWill+1, uint64(max(now, 0)/time.Microsecond))
	return c.each(func(id uint8) []byte {
		b := c.appendHeader(nil, kindRestart, id, c.lastWill, 0, "")
		return c.appendTag(binary.AppendUvarint(b, 0)) // no entries: it speaks of nobody
	})
}

// Patience is Config.Patience, for whoever sends the will: longer is of no use.
func (c *Core) Patience() time.Duration { return c.cfg.Patience }

// bequeathed takes the will of p's agent, of the committed boot. See the package comment for what it may
// change: nothing but suspicion.
func (c *Core) bequeathed(now time.Duration, p *peer, m *message) error {
	switch {
	case c.refusing[p.inc]:
		return fmt.Errorf("%w: will of %s, which was given up", ErrStale, p.Name)
	case p.gasped != "" || p.newBoot != "":
		return fmt.Errorf("%w: will of %s, whose boot has ended", ErrStale, p.Name)
	case m.seq == p.willSeq && p.restarting:
		return nil // repeated, or by the other link
	case m.seq <= p.willSeq, newerThanWill(p.newest, m.seq):
		return fmt.Errorf("%w: old will of %s", ErrStale, p.Name)
	}
	if p.willSeq == 0 || now-p.budgetAt >= patienceEvery {
		p.budgetAt, p.patience = now, c.cfg.Patience
		p.restarting = false
	}
	p.willSeq = m.seq
	if !p.restarting { // or else the new agent died unheard: its restart is the same one
		p.restarting, p.patientUntil = true, now+p.patience
	}
	return nil
}

// restarted notes that p's new agent is heard: what it did not use of the budget is left for the next time.
func (p *peer) restarted(now time.Duration) {
	p.restarting = false
	p.patience = max(0, min(p.patience, p.patientUntil-now))
}

// newerThanWill tells that a heartbeat is so much newer than a will that the agent which made the will
// cannot have died before it sent that.
func newerThanWill(seq, will uint64) bool { return seq > will+uint64(willFresh/time.Microsecond) }

// restartingUntil is PeerView.RestartingUntil.
func (c *Core) restartingUntil(p *peer) time.Duration {
	if !p.restarting || p.gasped != "" || p.newBoot != "" || c.refusing[p.inc] {
		return 0
	}
	return p.patientUntil
}

// suspects tells whether p's silence means anything.
func (c *Core) suspects(now time.Duration, p *peer) bool {
	return c.silentFor(now, p) > c.cfg.Silent && now >= c.restartingUntil(p)
}
