package job

import (
	"maps"
	"slices"
	"time"
)

// End is how a task ended, beside its exit code.
type End uint8

const (
	Exited     End = iota // by itself: Code is the exit code
	Signalled             // Code is the signal
	TimedOut              // it ran longer than Spec.Timeout and was killed
	NotStarted            // the command could not be run: not found, not executable
	Vanished              // its container ended under it
	NodeLost              // its nodes were lost under it, again and again
)

func (e End) String() string {
	return [...]string{"exit", "signal", "timeout", "not started", "container ended", "nodes lost"}[min(e, NodeLost)]
}

// Result is what a node has to say of one task.
type Result struct {
	Pos  int32         `json:"p"`
	Code int           `json:"c,omitempty"`
	End  End           `json:"e,omitempty"`
	Took time.Duration `json:"t,omitempty"` // ns
	// Undone: it did not run to its end, and what has run of it is dead. It is given out again.
	Undone bool `json:"u,omitempty"`
}

// OK tells that the task did what it should.
func (r Result) OK() bool { return r.End == Exited && r.Code == 0 && !r.Undone }

// Outcome is the recorded end of consecutive tasks, From to To exclusive, which all ended alike.
type Outcome struct {
	From, To int32
	Node     string // where it ran, which has its output
	Code     int
	End      End
	Tries    int // how often it was run; 0 counts as 1
}

// OK tells that the tasks did what they should.
func (o Outcome) OK() bool { return o.End == Exited && o.Code == 0 }

func (o Outcome) joins(n Outcome) bool {
	return o.To == n.From && o.Node == n.Node && o.Code == n.Code && o.End == n.End && o.Tries == n.Tries
}

// appendOutcome adds an outcome to a list, to the last one if they join.
func appendOutcome(list []Outcome, o Outcome) []Outcome {
	if n := len(list); n > 0 && list[n-1].joins(o) {
		list[n-1].To = o.To
		return list
	}
	return append(list, o)
}

// Lease is the right to run some tasks, and to record how they end.
type Lease struct {
	ID    uint64 `json:"id"`
	From  int32  `json:"from"`
	To    int32  `json:"to"`              // exclusive
	Width int    `json:"width,omitempty"` // how many of them may run at once; 0: as many as the node likes
}

// Busy is how many slots a lease takes of which so many tasks have not ended.
func (l *Lease) Busy(left int) int {
	if l.Width > 0 {
		return min(l.Width, left)
	}
	return left
}

type lease struct {
	Lease
	holder string
	open   bits // those without a result of this holder, from From
	left   int
	slots  int // that it takes
	since  time.Duration
	copied bool // a second one was given out for it, or it is that one
}

func (l *lease) has(pos int32) bool {
	return pos >= l.From && pos < l.To && l.open.has(pos-l.From)
}

// close takes a position out.
func (l *lease) close(pos int32) { l.open.drop(pos - l.From); l.left-- }

// tally is what went wrong with a position so far.
type tally struct{ failed, lost uint8 }

const (
	// suspectAfter is how often a task's node may be lost before the task is suspected of it. From then on it is given
	// out alone, so that it takes no others along.
	suspectAfter = 2
	// mostLost is how often before it is recorded as failed: it must not fell one node after the other.
	mostLost = 4
	// laps is into how many rounds of all slots the rest is divided. Less gives larger leases and a more uneven
	// end, more costs more requests.
	laps = 4
	// leaseTime is how long a lease should take at the measured mean: long enough that a node asks only now and then,
	// short enough that what it holds is soon done by others if it is slow.
	leaseTime = time.Second
	// stragglerAfter is how many times longer than expected a lease may take before a second one is given out.
	stragglerAfter = 3
	// stragglerLeast is how long it has to have taken at least: a second run costs, too.
	stragglerLeast = 2 * time.Second
)

// Divider divides the tasks of one job. It is not safe for concurrent use.
type Divider struct {
	spec    *Spec
	n       int
	pending ranges  // nobody has them
	retry   ranges  // failed, to be tried again when nothing else is left
	alone   []int32 // suspected of felling nodes
	done    bits    // recorded
	left    int     // not recorded
	leases  map[uint64]*lease
	holders map[string]map[uint64]bool // the leases of each
	width   int                        // of all leases
	tallies map[int32]tally
	shared  map[int32]uint8 // positions that are in more than one lease: in how many
	nextID  func() uint64
	mean    time.Duration // of a task that ran, smoothed
	ok, bad int
	dropped int // results that came too late
}

// NewDivider begins with what is recorded already. nextID gives numbers for leases, never the same twice, in no term.
func NewDivider(spec *Spec, recorded []Outcome, nextID func() uint64) *Divider {
	n := spec.Indices.Len()
	d := &Divider{spec: spec, n: n, done: newBits(n), left: n, leases: map[uint64]*lease{}, holders: map[string]map[uint64]bool{}, tallies: map[int32]tally{}, shared: map[int32]uint8{}, nextID: nextID}
	for _, o := range recorded {
		for p := max(o.From, 0); p < min(o.To, int32(n)); p++ {
			d.count(p, o.OK())
		}
	}
	from := int32(-1)
	for p := int32(0); p <= int32(n); p++ {
		free := p < int32(n) && !d.done.has(p)
		if free && from < 0 {
			from = p
		} else if !free && from >= 0 {
			d.pending.add(from, p)
			from = -1
		}
	}
	return d
}

func (d *Divider) count(p int32, ok bool) {
	if d.done.has(p) {
		return
	}
	d.done.set(p)
	d.left--
	if ok {
		d.ok++
	} else {
		d.bad++
	}
}

// Counts are how many tasks ended well, failed for good, are held by nodes, and wait.
func (d *Divider) Counts() (ok, bad, held, waiting int) {
	waiting = d.pending.count() + d.retry.count() + len(d.alone)
	return d.ok, d.bad, d.left - waiting, waiting
}

// Mean is how long a task takes, smoothed; 0 if none has ended yet.
func (d *Divider) Mean() time.Duration { return d.mean }

// Finished tells that every task has an outcome.
func (d *Divider) Finished() bool { return d.left == 0 }

// wants tells whether a node that asks would get something now.
func (d *Divider) wants() bool {
	return len(d.pending)+len(d.retry)+len(d.alone) > 0 && (d.spec.Limit == 0 || d.width < d.spec.Limit)
}

// chunk is how many tasks go to a node that has so many slots free, of so many in the cluster.
func (d *Divider) chunk(free, slots, waiting int) int {
	share := waiting * free / (laps * max(slots, free))
	most := 2 * free // before anything is known: the first answers should come soon
	if d.mean > 0 {
		most = int(leaseTime * time.Duration(free) / d.mean)
	}
	return min(max(min(share, most), free), maxLease)
}

// maxLease bounds a lease, and so the answer that it is part of.
const maxLease = 4096

// Grant gives a holder tasks for its free slots, if there are any. slots is how many there are in the cluster.
func (d *Divider) Grant(holder string, free, slots int, now time.Duration) (Lease, bool) {
	if free < 1 || !d.wants() {
		return Lease{}, false
	}
	if d.spec.Limit > 0 {
		free = min(free, d.spec.Limit-d.width)
	}
	from := &d.pending
	if len(d.pending) == 0 {
		from = &d.retry
	}
	if len(*from) == 0 {
		p := d.alone[0]
		d.alone = d.alone[1:]
		return d.lease(holder, span32{p, p + 1}, 1, now), true
	}
	waiting := from.count()
	s, _ := from.take(d.chunk(free, slots, waiting))
	return d.lease(holder, s, min(free, int(s.to-s.from)), now), true
}

func (d *Divider) lease(holder string, s span32, width int, now time.Duration) Lease {
	l := &lease{Lease: Lease{ID: d.nextID(), From: s.from, To: s.to}, slots: width, holder: holder, open: newBits(int(s.to - s.from)), since: now}
	for p := s.from; p < s.to; p++ {
		if !d.done.has(p) {
			l.open.set(p - s.from)
			l.left++
		}
	}
	if d.spec.Limit > 0 {
		l.Width = width
	}
	d.put(l)
	return l.Lease
}

// Copy gives a holder a second lease of what another has held for far too long, if the job says that this does no
// harm and nothing else is left to do.
func (d *Divider) Copy(holder string, free int, now time.Duration) (Lease, bool) {
	if !d.spec.Idempotent || free < 1 || d.mean == 0 || len(d.pending)+len(d.retry)+len(d.alone) > 0 {
		return Lease{}, false
	}
	if d.spec.Limit > 0 && d.width >= d.spec.Limit {
		return Lease{}, false
	}
	var slowest *lease
	for _, l := range d.leases {
		expected := d.mean * time.Duration((int(l.To-l.From)+l.slots-1)/l.slots)
		if l.copied || l.holder == holder || l.left == 0 || now-l.since < max(stragglerAfter*expected, stragglerLeast) {
			continue
		}
		if slowest == nil || l.since < slowest.since || l.since == slowest.since && l.ID < slowest.ID {
			slowest = l
		}
	}
	if slowest == nil {
		return Lease{}, false
	}
	// The first piece of what is open.
	from := slowest.From
	for !slowest.has(from) {
		from++
	}
	to := from
	for to < slowest.To && slowest.has(to) && int(to-from) < free {
		to++
	}
	slowest.copied = true
	c := d.lease(holder, span32{from, to}, int(to-from), now)
	d.leases[c.ID].copied = true
	for p := from; p < to; p++ {
		d.shared[p] = max(d.shared[p], 1) + 1
	}
	return c, true
}

// Adopt notes a lease that an earlier coordinator gave out, as its holder tells. What is recorded, or held by
// somebody else, is not part of it; the holder has to let go of a lease of which nothing is left.
func (d *Divider) Adopt(holder string, l Lease, now time.Duration) (left bool) {
	if l.From < 0 || l.To > int32(d.n) || l.From >= l.To || d.leases[l.ID] != nil {
		return false
	}
	a := &lease{Lease: l, holder: holder, open: newBits(int(l.To - l.From)), since: now}
	a.slots = max(l.Width, 1)
	for p := l.From; p < l.To; p++ {
		if !d.done.has(p) && d.isPending(p) {
			a.open.set(p - l.From)
			a.left++
		}
	}
	if a.left == 0 {
		return false
	}
	for p := l.From; p < l.To; p++ {
		if a.has(p) {
			d.pending.remove(p, p+1)
		}
	}
	d.put(a)
	return true
}

func (d *Divider) isPending(p int32) bool {
	i, found := slices.BinarySearchFunc(d.pending, p, func(s span32, p int32) int { return int(s.from) - int(p) })
	return found || i > 0 && p < d.pending[i-1].to
}

// Report takes results of a lease from its holder. It returns what is now recorded: the first that is said of a
// position counts, and what comes from somebody who was given up counts nothing.
func (d *Divider) Report(holder, node string, id uint64, results []Result) []Outcome {
	l := d.leases[id]
	if l == nil || l.holder != holder {
		d.dropped += len(results)
		return nil
	}
	var out []Outcome
	for _, r := range results {
		if !l.has(r.Pos) {
			d.dropped++
			continue
		}
		l.close(r.Pos)
		others := d.unshare(r.Pos)
		if d.done.has(r.Pos) {
			d.dropped++ // the other one was faster
			continue
		}
		t := d.tallies[r.Pos]
		switch {
		case r.Undone:
			if !others {
				d.giveBack(r.Pos)
			}
			continue
		case !r.OK() && others:
			continue // whoever else has it may do better
		case !r.OK() && int(t.failed) < d.spec.Retries:
			t.failed++
			d.tallies[r.Pos] = t
			d.retry.add(r.Pos, r.Pos+1)
			continue
		}
		d.learn(r.Took)
		out = d.record(out, Outcome{From: r.Pos, To: r.Pos + 1, Node: node, Code: r.Code, End: r.End, Tries: int(t.failed) + int(t.lost)})
	}
	if l.left == 0 {
		d.end(l)
	}
	return out
}

func (d *Divider) record(out []Outcome, o Outcome) []Outcome {
	if o.Tries > 0 {
		o.Tries++
	}
	d.count(o.From, o.OK())
	delete(d.tallies, o.From)
	return appendOutcome(out, o)
}

func (d *Divider) learn(took time.Duration) {
	took = max(took, time.Microsecond)
	if d.mean == 0 {
		d.mean = took
		return
	}
	d.mean += (took - d.mean) / 16
}

// unshare tells whether somebody else holds a position too, after one who did has said what came of it.
func (d *Divider) unshare(p int32) bool {
	n, ok := d.shared[p]
	if !ok {
		return false
	}
	if n--; n <= 1 {
		delete(d.shared, p)
	} else {
		d.shared[p] = n
	}
	return n >= 1
}

func (d *Divider) giveBack(p int32) {
	if d.tallies[p].lost >= suspectAfter {
		d.alone = append(d.alone, p)
		return
	}
	d.pending.add(p, p+1)
}

func (d *Divider) put(l *lease) {
	if d.holders[l.holder] == nil {
		d.holders[l.holder] = map[uint64]bool{}
	}
	d.leases[l.ID], d.holders[l.holder][l.ID] = l, true
	d.width += l.slots
}

func (d *Divider) end(l *lease) {
	delete(d.leases, l.ID)
	delete(d.holders[l.holder], l.ID)
	if len(d.holders[l.holder]) == 0 {
		delete(d.holders, l.holder)
	}
	d.width -= l.slots
}

// Dead takes back what a holder had that can do nothing any more. It returns what is recorded by that: tasks that have
// felled too many nodes.
func (d *Divider) Dead(holder string) []Outcome {
	var out []Outcome
	for _, id := range d.held(holder) {
		out = append(out, d.takeBack(d.leases[id], true)...)
	}
	return out
}

// Unknown takes back a lease whose holder never got it: the answer was lost.
func (d *Divider) Unknown(id uint64) {
	if l := d.leases[id]; l != nil {
		d.takeBack(l, false)
	}
}

func (d *Divider) takeBack(l *lease, lost bool) []Outcome {
	var out []Outcome
	for p := l.From; p < l.To; p++ {
		if !l.has(p) {
			continue
		}
		l.close(p)
		if d.unshare(p) || d.done.has(p) {
			continue
		}
		if lost {
			t := d.tallies[p]
			t.lost++
			d.tallies[p] = t
			if t.lost >= mostLost {
				out = d.record(out, Outcome{From: p, To: p + 1, End: NodeLost, Tries: int(t.lost) + int(t.failed) - 1})
				continue
			}
		}
		d.giveBack(p)
	}
	d.end(l)
	return out
}

func (d *Divider) held(holder string) []uint64 {
	return slices.Sorted(maps.Keys(d.holders[holder]))
}

// Idle tells that a lease is of no use any more: all in it is recorded. Its holder may kill what runs of it.
func (d *Divider) Idle(id uint64) bool {
	l := d.leases[id]
	if l == nil {
		return true
	}
	if !l.copied {
		return false
	}
	for p := l.From; p < l.To; p++ {
		if l.has(p) && !d.done.has(p) {
			return false
		}
	}
	return true
}

// Dropped is how many results came too late to count.
func (d *Divider) Dropped() int { return d.dropped }
