package member

import (
	"fmt"
	"math/bits"
	"time"
)

// newBootFresh is how recently sent a heartbeat of ours a strange boot must echo to be believed alive.
const newBootFresh = 10 * time.Second

// Step takes a datagram that was received on the local link. The error tells why it was not taken:
// ErrMalformed, ErrForeign, ErrAuth, ErrStale.
func (c *Core) Step(now time.Duration, link string, payload []byte) error {
	c.wake(now)
	m, err := c.decode(payload)
	if err != nil {
		return err
	}
	return c.take(now, link, m)
}

// StepChecked is Step of what a Screen of the same cluster let through: its tag is not checked again.
func (c *Core) StepChecked(now time.Duration, link string, d Checked) error {
	c.wake(now)
	m, err := c.parse(d.body)
	if err != nil {
		return err
	}
	return c.take(now, link, m)
}

func (c *Core) take(now time.Duration, link string, m *message) error {
	p := c.byName[string(m.sender)]
	if p == nil {
		return fmt.Errorf("%w: %q", ErrForeign, m.sender)
	}
	if string(m.boot) != p.BootID {
		return c.strangeBoot(now, p, m)
	}
	switch m.kind {
	case kindRestart:
		return c.bequeathed(now, p, m)
	case kindEnd:
		p.takeEnd(m)
		return nil
	}
	l := p.rx[m.link]
	if l == nil {
		l = &rxLink{}
		p.rx[m.link] = l
	}
	if m.seq <= l.seq {
		return fmt.Errorf("%w: from %s, number %d after %d", ErrStale, p.Name, m.seq, l.seq)
	}
	if p.restarting && (m.count <= l.count || newerThanWill(m.seq, p.willSeq)) {
		p.restarted(now) // a new agent, which counts from one
	}
	l.received(m.seq, m.count)
	l.at, l.heardAt = now, c.awake(now)
	p.on[link] = &localRx{heardAt: l.heardAt, link: m.link}
	if m.seq <= p.newest {
		return nil // the other link brought the same, or newer
	}
	p.newest = m.seq
	p.heardAt, p.ever = c.awake(now), true
	if !c.refusing[p.inc] {
		p.ackedAt = now
	}
	if m.kind == kindGasp {
		p.gasped, p.gaspSeq, p.ordered = string(m.reason), m.seq, true
	} else if p.gasped != "" && !p.over {
		p.gasped = "" // its agent is back in the same boot
	}
	p.voterSet, p.saidAt = m.voterSet, now
	clear(p.says)
	deaf, busy := len(m.entries) > 0, false
	for i := range m.entries {
		e := &m.entries[i]
		deaf, busy = deaf && e.flags&flagSilent != 0, busy || e.flags&flagBusy != 0
		if e.who == c.self {
			c.acknowledged(now, p, m, e)
		} else if j, ok := c.index[e.who]; ok {
			p.says[j] = statement{valid: true, refused: e.flags&flagRefused != 0, silent: e.flags&flagSilent != 0,
				acked: e.flags&flagAcked != 0, age: e.age}
		}
	}
	if deaf && !p.deaf {
		p.deafSince = now
	}
	p.deaf, p.busy = deaf, deaf && busy
	return nil
}

// acknowledged takes what p says of ourselves.
func (c *Core) acknowledged(now time.Duration, p *peer, m *message, e *entry) {
	p.refusesUs = e.flags&flagRefused != 0
	p.hearsUsOn = e.heardOn
	if e.flags&flagAcked == 0 || e.ack > c.lastSeq {
		return // more than we ever sent is nonsense
	}
	p.ackSeq = max(p.ackSeq, e.ack)
	if m.voterSet == c.voterSet {
		lease := e.ack
		if c.mutant.leaseFromReceipt || c.cfg.CountFromReceipt {
			lease = uint64(now / time.Microsecond)
		}
		p.leaseSeq = max(p.leaseSeq, lease)
		c.updateLease()
	}
	for _, d := range m.details[e.det0:e.det] {
		rtt := now - sentAt(d.seq) - d.hold
		p.tx[d.link] = txLink{rtt: max(rtt, 0), loss: d.loss}
	}
}

// strangeBoot handles an authentic datagram of a member's name in another boot than the committed one.
// A recording of an earlier boot is authentic too: only an echo of what this very Core sent just now
// shows that the sender lives.
func (c *Core) strangeBoot(now time.Duration, p *peer, m *message) error {
	inc := incarnationOf(string(m.sender), string(m.boot))
	if c.past[inc] || c.refusing[inc] {
		return fmt.Errorf("%w: %s in boot %.8s", ErrStale, p.Name, m.boot)
	}
	for i := range m.entries {
		e := &m.entries[i]
		if e.who == c.self && e.flags&flagAcked != 0 && e.ack <= c.lastSeq && e.ack >= max(c.firstSeq, 1) && sentAt(e.ack) > now-newBootFresh {
			p.newBoot = string(m.boot)
			return nil
		}
	}
	return fmt.Errorf("%w: %s in boot %.8s did not hear us yet", ErrStale, p.Name, m.boot)
}

// sentAt is the send time that a sequence number stands for, on its sender's clock.
func sentAt(seq uint64) time.Duration { return time.Duration(seq) * time.Microsecond }

// received notes datagram number count of the link.
func (l *rxLink) received(seq, count uint64) {
	switch shift := count - l.count; {
	case l.seq == 0 || count <= l.count: // first, or the sender's agent was restarted
		l.first, l.window = count, 1
	case shift < 64:
		l.window = l.window<<shift | 1
	default:
		l.window = 1
	}
	l.seq, l.count = seq, count
}

// loss is the percentage of the last 64 datagrams that did not arrive; 0 before there were ten.
func (l *rxLink) loss() uint8 {
	n := min(l.count-l.first+1, 64)
	if n < 10 {
		return 0
	}
	got := bits.OnesCount64(l.window & (^uint64(0) >> (64 - n)))
	return uint8(100 * (int(n) - got) / int(n))
}
