package writers

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// lun is what the judge knows of one disk.
type lun struct {
	j *Judge
	Disk
	keys   map[nexus]uint64
	holder *nexus // of the reservation
	kind   byte   // of the reservation: SPC-4, table 64
	fences map[string]*Fence
	asked  map[string]*command // the newest command of each node by which it may get the disk
	nodes  map[nodeName]*Writer
	last   string // who has written
	blind  time.Time

	violations, overlaps []int          // in the judge's lists
	bad                  map[*Fence]int // where in violations, of the fences that are closed; -1: no room
	over                 map[overlapping]int
}

type nodeName struct{ node, initiator string }

type overlapping struct {
	node, over string
	since      time.Time
}

func newLUN(j *Judge, target string, number uint64) *lun {
	return &lun{j: j, Disk: Disk{Target: target, LUN: number}, keys: map[nexus]uint64{}, fences: map[string]*Fence{}, asked: map[string]*command{},
		nodes: map[nodeName]*Writer{}, bad: map[*Fence]int{}, over: map[overlapping]int{}}
}

func (l *lun) writer(n nexus) *Writer {
	id := nodeName{n.node, n.initiator}
	w := l.nodes[id]
	if w == nil {
		w = &Writer{Node: n.node, Initiator: n.initiator}
		l.nodes[id] = w
	}
	return w
}

// wrote judges a write that was answered.
func (l *lun) wrote(p *command, status byte) {
	now, node := l.j.now, p.nexus.node
	w, f := l.writer(p.nexus), l.fences[node]
	if status != statusGood {
		if status == statusConflict {
			w.Conflicts++
			if f != nil {
				w.Refused++
			}
		} else {
			w.Failed++
		}
		return
	}
	p.conn.writes++
	w.Writes++
	w.Bytes += uint64(p.bytes)
	w.Last = now
	received := p.received()
	switch {
	case f != nil && received.After(f.Time):
		l.violate(p, f)
	case f != nil:
		w.Straddled++
		w.StraddledMs = max(w.StraddledMs, ms(now.Sub(f.Time)))
	case l.Owner != "" && l.Owner != node:
		if received.After(l.Since) {
			l.overlap(p, l.Owner, l.Since)
		}
	case l.Owner == "" && l.last != "" && l.last != node:
		l.overlap(p, l.last, time.Time{})
	}
	l.last = node
}

func (l *lun) violate(p *command, f *Fence) {
	if i, again := l.bad[f]; again {
		if i >= 0 {
			l.j.violations[i].Writes++
		}
		return
	}
	v := Violation{Time: l.j.now, Target: l.Target, LUN: l.LUN, Node: p.nexus.node, Initiator: p.nexus.initiator, LAN: p.conn.lan, Client: p.conn.client,
		Command: p.cdb[0], Fault: Late, Sent: p.seen, Received: p.received(), LateMs: ms(p.received().Sub(f.Time)), Fence: *f, Writes: 1}
	if !p.seen.After(f.Time) {
		v.Fault = Held
	}
	blind := l.blind
	if l.j.blind.After(blind) {
		blind = l.j.blind
	}
	if !f.Time.After(blind) {
		v.Doubt = "the judge missed frames after the fence"
	} else if q := l.asked[p.nexus.node]; q != nil && !q.answered && q.seen.After(f.Time) {
		v.Doubt = fmt.Sprintf("its %s after the fence was not seen answered", q.action())
	}
	if v.Doubt == "" {
		l.Violations++
	} else {
		l.Doubtful++
	}
	l.bad[f] = -1
	if len(l.violations) < keep {
		l.bad[f] = len(l.j.violations)
		l.violations = append(l.violations, len(l.j.violations))
		l.j.violations = append(l.j.violations, v)
	}
	l.j.record(Record{Violation: &v})
}

func (l *lun) overlap(p *command, over string, since time.Time) {
	id := overlapping{p.nexus.node, over, since}
	if i, again := l.over[id]; again {
		if i >= 0 {
			l.j.overlaps[i].Writes++
		}
		return
	}
	o := Overlap{Time: l.j.now, Target: l.Target, LUN: l.LUN, Node: id.node, Over: over, Reserved: !since.IsZero(), Writes: 1}
	l.Overlaps++
	if len(l.overlaps) >= keep {
		l.j.record(Record{Overlap: &o})
		return // counted each time from here
	}
	l.over[id] = len(l.j.overlaps)
	l.overlaps = append(l.overlaps, len(l.j.overlaps))
	l.j.overlaps = append(l.j.overlaps, o)
	l.j.record(Record{Overlap: &o})
}

// reserved keeps the tables after a PERSISTENT RESERVE OUT (SPC-4, 5.13).
func (l *lun) reserved(p *command, status byte) {
	l.Reserves++
	if status != statusGood {
		return
	}
	do, n := p.action(), p.nexus
	if p.have < reserveBytes {
		l.blind = l.j.now // its keys were not seen
		if do != ReserveDisk && do != Release && do != Clear {
			return
		}
	}
	key, other := binary.BigEndian.Uint64(p.param[:]), binary.BigEndian.Uint64(p.param[8:])
	if key != 0 && do != Register && do != RegisterIgnore {
		l.register(n, key) // it would have been a conflict otherwise
	}
	switch do {
	case Register, RegisterIgnore:
		if p.param[20]&8 != 0 { // SPEC_I_PT: for other ports, too
			l.blind = l.j.now
		}
		if other != 0 {
			l.register(n, other)
			return
		}
		delete(l.keys, n)
		if l.holder != nil && (*l.holder == n && !allRegistrants(l.kind) || len(l.keys) == 0) {
			l.release(do)
		}
	case ReserveDisk, ReplaceLost:
		l.own(n, p.cdb[2]&15, do, 0)
	case Release:
		if l.holder != nil && (*l.holder == n || allRegistrants(l.kind)) {
			l.release(do)
		}
	case Clear:
		clear(l.keys)
		l.release(do)
	case Preempt, PreemptAbort:
		l.preempt(n, other, p.cdb[2]&15, do)
	case RegisterMove:
		l.blind = l.j.now // to whom is in a transport ID
	}
}

// register notes a key, if there is room.
func (l *lun) register(n nexus, key uint64) {
	if _, has := l.keys[n]; !has && len(l.keys) >= keep {
		l.blind = l.j.now
		return
	}
	l.keys[n] = key
}

func (l *lun) preempt(by nexus, victim uint64, kind byte, do Reserve) {
	now := l.j.now
	all := victim == 0 && allRegistrants(l.kind)
	// Whose reservation it was is not known if it was taken before the judge looked.
	takes := l.holder == nil || all || l.keys[*l.holder] == victim
	lost := map[string]bool{}
	for n, key := range l.keys {
		if n != by && (key == victim || all) {
			delete(l.keys, n)
			if n.node != by.node {
				lost[n.node] = true
			}
		}
	}
	if len(lost) == 0 {
		l.Strange++
	}
	for n := range l.keys {
		delete(lost, n.node) // it still has another one
	}
	for node := range lost {
		if l.fences[node] == nil {
			l.fences[node] = &Fence{Time: now, Node: node, By: by.node, Command: do.String(), Key: keyText(victim)}
		}
	}
	if takes {
		l.own(by, kind, do, victim)
	}
}

// own gives the disk to a node.
func (l *lun) own(n nexus, kind byte, do Reserve, key uint64) {
	l.holder, l.kind = &n, kind
	delete(l.bad, l.fences[n.node])
	delete(l.fences, n.node)
	if l.Owner != n.node {
		l.move(n.node, do, key)
	}
}

func (l *lun) release(do Reserve) {
	l.holder, l.kind = nil, 0
	if l.Owner != "" {
		l.move("", do, 0)
	}
}

func (l *lun) move(to string, do Reserve, key uint64) {
	m := Move{Time: l.j.now, Target: l.Target, LUN: l.LUN, From: l.Owner, To: to, Command: do.String(), Key: keyText(key)}
	l.Owner, l.Since = to, l.j.now
	l.MoveCount++
	if len(l.Moves) < keep {
		l.Moves = append(l.Moves, m)
	}
	l.j.record(Record{Move: &m})
}

// report is the disk as it is now.
func (l *lun) report() Disk {
	d := l.Disk
	d.Moves = append([]Move{}, d.Moves...)
	d.Keys, d.Writers, d.Fenced = []Key{}, []Writer{}, []Fence{}
	for n, k := range l.keys {
		d.Keys = append(d.Keys, Key{Node: n.node, Initiator: n.initiator, ISID: n.isid, Group: n.group, Key: keyText(k),
			Holder: l.holder != nil && (*l.holder == n || allRegistrants(l.kind))})
	}
	for _, w := range l.nodes {
		d.Writers = append(d.Writers, *w)
	}
	for _, f := range l.fences {
		d.Fenced = append(d.Fenced, *f)
	}
	slices.SortFunc(d.Keys, func(a, b Key) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Initiator, b.Initiator), strings.Compare(a.ISID, b.ISID), a.Group-b.Group)
	})
	slices.SortFunc(d.Writers, func(a, b Writer) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Initiator, b.Initiator))
	})
	slices.SortFunc(d.Fenced, func(a, b Fence) int { return strings.Compare(a.Node, b.Node) })
	return d
}

func keyText(k uint64) string {
	if k == 0 {
		return ""
	}
	return fmt.Sprintf("0x%016x", k)
}

func ms(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
