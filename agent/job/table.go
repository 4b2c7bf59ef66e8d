package job

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Proof is what is known of a node that is lost, from the ledger and a clock.
type Proof int

const (
	// Alive: nothing. What it holds stays its own.
	Alive Proof = iota
	// Lost: the cluster has given it up. It may still run what it has.
	Lost
	// Tethered: it could not hear the coordinator for longer than Tether, and so has killed its tasks by itself.
	Tethered
	// Off: this life of it has ended: power off, read back, or another boot, or an operator's word.
	Off
)

// Tether is how long a node goes on with its tasks without an answer of a coordinator, on its monotonic clock from when
// it last asked successfully. A coordinator waits a little longer before it takes the node's tasks for dead.
const Tether = 15 * time.Second

func (p Proof) String() string {
	return [...]string{"none", "it is lost", "it has killed its tasks by itself", "it is off or in another boot"}[p]
}

// needs is the proof without which a job's tasks are not given out again.
func (s *Spec) needs() Proof {
	switch {
	case s.Idempotent:
		return Lost
	case s.Safety == cluster.SafetyPower:
		return Off
	default:
		return Tethered
	}
}

// Table is what the coordinator knows of all jobs during its term. It is not safe for concurrent use.
type Table struct {
	term   int64
	leases uint64
	jobs   map[string]*entry
	order  []string
	nodes  map[string]*member // by name: the life that was heard last
	// awaited are nodes that may hold something of an earlier term, and what is known of them.
	awaited map[string]Proof
}

type entry struct {
	job      Job
	inputs   []string
	div      *Divider // nil while it waits for other jobs, and when it has ended
	recorded []Outcome
	fresh    []Outcome // not in the ledger yet; the first flying of them are being written
	flying   int
	changed  bool // its record is not in the ledger as it is
	seq      uint64
	records  []string // keys of its outcomes
	mergeAt  int
	began    time.Duration
	mean     time.Duration // of a task, when it ended
	wrote    time.Duration // when outcomes were last written
	slots    int           // of the cluster, for its tasks, as of slotsAt
	slotsAt  time.Duration
}

type member struct {
	holder  string
	cpus    float64
	heard   time.Duration
	proof   Proof
	trouble map[string]string
	taken   uint64 // reports up to this one are in the divider
	settled uint64
}

// NewTable begins a term. awaited are the nodes that may hold leases of an earlier one.
func NewTable(term int64, awaited []string) *Table {
	t := &Table{term: term, jobs: map[string]*entry{}, nodes: map[string]*member{}, awaited: map[string]Proof{}}
	for _, n := range awaited {
		t.awaited[n] = Alive
	}
	return t
}

// Term is what the coordinator's answers carry.
func (t *Table) Term() int64 { return t.term }

// lease numbers begin with the term, so that no two coordinators give the same.
func (t *Table) nextLease() uint64 {
	t.leases++
	return uint64(t.term)<<24 | t.leases&(1<<24-1)
}

// Add brings a job in that is in the ledger, with what is recorded of it and the keys of those records.
func (t *Table) Add(j Job, inputs []string, recorded []Outcome, records []string, now time.Duration) {
	e := &entry{job: j, inputs: inputs, recorded: recorded, records: records, mergeAt: mergeAfter, began: now}
	for _, k := range records {
		var seq uint64
		if _, err := fmt.Sscanf(k[strings.LastIndexByte(k, '/')+1:], "%d", &seq); err == nil {
			e.seq = max(e.seq, seq)
		}
	}
	t.jobs[j.ID] = e
	t.order = append(t.order, j.ID)
	if !j.State.Ended() {
		t.begin(e, now)
	}
}

// begin lets a job begin if nothing is in its way.
func (t *Table) begin(e *entry, now time.Duration) {
	state, reason := Running, ""
	for _, id := range e.job.Spec.After {
		o := t.jobs[id]
		switch {
		case o == nil:
			state, reason = Cancelled, fmt.Sprintf("it was to come after job %s, of which nothing is known any more", id)
		case o.job.State == Failed || o.job.State == Cancelled:
			state, reason = Cancelled, fmt.Sprintf("it was to come after job %s, which %s", id, map[State]string{Failed: "failed", Cancelled: "was cancelled"}[o.job.State])
		case o.job.State != Done && state == Running:
			state, reason = Waiting, "it comes after job "+id
		}
		if state == Cancelled {
			break
		}
	}
	if e.job.State != state || e.job.Reason != reason {
		e.job.State, e.job.Reason, e.changed = state, reason, true
	}
	if state == Running && e.div == nil {
		e.div, e.began = NewDivider(&e.job.Spec, e.recorded, t.nextLease), now
	}
}

// Job finds a job; recorded are its outcomes in the order in which they came.
func (t *Table) Job(id string) (j Job, recorded []Outcome, ok bool) {
	e := t.jobs[id]
	if e == nil {
		return Job{}, nil, false
	}
	return t.view(e), e.recorded, true
}

// Inputs are a job's inputs, nil if it has none.
func (t *Table) Inputs(id string) []string {
	if e := t.jobs[id]; e != nil {
		return e.inputs
	}
	return nil
}

func (t *Table) view(e *entry) Job {
	j := e.job
	if j.State.Ended() && (e.changed || len(e.fresh) > 0) {
		j.State = Running // until it is in the ledger: what is said must not be taken back
	}
	if e.div != nil {
		j.OK, j.Bad, _, _ = e.div.Counts()
	}
	return j
}

// Progress is how far a job is.
type Progress struct {
	Job
	Held    int           `json:"held"`    // given to nodes, not ended
	Left    int           `json:"waiting"` // given to nobody yet
	Mean    time.Duration `json:"mean"`    // of a task, ns
	Slots   int           `json:"slots"`   // of the cluster, for its tasks
	Blocked string        `json:"blocked,omitempty"`
}

// Progress tells how far a job is.
func (t *Table) Progress(id string, now time.Duration) (Progress, bool) {
	e := t.jobs[id]
	if e == nil {
		return Progress{}, false
	}
	p := Progress{Job: t.view(e), Slots: t.slots(e, now), Mean: e.mean}
	switch {
	case e.div != nil:
		_, _, p.Held, p.Left = e.div.Counts()
		p.Mean = e.div.Mean()
		p.Blocked = t.blocked(e)
		for n, m := range t.nodes {
			if text := m.trouble[id]; text != "" && p.Held == 0 && m.proof == Alive {
				p.Blocked = "cannot be run on " + n + ": " + text
			}
		}
		if p.Blocked == "" && p.Slots == 0 && p.Held == 0 {
			p.Blocked = fmt.Sprintf("no node that may have work has %g CPUs for a task", cpus(&e.job.Spec))
		}
	case !p.State.Ended():
		p.Left = e.job.Spec.Indices.Len()
		p.Blocked = p.Reason
	}
	return p, true
}

// List is the progress of all jobs, in the order in which they came.
func (t *Table) List(now time.Duration) []Progress {
	out := make([]Progress, 0, len(t.order))
	for _, id := range t.order {
		p, _ := t.Progress(id, now)
		out = append(out, p)
	}
	return out
}

// blocked tells which nodes have to be heard, or proved dead, before a job's tasks are given out.
func (t *Table) blocked(e *entry) string {
	var names []string
	for n, proof := range t.awaited {
		if proof < e.job.Spec.needs() {
			names = append(names, n)
		}
	}
	for n, m := range t.nodes {
		if m.proof > Alive && m.proof < e.job.Spec.needs() && len(e.div.held(m.holder)) > 0 {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "waits for word of " + strings.Join(slices.Compact(names), ", ") + ", or proof that nothing runs there any more"
}

// Take takes what a node says. ok is false if the node has to say Hello first, or has been given up.
func (t *Table) Take(p *Pull, now time.Duration) (ok bool) {
	m := t.nodes[p.Node]
	if m != nil && m.holder == p.Holder() && m.proof > Alive && !p.Hello {
		m = nil // it was given up meanwhile, and what it held may be elsewhere
	}
	if !p.Hello && (m == nil || m.holder != p.Holder() || p.Term != t.term) {
		return false
	}
	if m == nil || m.holder != p.Holder() || p.Hello {
		t.hello(p, now)
		m = t.nodes[p.Node]
	}
	m.cpus, m.heard, m.trouble = p.CPUs, now, p.Trouble
	for _, r := range p.Reports {
		if r.Seq <= m.taken {
			continue
		}
		m.taken = r.Seq
		if e := t.jobs[r.Job]; e != nil && e.div != nil {
			t.record(e, e.div.Report(m.holder, p.Node, r.Lease, r.Results))
		}
	}
	// What it was given and does not name was in an answer that it never got.
	named := map[uint64]bool{}
	for _, l := range p.Leases {
		named[l.ID] = true
	}
	for _, e := range t.jobs {
		if e.div == nil {
			continue
		}
		for _, id := range e.div.held(m.holder) {
			if !named[id] {
				e.div.Unknown(id)
			}
		}
	}
	t.settle()
	return true
}

// hello begins the conversation with one life of a node: an earlier one of it is over.
func (t *Table) hello(p *Pull, now time.Duration) {
	if old := t.nodes[p.Node]; old != nil && old.holder != p.Holder() {
		t.dead(old.holder, Off)
	}
	m := &member{holder: p.Holder()}
	if old := t.nodes[p.Node]; old != nil && old.holder == m.holder {
		m.taken, m.settled = old.taken, old.settled
	}
	t.nodes[p.Node] = m
	delete(t.awaited, p.Node)
	for _, l := range p.Leases {
		if e := t.jobs[l.Job]; e != nil && e.div != nil {
			e.div.Adopt(m.holder, l.Lease, now)
		}
	}
}

func (t *Table) record(e *entry, list []Outcome) {
	for _, o := range list {
		if len(e.fresh) > e.flying {
			e.fresh = appendOutcome(e.fresh, o)
		} else {
			e.fresh = append(e.fresh, o) // what is being written must not grow
		}
		e.recorded = appendOutcome(e.recorded, o)
	}
}

// settle: as long as nothing waits to be written, all that was taken is settled.
func (t *Table) settle() {
	for _, e := range t.jobs {
		if len(e.fresh) > 0 {
			return
		}
	}
	for _, m := range t.nodes {
		m.settled = m.taken
	}
}

// Dead tells what is known of a node; more than before has what it held given out again, of jobs to which that is enough.
// It tells whether that was news.
func (t *Table) Dead(node string, proof Proof) (news bool) {
	if was, ok := t.awaited[node]; ok && proof > was {
		news = true
		t.awaited[node] = proof
		if proof == Off {
			delete(t.awaited, node)
		}
	}
	if m := t.nodes[node]; m != nil && proof > m.proof {
		m.proof, news = proof, true
		t.dead(m.holder, proof)
	}
	return news
}

func (t *Table) dead(holder string, proof Proof) {
	for _, e := range t.jobs {
		if e.div != nil && proof >= e.job.Spec.needs() {
			t.record(e, e.div.Dead(holder))
		}
	}
}

// Heard is when a node was last heard, and whether it was in this term.
func (t *Table) Heard(node string) (at time.Duration, ok bool) {
	if m := t.nodes[node]; m != nil {
		return m.heard, true
	}
	return 0, false
}

// Life is the life of a node that was heard last, in this term.
func (t *Table) Life(node string) (life string, ok bool) {
	if m := t.nodes[node]; m != nil {
		return strings.TrimPrefix(m.holder, node+"/"), true
	}
	return "", false
}

// Known are the nodes that hold or may hold something.
func (t *Table) Known() []string {
	all := slices.Collect(maps.Keys(t.awaited))
	for n := range t.nodes {
		all = append(all, n)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// countEvery is how often slots are counted anew.
const countEvery = 100 * time.Millisecond

// silentAfter is how long a node may say nothing before its slots are not counted on.
const silentAfter = time.Minute

func cpus(s *Spec) float64 {
	if s.CPUs == 0 {
		return 1
	}
	return s.CPUs
}

// slots is how many tasks of a job the cluster can run at once.
func (t *Table) slots(e *entry, now time.Duration) int {
	if e.slots > 0 && now-e.slotsAt < countEvery {
		return e.slots
	}
	e.slots, e.slotsAt = 0, now
	for _, m := range t.nodes {
		if m.proof == Alive && now-m.heard < silentAfter {
			e.slots += int(m.cpus / cpus(&e.job.Spec))
		}
	}
	return e.slots
}

// Answer is what a node is told whose Pull was taken. more tells that it has something to act on. mayWork is whether it
// may get tasks: a node that is being drained may not.
func (t *Table) Answer(p *Pull, mayWork bool, now time.Duration) (a Answer, more bool) {
	m := t.nodes[p.Node]
	if m == nil || m.holder != p.Holder() {
		return Answer{Term: t.term, Again: true}, true
	}
	a = Answer{Term: t.term, Settled: m.settled}
	for _, l := range p.Leases {
		e := t.jobs[l.Job]
		if e == nil || e.div == nil || e.div.Idle(l.ID) {
			if e != nil && e.div != nil {
				e.div.Unknown(l.ID)
			}
			a.Drop = append(a.Drop, l.ID)
		}
	}
	known := map[string]bool{}
	for _, id := range p.Jobs {
		known[id] = true
		if e := t.jobs[id]; e == nil || e.job.State.Ended() {
			a.Over = append(a.Over, id)
		}
	}
	if mayWork {
		a.Grants = t.grant(p, m, now)
	}
	for _, g := range a.Grants {
		if !known[g.Job] {
			known[g.Job] = true
			a.Jobs = append(a.Jobs, t.jobs[g.Job].job)
		}
	}
	return a, len(a.Grants)+len(a.Drop)+len(a.Over) > 0 || p.Unsettled > 0 && a.Settled >= p.Unsettled
}

// grant gives a node tasks, of the job that has the least first, so that jobs share the cluster.
func (t *Table) grant(p *Pull, m *member, now time.Duration) []Grant {
	var out []Grant
	free, room := p.Free, p.Room
	var open []*entry
	for _, id := range t.order {
		if e := t.jobs[id]; e.div != nil && p.Trouble[id] == "" && t.blocked(e) == "" {
			open = append(open, e)
		}
	}
	for len(open) > 0 && len(out) < mostGrants {
		slices.SortStableFunc(open, func(a, b *entry) int { return a.div.width - b.div.width })
		e := open[0]
		spec := &e.job.Spec
		n := int(free/cpus(spec) + 1e-9)
		if spec.Memory > 0 {
			n = min(n, int(room/spec.Memory))
		}
		if n > 1 && len(open) > 1 {
			n = (n + 1) / 2 // the others come next
		}
		l, ok := e.div.Grant(m.holder, n, t.slots(e, now), now)
		if !ok {
			l, ok = e.div.Copy(m.holder, n, now)
		}
		if !ok {
			open = open[1:]
			continue
		}
		took := min(n, int(l.To-l.From))
		free -= float64(took) * cpus(spec)
		room -= int64(took) * spec.Memory
		g := Grant{Job: e.job.ID, Lease: l}
		if spec.Mapped {
			g.Inputs = e.inputs[l.From:l.To]
		}
		out = append(out, g)
	}
	return out
}

// mostGrants bounds an answer.
const mostGrants = 64

// Cancel ends a job. Its tasks are killed where they run.
func (t *Table) Cancel(id, reason string) bool {
	e := t.jobs[id]
	if e == nil || e.job.State.Ended() {
		return false
	}
	if e.div != nil {
		e.job.OK, e.job.Bad, _, _ = e.div.Counts()
	}
	e.job.State, e.job.Reason, e.div, e.changed = Cancelled, reason, nil, true
	return true
}

// Forget removes jobs that have ended, those that came first, until no more than most are left. It returns the keys
// of what the ledger has of them, without inputs.
func (t *Table) Forget(most int) (ids, keys []string) {
	for _, id := range slices.Clone(t.order) {
		e := t.jobs[id]
		if len(t.order) <= most {
			break
		}
		if !e.job.State.Ended() || e.changed || len(e.fresh) > 0 || t.needed(id) {
			continue
		}
		delete(t.jobs, id)
		t.order = slices.DeleteFunc(t.order, func(o string) bool { return o == id })
		ids = append(ids, id)
		keys = append(append(keys, e.job.Key()), e.records...)
	}
	return ids, keys
}

func (t *Table) needed(id string) bool {
	for _, e := range t.jobs {
		if !e.job.State.Ended() && slices.Contains(e.job.Spec.After, id) {
			return true
		}
	}
	return false
}

// Batch is one write to the ledger.
type Batch struct {
	Puts    []cluster.Put
	Deletes []string
	covers  map[string]uint64 // reports of each holder that are settled when it is written
	parts   map[string]int    // how many fresh outcomes of each job it has
	states  map[string]State
	records map[string][]string
}

const (
	// flushEvery is how often outcomes are written, and flushShare of its age of a job that is older: fewer writes
	// for long jobs.
	flushEvery = 500 * time.Millisecond
	flushShare = 200
	flushMost  = 10 * time.Second
	// mergeAfter is how many records a job may have before they are written anew as one.
	mergeAfter = 64
	// mostRows bounds a record: the ledger takes 1.5 MiB at once.
	mostRows = 30_000
	// mostJobs bounds a write: the ledger takes 128 operations at once.
	mostJobs = 24
)

// Due is whether something is to be written now, and if not, when; 0: nothing is.
func (t *Table) Due(now time.Duration) (is bool, at time.Duration) {
	for _, e := range t.jobs {
		if !e.changed && len(e.fresh) == 0 {
			continue
		}
		due := e.wrote + min(max(flushEvery, (now-e.began)/flushShare), flushMost)
		if e.changed || e.wrote == 0 || e.div != nil && e.div.Finished() {
			due = 0
		}
		if due <= now {
			return true, 0
		}
		if at == 0 || due < at {
			at = due
		}
	}
	return false, at
}

// Batch is what is to be written next; ended jobs get their time of end from wall. Call Written or give up the table.
func (t *Table) Batch(now time.Duration, wall time.Time) (b Batch, ok bool) {
	b = Batch{covers: map[string]uint64{}, parts: map[string]int{}, states: map[string]State{}, records: map[string][]string{}}
	all, rows := true, 0
	for _, id := range t.order {
		e := t.jobs[id]
		if e.div != nil && e.div.Finished() {
			t.finish(e)
		}
		if !e.changed && len(e.fresh) == 0 {
			continue
		}
		if len(b.states) >= mostJobs || rows >= mostRows {
			all = false
			continue
		}
		n := min(len(e.fresh), mostRows-rows)
		rows += n
		all = all && n == len(e.fresh)
		ended := e.job.State.Ended()
		if n > 0 {
			e.seq++
			put := putOutcomes(id, e.seq, e.fresh[:n])
			keys := append(slices.Clip(e.records), put.Key)
			if len(keys) >= e.mergeAt && n == len(e.fresh) && len(b.Deletes) == 0 {
				if merged := Sorted(e.recorded); len(merged) <= mostRows {
					b.Deletes = e.records
					put = putOutcomes(id, e.seq, merged)
					keys = []string{put.Key}
				} else {
					e.mergeAt *= 2
				}
			}
			b.Puts, b.parts[id], b.records[id] = append(b.Puts, put), n, keys
			e.flying = n
		}
		b.states[id] = e.job.State
		if e.changed && n == len(e.fresh) {
			if ended && e.job.Ended.IsZero() {
				e.job.Ended = wall
			}
			b.Puts = append(b.Puts, cluster.Put{Key: e.job.Key(), Value: e.job})
		}
		e.wrote = now
	}
	if all {
		for n, m := range t.nodes {
			b.covers[n+" "+m.holder] = m.taken
		}
	}
	return b, len(b.Puts) > 0
}

// finish closes a job all of whose tasks have an outcome.
func (t *Table) finish(e *entry) {
	e.job.OK, e.job.Bad, _, _ = e.div.Counts()
	e.mean = e.div.Mean()
	e.job.State, e.job.Reason, e.div, e.changed = Done, "", nil, true
	if e.job.Bad > 0 {
		e.job.State = Failed
	}
}

// Written tells that a batch is in the ledger. Jobs that waited for one that has ended may begin.
func (t *Table) Written(b Batch, now time.Duration) {
	for id, n := range b.parts {
		if e := t.jobs[id]; e != nil {
			e.fresh, e.flying = slices.Delete(e.fresh, 0, n), 0
			e.records = b.records[id]
		}
	}
	for id, s := range b.states {
		if e := t.jobs[id]; e != nil && e.job.State == s && len(e.fresh) == 0 {
			e.changed = false
		}
	}
	for n, m := range t.nodes {
		if taken, ok := b.covers[n+" "+m.holder]; ok {
			m.settled = max(m.settled, taken)
		}
	}
	for _, id := range t.order {
		if e := t.jobs[id]; e.job.State == Waiting {
			t.begin(e, now)
		}
	}
}
