package job

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// sim is a cluster under virtual time: nodes that run tasks as package execute does, a coordinator, a ledger. Faults are
// up to the test.
type sim struct {
	t      testing.TB
	now    time.Duration
	table  *Table
	term   int64
	ledger map[string][]byte
	writes int
	nodes  []*simNode
	spec   Spec
	took   func(pos int32) time.Duration
	fails  func(pos int32, try int) bool
	// runs counts how often a position was begun, in how many lives at once it runs now.
	begun   []int
	running []int
	grain   time.Duration // how coarse time is
	most    int           // that ran at once
	at      int           // now
}

type simNode struct {
	name    string
	life    int
	slots   int
	dead    bool
	term    int64
	greeted bool
	leases  []*simLease
	busy    []simTask
	reports []Report
	seq     uint64
	wake    time.Duration
	known   bool
	pulls   int
}

type simLease struct {
	Held
	next    int32
	running int
	results []Result
}

type simTask struct {
	l    *simLease
	pos  int32
	end  time.Duration
	took time.Duration
}

const simJob = "sim-1"

func newSim(t testing.TB, spec Spec, nodes, slots int) *sim {
	s := &sim{t: t, spec: spec, ledger: map[string][]byte{}, begun: make([]int, spec.Indices.Len()), running: make([]int, spec.Indices.Len()),
		took: func(int32) time.Duration { return time.Millisecond }, fails: func(int32, int) bool { return false }}
	if err := spec.Check(); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		s.nodes = append(s.nodes, &simNode{name: fmt.Sprintf("n%d", i+1), slots: slots})
	}
	s.write([]cluster.Put{{Key: KeySpecs + simJob, Value: Job{ID: simJob, Spec: spec, State: Running}}}, nil)
	s.coordinate()
	return s
}

func (s *sim) write(puts []cluster.Put, deletes []string) {
	s.writes++
	if n := len(puts) + len(deletes) + 1; n > 128 {
		s.t.Fatalf("a write of %d operations, the ledger takes 128", n)
	}
	for _, p := range puts {
		data, err := json.Marshal(p.Value)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(data) > 1400<<10 {
			s.t.Fatalf("%s has %d bytes, the ledger takes 1.5 MiB", p.Key, len(data))
		}
		s.ledger[p.Key] = data
	}
	for _, k := range deletes {
		delete(s.ledger, k)
	}
}

// recorded are the outcomes in the ledger.
func (s *sim) recorded() (out []Outcome, keys []string) {
	for k := range s.ledger {
		if strings.HasPrefix(k, KeyLog) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		list, err := DecodeOutcomes(s.ledger[k])
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, list...)
	}
	return out, keys
}

// coordinate has a new coordinator begin, with what is in the ledger.
func (s *sim) coordinate() {
	s.term++
	var names []string
	for _, n := range s.nodes {
		names = append(names, n.name)
	}
	s.table = NewTable(s.term, names)
	var j Job
	if err := json.Unmarshal(s.ledger[KeySpecs+simJob], &j); err != nil {
		s.t.Fatal(err)
	}
	out, keys := s.recorded()
	s.table.Add(j, nil, out, keys, s.now)
	for _, n := range s.nodes {
		if n.dead {
			s.table.Dead(n.name, Off)
		}
	}
}

// flush writes what is due; lost has the coordinator die before it knows that it is written.
func (s *sim) flush(lost bool) {
	if is, _ := s.table.Due(s.now); !is {
		return
	}
	b, ok := s.table.Batch(s.now, time.Unix(0, 0))
	if !ok {
		return
	}
	s.write(b.Puts, b.Deletes)
	if lost {
		s.coordinate()
		return
	}
	s.table.Written(b, s.now)
}

func (n *simNode) pull() *Pull {
	held := n.slots
	for _, l := range n.leases {
		held -= l.Busy(int(l.To-l.next) + l.running)
	}
	p := &Pull{Node: n.name, Life: fmt.Sprint(n.life), Term: n.term, Hello: !n.greeted, CPUs: float64(n.slots), Free: float64(max(held, 0)), Reports: n.reports}
	for _, l := range n.leases {
		p.Leases = append(p.Leases, l.Held)
	}
	if len(n.reports) > 0 {
		p.Unsettled = n.reports[0].Seq
	}
	if n.known {
		p.Jobs = []string{simJob}
	}
	return p
}

// step lets a node do what is to be done now. lose has the coordinator's answer lost on the way.
func (s *sim) step(n *simNode, lose bool) {
	if n.dead {
		return
	}
	busy := n.busy[:0]
	for _, t := range n.busy {
		if t.end > s.now {
			busy = append(busy, t)
			continue
		}
		s.running[t.pos]--
		s.at--
		r := Result{Pos: t.pos, Took: t.took}
		if s.fails(t.pos, s.begun[t.pos]) {
			r.Code = 1
		}
		t.l.running--
		t.l.results = append(t.l.results, r)
	}
	n.busy = busy
	s.start(n)
	for _, l := range n.leases {
		if len(l.results) > 0 {
			n.seq++
			n.reports = append(n.reports, Report{Seq: n.seq, Job: l.Job, Lease: l.ID, Results: l.results})
			l.results = nil
		}
	}
	p := n.pull()
	n.pulls++
	if !s.table.Take(p, s.now) {
		n.greeted, n.term = false, 0
		n.wake = s.now
		return
	}
	a, _ := s.table.Answer(p, true, s.now)
	n.wake = s.now + 100*time.Millisecond
	if lose {
		return
	}
	n.greeted, n.term = true, a.Term
	n.reports = slices.DeleteFunc(n.reports, func(r Report) bool { return r.Seq <= a.Settled })
	for _, id := range a.Drop {
		s.kill(n, func(l *simLease) bool { return l.ID == id })
	}
	for range a.Jobs {
		n.known = true
	}
	// A lease is named until all of its results are settled.
	n.leases = slices.DeleteFunc(n.leases, func(l *simLease) bool {
		return l.next == l.To && l.running == 0 && len(l.results) == 0 && !slices.ContainsFunc(n.reports, func(r Report) bool { return r.Lease == l.ID })
	})
	for _, g := range a.Grants {
		n.leases = append(n.leases, &simLease{Held: Held{Job: g.Job, Lease: g.Lease}, next: g.From})
	}
	s.start(n)
	for _, t := range n.busy {
		n.wake = min(n.wake, t.end)
	}
	if len(n.leases) == 0 && len(n.reports) == 0 {
		n.wake = s.now + 50*time.Millisecond
	}
}

func (s *sim) start(n *simNode) {
	for _, l := range n.leases {
		for l.next < l.To && len(n.busy) < n.slots && (l.Width == 0 || l.running < l.Width) {
			took := s.took(l.next)
			n.busy = append(n.busy, simTask{l, l.next, s.now + took, took})
			s.begun[l.next]++
			s.running[l.next]++
			if s.running[l.next] > 1 && !s.spec.Idempotent {
				s.t.Fatalf("task %d runs twice at %v", l.next, s.now)
			}
			if s.at++; s.at > s.most {
				s.most = s.at
			}
			l.next++
			l.running++
		}
	}
}

func (s *sim) kill(n *simNode, which func(*simLease) bool) {
	n.busy = slices.DeleteFunc(n.busy, func(t simTask) bool {
		if which(t.l) {
			s.running[t.pos]--
			s.at--
			return true
		}
		return false
	})
	n.leases = slices.DeleteFunc(n.leases, which)
}

// die takes a node's power away; it comes back by reboot.
func (s *sim) die(n *simNode) {
	s.kill(n, func(*simLease) bool { return true })
	n.dead, n.reports = true, nil
}

func (s *sim) reboot(n *simNode) {
	*n = simNode{name: n.name, life: n.life + 1, slots: n.slots, wake: s.now}
}

// run goes on until the job has ended in the ledger. Each round is given to fault first.
func (s *sim) run(limit time.Duration, fault func()) {
	for s.now < limit {
		next := limit
		for _, n := range s.nodes {
			if n.dead {
				next = min(next, s.now+50*time.Millisecond)
			} else {
				next = min(next, n.wake)
			}
		}
		s.now = max(s.now+s.grain, next)
		if fault != nil {
			fault()
		}
		for _, n := range s.nodes {
			if !n.dead && n.wake <= s.now {
				s.step(n, false)
			}
		}
		s.flush(false)
		if j, _, _ := s.table.Job(simJob); j.State.Ended() {
			s.flush(false)
			return
		}
	}
	p, _ := s.table.Progress(simJob, s.now)
	s.t.Fatalf("the job has not ended after %v: %+v", limit, p)
}

// check that the ledger has every position exactly once.
func (s *sim) check() []Outcome {
	s.t.Helper()
	out, _ := s.recorded()
	seen := newBits(s.spec.Indices.Len())
	n := 0
	for _, o := range out {
		for p := o.From; p < o.To; p++ {
			if seen.has(p) {
				s.t.Fatalf("position %d is recorded twice", p)
			}
			seen.set(p)
			n++
		}
	}
	if want := s.spec.Indices.Len(); n != want {
		s.t.Fatalf("%d tasks are recorded, want %d", n, want)
	}
	return out
}

func simSpec(tasks int) Spec {
	return Spec{Name: "sim", Command: []string{"true"}, Indices: Indices{{First: 1, Last: int64(tasks)}}}
}

// pareto are durations as one finds them: most are short, some are very long.
func pareto(r *rand.Rand, n int, least, most time.Duration) []time.Duration {
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = min(time.Duration(float64(least)/pow(1-r.Float64(), 1/1.5)), most)
	}
	return out
}
