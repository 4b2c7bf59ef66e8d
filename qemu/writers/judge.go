package writers

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Limits of the judgement.
type Limits struct {
	// Acknowledge is the longest that the target's TCP takes to acknowledge what it has received. Shorter would
	// accuse the innocent; longer misses writes that were held up for less.
	Acknowledge time.Duration
}

// DefaultLimits: 1 s. Linux delays an acknowledgement by 200 ms at most (TCP_DELACK_MAX).
func DefaultLimits() Limits { return Limits{Acknowledge: time.Second} }

// What is kept, at most. What is counted is counted on.
const (
	keep           = 5000 // entries of each list
	maxConnections = 1024
	maxLUNs        = 1024
	maxNames       = 4096
	maxNameBytes   = 223 // of an iSCSI name (RFC 7143, 4.2.7.2)
)

// Judge is the judge: pure, without clock or lock. Frames come in the order of their times.
type Judge struct {
	limits Limits
	now    time.Time // of the frame
	found  []Record  // by the frame

	conns   map[connID]*conn
	luns    map[lunID]*lun
	targets map[netip.Addr]string // of portals that were logged in to
	names   map[string]string
	ports   map[string]string // the first initiator on each port of the switches

	violations []Violation
	overlaps   []Overlap
	gaps       []Gap
	openGaps   map[*Gap]struct{}
	gapCount   int
	blind      time.Time // when it last did not judge something

	commands, unjudged, dropped, connected uint64
}

type connID struct {
	lan            int
	client, server netip.AddrPort
}

type lunID struct {
	target string
	number uint64
}

// NewJudge makes a judge who has seen nothing.
func NewJudge(l Limits) *Judge {
	return &Judge{limits: l, conns: map[connID]*conn{}, luns: map[lunID]*lun{}, targets: map[netip.Addr]string{}, names: map[string]string{}, ports: map[string]string{},
		openGaps: map[*Gap]struct{}{}}
}

// Frame judges a frame that the switch of a LAN took from a port at a time, and returns what was found by it. An
// empty name of the port: nodes are told apart by the names with which their initiators log in.
func (j *Judge) Frame(at time.Time, lan int, port string, frame []byte) []Record {
	s, ok := Parse(frame)
	if !ok {
		return nil
	}
	return j.Segment(at, lan, port, &s)
}

// Segment judges the segment of such a frame.
func (j *Judge) Segment(at time.Time, lan int, port string, s *Segment) []Record {
	j.now, j.found = at, nil
	id := connID{lan, s.Client, s.Server}
	c := j.conns[id]
	syn := s.Flags&flagSYN != 0
	// A SYN of other numbers begins another connection between the same ports.
	if c != nil && syn && s.Flags&flagRST == 0 {
		isn := s.Seq
		if s.FromServer {
			isn = s.Ack - 1
		}
		if !c.fresh || c.isn != isn {
			j.forget(id, c)
			c = nil
		}
	}
	if c == nil {
		if !syn && len(s.Payload) == 0 {
			return nil // the end of something old
		}
		c = j.connect(id, s)
	}
	if !s.FromServer && c.port == "" {
		c.port = port
	}
	c.segment(s)
	return j.found
}

func (j *Judge) connect(id connID, s *Segment) *conn {
	if len(j.conns) >= maxConnections {
		var oldest *conn
		var which connID
		for id, c := range j.conns {
			if oldest == nil || c.last.Before(oldest.last) {
				oldest, which = c, id
			}
		}
		if !oldest.closed {
			j.dropped++
			j.blind = j.now
		}
		j.forget(which, oldest)
	}
	c := &conn{j: j, lan: id.lan, client: id.client, server: id.server, since: j.now, fresh: s.Flags&flagSYN != 0, isn: s.Seq}
	if s.FromServer {
		c.isn = s.Ack - 1
	}
	c.open()
	j.conns[id] = c
	j.connected++
	return c
}

func (j *Judge) forget(id connID, c *conn) {
	c.end()
	delete(j.conns, id)
}

// lun finds a disk. Connections that were there before the judge have not told their target: it is the one that
// another connection to the same portal has named.
func (j *Judge) lun(c *conn, number uint64) *lun {
	target := c.target
	if target == "" {
		target = j.targets[c.server.Addr()]
	}
	id := lunID{target, number}
	l := j.luns[id]
	if l == nil {
		if len(j.luns) >= maxLUNs {
			j.dropped++
			j.blind = j.now
			return nil
		}
		l = newLUN(j, target, number)
		j.luns[id] = l
	}
	return l
}

// name keeps one copy of a name, and no more names than there is room for.
func (j *Judge) name(s string) string {
	if n, ok := j.names[s]; ok {
		return n
	}
	if len(s) > maxNameBytes || len(j.names) >= maxNames {
		j.dropped++
		return "?"
	}
	s = strings.Clone(s)
	j.names[s] = s
	return s
}

func (j *Judge) record(r Record) { j.found = append(j.found, r) }

func (j *Judge) addGap(g Gap) {
	if len(j.gaps) < keep {
		j.gaps = append(j.gaps, g)
	}
	j.record(Record{Gap: &g})
}

// Report tells what was seen so far. The LUNs in shared may have several writers.
func (j *Judge) Report(shared []uint64) Report {
	r := Report{Commands: j.commands, Disks: []Disk{}, Violations: []Violation{}, Overlaps: []Overlap{}, Gaps: append([]Gap{}, j.gaps...),
		GapCount: j.gapCount, Unjudged: j.unjudged, Dropped: j.dropped, Connections: []Connection{}, Connected: j.connected}
	for _, l := range j.luns {
		d := l.report()
		d.Shared = slices.Contains(shared, d.LUN)
		r.Disks = append(r.Disks, d)
		if d.Shared {
			continue
		}
		r.Judged += d.Commands
		for _, w := range d.Writers {
			r.Writes += w.Writes + w.Conflicts + w.Failed
		}
		r.TwoWriters += d.Violations
		r.Doubtful += d.Doubtful
		r.Overlapping += d.Overlaps
	}
	slices.SortFunc(r.Disks, func(a, b Disk) int {
		return cmp.Or(strings.Compare(a.Target, b.Target), cmp.Compare(a.LUN, b.LUN))
	})
	for _, v := range j.violations {
		if !slices.Contains(shared, v.LUN) {
			r.Violations = append(r.Violations, v)
		}
	}
	for _, o := range j.overlaps {
		if !slices.Contains(shared, o.LUN) {
			r.Overlaps = append(r.Overlaps, o)
		}
	}
	for g := range j.openGaps {
		r.Gaps = append(r.Gaps, *g)
	}
	slices.SortStableFunc(r.Gaps, func(a, b Gap) int { return a.Time.Compare(b.Time) })
	for _, c := range j.conns {
		r.Connections = append(r.Connections, c.report())
	}
	slices.SortFunc(r.Connections, func(a, b Connection) int {
		return cmp.Or(a.Since.Compare(b.Since), a.Client.Compare(b.Client), a.LAN-b.LAN)
	})
	r.Verdict = r.verdict()
	return r
}

func (r *Report) verdict() Verdict {
	switch {
	case r.TwoWriters > 0:
		return TwoWriters
	case r.Doubtful > 0 || r.Overlapping > 0:
		return Suspect
	case r.Writes == 0:
		return Nothing
	case r.GapCount > 0 || r.Unjudged > 0 || r.Dropped > 0:
		return Partly
	}
	return Clean
}

func (c *conn) report() Connection {
	return Connection{LAN: c.lan, Client: c.client, Server: c.server, Node: c.node(), Initiator: c.nexus.initiator, ISID: c.nexus.isid, Target: c.target, Group: c.nexus.group,
		HeaderDigest: c.digest[0], DataDigest: c.digest[1], Since: c.since, Last: c.last, Closed: c.closed, Commands: c.commands, Writes: c.writes,
		Unanswered: c.unanswered}
}
