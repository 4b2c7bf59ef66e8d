package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/job"
	"github.com/skein-os/skein/agent/job/worker"
)

// Worker is a running worker: a process that talks package worker's frames.
type Worker interface {
	In() io.Writer
	Out() io.Reader
	// Close kills it and all its tasks, and returns when they are gone. It may be called twice.
	Close() error
}

// Config of a Runner.
type Config struct {
	Node string
	Life string // of this run of the agent: no other ever has it
	CPUs float64
	// Memory that tasks may reserve, bytes.
	Memory int64
	// Ask sends a Pull to whoever coordinates now. It returns when the context ends.
	Ask func(ctx context.Context, p *job.Pull) (job.Answer, error)
	// Changes is closed when somebody else may have become the coordinator; nil: never.
	Changes func() <-chan struct{}
	// Launch starts a worker for a job, name being unique in the node's life.
	Launch func(ctx context.Context, name string, j *job.Job) (Worker, error)
	Output *Output
	Log    *slog.Logger
}

// Times of a Runner.
const (
	// idleWait is how long a node with nothing to do waits for an answer: what it is given then has most of Tether left.
	// busyWait is for one that runs something: what ends
	// meanwhile is told after that.
	idleWait = job.Tether / 3
	busyWait = 50 * time.Millisecond
	// gather is how long results are gathered before they are told.
	gather = 20 * time.Millisecond
	// ahead is for how long the tasks at hand should suffice when new ones are asked for.
	ahead = 200 * time.Millisecond
	// again is the pause after a question that was not answered.
	again = 250 * time.Millisecond
	// answerTime bounds an answer beyond the time that was asked to wait.
	answerTime = 5 * time.Second
	// relaunch is the pause after a worker could not be started, doubled up to its most.
	relaunch     = time.Second
	relaunchMost = time.Minute
)

// Runner runs tasks on one node.
type Runner struct {
	cfg    Config
	events chan func()
	wg     sync.WaitGroup
	ctx    context.Context

	jobs    map[string]*jobState
	leases  []*leaseState
	term    int64
	greeted bool
	reports []job.Report
	seq     uint64
	sent    uint64 // reports up to this one were answered by this coordinator
	asking  bool
	asked   time.Time      // when the last question was sent that was answered
	notYet  time.Time      // no question before this
	begun   map[string]int // workers, for their names
	stuck   bool           // tasks were killed for want of a coordinator
}

type jobState struct {
	job       *job.Job
	w         Worker
	runs      chan run // to the worker
	launching bool
	fails     int
	trouble   string
	retryAt   time.Time
	mean      time.Duration
	running   map[int32]*leaseState
	sent      []int32 // to its worker, in order; some have ended
	isolated  map[int32]context.CancelFunc
	closing   bool
}

type run struct {
	pos   int32
	index int64
	input string
	kill  bool
}

type leaseState struct {
	job.Held
	j       *jobState
	inputs  []string
	next    int32
	running int
	results []job.Result
	void    bool // the coordinator does not want it any more
}

func (l *leaseState) left() int { return int(l.To-l.next) + l.running }

// New makes a Runner.
func New(cfg Config) *Runner {
	return &Runner{cfg: cfg, events: make(chan func(), 1024), jobs: map[string]*jobState{}, begun: map[string]int{}}
}

// Run runs tasks until the context ends, and returns when none runs any more.
func (r *Runner) Run(ctx context.Context) {
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithCancel(ctx)
	r.asked = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		r.start()
		timer.Reset(r.turn(time.Now()))
		select {
		case <-ctx.Done():
		case f := <-r.events:
			f()
			for more := true; more; { // what has come meanwhile
				select {
				case f := <-r.events:
					f()
				default:
					more = false
				}
			}
		case <-timer.C:
		}
	}
	cancel()
	done := make(chan struct{})
	for _, j := range r.jobs {
		r.closeWorker(j)
	}
	go func() { r.wg.Wait(); close(done) }()
	for {
		select {
		case <-r.events: // nobody wants to know any more
		case <-done:
			return
		}
	}
}

func (r *Runner) send(f func()) { r.events <- f }

// start gives workers what there is room for.
func (r *Runner) start() {
	free, room := r.cfg.CPUs+r.extra(), r.cfg.Memory
	for _, l := range r.leases {
		free -= float64(l.running) * l.j.cpus()
		room -= int64(l.running) * l.j.job.Spec.Memory
	}
	for _, l := range r.leases {
		j := l.j
		for l.next < l.To && !l.void && free+1e-9 >= j.cpus() && room >= j.job.Spec.Memory && (l.Width == 0 || l.running < l.Width) {
			if !j.job.Spec.Isolate && j.w == nil {
				r.launch(j)
				break
			}
			if time.Now().Before(j.retryAt) {
				break
			}
			t := run{pos: l.next, index: j.job.Spec.Indices.At(int(l.next))}
			if l.inputs != nil {
				t.input = l.inputs[l.next-l.From]
			}
			if j.job.Spec.Isolate {
				r.runAlone(j, t)
			} else {
				select {
				case j.runs <- t:
				default: // it is slow to take what there is
					return
				}
			}
			l.next++
			l.running++
			j.running[t.pos] = l
			if j.sent = append(j.sent, t.pos); len(j.sent) > 2*len(j.running)+1024 {
				j.sent = slices.DeleteFunc(j.sent, func(p int32) bool { return j.running[p] == nil })
			}
			free -= j.cpus()
			room -= j.job.Spec.Memory
		}
	}
}

func (j *jobState) cpus() float64 { return cpusOf(j.job) }

func cpusOf(j *job.Job) float64 {
	if j.Spec.CPUs == 0 {
		return 1
	}
	return j.Spec.CPUs
}

// inHand is for how long a worker gets tasks on top of those that it runs, and mostInHand how many. Short tasks would
// otherwise wait for the agent more than they run.
const (
	inHand     = 50 * time.Millisecond
	mostInHand = 64
)

// extra is how many CPUs more than there are the tasks may take that are with workers. Only one job can have that: which
// task of which job runs next must not be the workers' matter.
func (r *Runner) extra() float64 {
	var j *jobState
	for _, l := range r.leases {
		if l.left() == 0 {
			continue
		}
		if j != nil && l.j != j || l.Width > 0 || l.j.job.Spec.Isolate || l.j.job.Spec.Memory > 0 || l.j.mean == 0 {
			return 0
		}
		j = l.j
	}
	if j == nil {
		return 0
	}
	n := min(float64(inHand)/float64(max(j.mean, time.Microsecond))*r.cfg.CPUs/j.cpus(), mostInHand)
	return float64(int(n)) * j.cpus()
}

// launch starts a job's worker.
func (r *Runner) launch(j *jobState) {
	if j.launching || j.closing || time.Now().Before(j.retryAt) {
		return
	}
	j.launching = true
	name := r.name(j)
	r.wg.Go(func() {
		w, c, err := r.open(r.ctx, name, j.job)
		r.send(func() {
			j.launching = false
			switch {
			case err != nil:
				r.cannot(j, err)
			case j.closing || r.jobs[j.job.ID] != j || r.ctx.Err() != nil:
				r.wg.Go(func() { r.close(w, j.job.ID) })
			default:
				r.attach(j, w, c)
			}
		})
	})
}

func (r *Runner) name(j *jobState) string {
	r.begun[j.job.ID]++
	return fmt.Sprintf("job.%s.%d", j.job.ID, r.begun[j.job.ID])
}

func (r *Runner) open(ctx context.Context, name string, j *job.Job) (Worker, *worker.Conn, error) {
	w, err := r.cfg.Launch(ctx, name, j)
	if err != nil {
		return nil, nil, err
	}
	c, err := worker.Open(w.In(), w.Out(), worker.Setup{Job: j.ID, Spec: j.Spec, Parallel: max(int(r.cfg.CPUs/cpusOf(j)+1e-9), 1)})
	if err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	return w, c, nil
}

// cannot notes that a job's tasks cannot be run here for now, and gives them back.
func (r *Runner) cannot(j *jobState, err error) {
	pause := min(relaunch<<min(j.fails, 10), relaunchMost)
	j.fails++
	j.trouble, j.retryAt = err.Error(), time.Now().Add(pause)
	r.cfg.Log.Warn("tasks of a job cannot be run here for now", "job", j.job.ID, "again_in", pause, "err", err)
	for _, l := range r.leases {
		if l.j == j {
			r.giveBack(l)
		}
	}
}

// giveBack tells the coordinator that what has not begun of a lease is its own again.
func (r *Runner) giveBack(l *leaseState) {
	for ; l.next < l.To; l.next++ {
		l.results = append(l.results, job.Result{Pos: l.next, Undone: true})
	}
}

// attach has a worker run tasks.
func (r *Runner) attach(j *jobState, w Worker, c *worker.Conn) {
	runs := make(chan run, 1024)
	j.w, j.runs = w, runs
	r.wg.Go(func() { // writing may take as long as the worker likes
		for t := range runs {
			var err error
			if t.kill {
				err = c.Kill(t.pos)
			} else {
				err = c.Run(t.pos, t.index, t.input)
			}
			if err != nil {
				break
			}
		}
		for range runs { // it is gone; its reader tells
		}
	})
	r.wg.Go(func() {
		for {
			e, err := c.Next()
			if err != nil {
				r.send(func() { r.gone(j, w, err) })
				return
			}
			r.send(func() { r.ended(j, e) })
		}
	})
}

// runAlone runs a task in a container of its own.
func (r *Runner) runAlone(j *jobState, t run) {
	ctx, cancel := context.WithCancel(r.ctx)
	j.isolated[t.pos] = cancel
	name := r.name(j)
	r.wg.Go(func() {
		defer cancel()
		w, c, err := r.open(ctx, name, j.job)
		if err != nil {
			r.send(func() {
				delete(j.isolated, t.pos)
				r.undone(j, t.pos)
				r.cannot(j, err)
			})
			return
		}
		stop := context.AfterFunc(ctx, func() { r.close(w, j.job.ID) })
		var e worker.End
		if err = c.Run(t.pos, t.index, t.input); err == nil {
			e, err = c.Next()
		}
		if err != nil || e.Pos != t.pos {
			e = worker.End{Result: job.Result{Pos: t.pos, End: job.Vanished}}
		}
		if stop() {
			r.close(w, j.job.ID)
		}
		r.send(func() {
			delete(j.isolated, t.pos)
			r.ended(j, e)
		})
	})
}

func (r *Runner) close(w Worker, id string) {
	if err := w.Close(); err != nil {
		r.cfg.Log.Warn("container of a job could not be cleared away", "job", id, "err", err)
	}
}

// ended takes the end of a task.
func (r *Runner) ended(j *jobState, e worker.End) {
	l := j.running[e.Pos]
	if l == nil {
		return // the worker makes it up, or the lease is void
	}
	delete(j.running, e.Pos)
	l.running--
	j.fails, j.trouble = 0, ""
	if j.mean == 0 {
		j.mean = e.Took
	}
	j.mean += (e.Took - j.mean) / 16
	if !l.void {
		if err := r.cfg.Output.Put(j.job.ID, e); err != nil {
			r.cfg.Log.Warn("output of a task is lost", "job", j.job.ID, "task", e.Pos, "err", err)
		}
		l.results = append(l.results, e.Result)
	}
}

func (r *Runner) undone(j *jobState, pos int32) {
	if l := j.running[pos]; l != nil {
		delete(j.running, pos)
		l.running--
		l.results = append(l.results, job.Result{Pos: pos, Undone: true})
	}
}

// gone: a worker has ended by itself. What it ran has ended with it.
func (r *Runner) gone(j *jobState, w Worker, err error) {
	if j.w != w {
		return // it was closed here
	}
	r.cfg.Log.Warn("the container of a job has ended under its tasks", "job", j.job.ID, "tasks", len(j.running), "err", err)
	none := len(j.running) == 0
	r.closeWorker(j)
	// It begins them in order: what is beyond those that it ran at once had not begun.
	began := max(int(r.cfg.CPUs/j.cpus()+1e-9), 1)
	for _, pos := range j.sent {
		l := j.running[pos]
		if l == nil {
			continue
		}
		delete(j.running, pos)
		l.running--
		l.results = append(l.results, job.Result{Pos: pos, End: job.Vanished, Undone: began <= 0})
		began--
	}
	j.sent = nil
	if none {
		r.cannot(j, fmt.Errorf("its container ended at once: %w", err))
	} else {
		j.retryAt = time.Now().Add(relaunch / 4)
	}
}

// closeWorker kills a job's worker and what it runs.
func (r *Runner) closeWorker(j *jobState) {
	for _, cancel := range j.isolated {
		cancel()
	}
	if w := j.w; w != nil {
		close(j.runs)
		j.w, j.runs = nil, nil
		r.wg.Go(func() { r.close(w, j.job.ID) })
	}
}

// killAll kills all tasks because no coordinator answers: they may be given to others.
func (r *Runner) killAll() {
	r.stuck = true
	for _, j := range r.jobs {
		w := j.w
		if w != nil {
			close(j.runs)
			j.w, j.runs = nil, nil
			r.close(w, j.job.ID) // waited for: what is said after this is that nothing runs
		}
		for _, cancel := range j.isolated {
			cancel()
		}
		for pos := range j.running {
			r.undone(j, pos)
		}
	}
	for _, l := range r.leases {
		r.giveBack(l)
	}
}

// turn asks the coordinator if there is reason to, and tells when to look again.
func (r *Runner) turn(now time.Time) time.Duration {
	if now.Sub(r.asked) > job.Tether && !r.stuck {
		if slices.ContainsFunc(r.leases, func(l *leaseState) bool { return l.left() > 0 }) {
			r.cfg.Log.Error("no coordinator has answered for too long: tasks of jobs are killed here, as they may be given to others", "after", job.Tether)
			r.killAll()
		}
	}
	if r.asking {
		return time.Second
	}
	if d := r.notYet.Sub(now); d > 0 {
		return d
	}
	p, wanted := r.pull()
	if !wanted {
		return time.Second
	}
	r.ask(p)
	return time.Second
}

// pull is what is to be said now; wanted is whether there is reason to.
func (r *Runner) pull() (p *job.Pull, wanted bool) {
	if !r.greeted {
		r.sent = 0
	}
	busy := false
	free, room := r.cfg.CPUs, r.cfg.Memory
	enough := false // tasks at hand for some time
	fresh := false
	for _, l := range r.leases {
		if l.left() > 0 {
			busy = true
			free -= float64(l.Busy(l.left())) * l.j.cpus()
			room -= int64(l.Busy(l.left())) * l.j.job.Spec.Memory
			if l.j.mean == 0 || time.Duration(float64(l.left())*l.j.cpus()/max(r.cfg.CPUs, 1)*float64(l.j.mean)) > ahead {
				enough = true
			}
		}
		fresh = fresh || len(l.results) > 0
	}
	if busy && !enough {
		free, room = r.cfg.CPUs, max(room, 0)
	}
	wanted = !r.greeted || free >= 0.01 || fresh || len(r.reports) > 0
	if busy && !wanted && time.Since(r.asked) > job.Tether/5 {
		wanted = true // a sign of life, on both sides
	}
	if !wanted {
		return nil, false
	}
	for _, l := range r.leases {
		if len(l.results) > 0 {
			r.seq++
			r.reports = append(r.reports, job.Report{Seq: r.seq, Job: l.Job, Lease: l.ID, Results: l.results})
			l.results = nil
		}
	}
	p = &job.Pull{Node: r.cfg.Node, Life: r.cfg.Life, Term: r.term, Hello: !r.greeted, CPUs: r.cfg.CPUs, Memory: r.cfg.Memory,
		Free: max(free, 0), Room: max(room, 0), Wait: idleWait}
	if busy || len(r.reports) > 0 {
		p.Wait = busyWait
	}
	for _, rep := range r.reports {
		if rep.Seq > r.sent {
			p.Reports = append(p.Reports, rep)
		}
	}
	if len(r.reports) > 0 {
		p.Unsettled = r.reports[0].Seq
	}
	for _, l := range r.leases {
		p.Leases = append(p.Leases, l.Held)
	}
	for id, j := range r.jobs {
		p.Jobs = append(p.Jobs, id)
		if time.Now().Before(j.retryAt) && j.trouble != "" {
			if p.Trouble == nil {
				p.Trouble = map[string]string{}
			}
			p.Trouble[id] = j.trouble
		}
	}
	if len(p.Trouble) > 0 {
		p.Wait = min(p.Wait, relaunch)
	}
	return p, true
}

func (r *Runner) ask(p *job.Pull) {
	r.asking = true
	began := time.Now()
	r.notYet = began.Add(gather)
	ctx, cancel := context.WithTimeout(r.ctx, p.Wait+answerTime)
	var changes <-chan struct{}
	if r.cfg.Changes != nil {
		changes = r.cfg.Changes()
	}
	answered := make(chan struct{})
	r.wg.Go(func() {
		defer cancel()
		select {
		case <-changes: // the one that was asked may be nobody now
		case <-answered:
		case <-ctx.Done():
		}
	})
	r.wg.Go(func() {
		a, err := r.cfg.Ask(ctx, p)
		close(answered)
		r.send(func() { r.answered(p, a, err, began) })
	})
}

// answered takes the coordinator's answer.
func (r *Runner) answered(p *job.Pull, a job.Answer, err error, began time.Time) {
	r.asking = false
	if err != nil {
		r.cfg.Log.Debug("the coordinator does not answer about jobs", "err", err)
		r.notYet = time.Now().Add(again)
		return
	}
	if a.Term < r.term {
		r.notYet = time.Now().Add(again)
		return // it is not the coordinator any more and does not know it yet
	}
	if a.Again {
		r.greeted, r.term = false, a.Term
		r.notYet = time.Now()
		return
	}
	r.term, r.greeted = a.Term, true
	r.asked, r.stuck = began, false
	if n := len(p.Reports); n > 0 {
		r.sent = max(r.sent, p.Reports[n-1].Seq)
	}
	r.reports = slices.DeleteFunc(r.reports, func(rep job.Report) bool { return rep.Seq <= a.Settled })
	for _, id := range a.Drop {
		for _, l := range r.leases {
			if l.ID == id {
				r.drop(l)
			}
		}
	}
	for i := range a.Jobs {
		j := &a.Jobs[i]
		if r.jobs[j.ID] == nil {
			r.jobs[j.ID] = &jobState{job: j, running: map[int32]*leaseState{}, isolated: map[int32]context.CancelFunc{}}
		}
	}
	for _, g := range a.Grants {
		j := r.jobs[g.Job]
		n := int32(0)
		if j != nil {
			n = int32(j.job.Spec.Indices.Len())
		}
		if j == nil || g.From < 0 || g.To > n || g.From >= g.To || j.job.Spec.Mapped && len(g.Inputs) != int(g.To-g.From) {
			r.cfg.Log.Error("the coordinator gave out tasks that cannot be", "job", g.Job, "from", g.From, "to", g.To)
			continue // it is not named in the next question, and so given out again
		}
		r.leases = append(r.leases, &leaseState{Held: job.Held{Job: g.Job, Lease: g.Lease}, j: j, inputs: g.Inputs, next: g.From})
	}
	for _, id := range a.Over {
		if j := r.jobs[id]; j != nil {
			j.closing = true
			r.closeWorker(j)
			delete(r.jobs, id)
		}
	}
	// A lease is named until all of its results are settled.
	r.leases = slices.DeleteFunc(r.leases, func(l *leaseState) bool {
		return l.void || l.left() == 0 && len(l.results) == 0 && !slices.ContainsFunc(r.reports, func(rep job.Report) bool { return rep.Lease == l.ID })
	})
	if len(a.Grants) > 0 {
		r.notYet = time.Now()
	}
}

// drop forgets a lease and kills what runs of it.
func (r *Runner) drop(l *leaseState) {
	l.void = true
	for pos, of := range l.j.running {
		if of != l {
			continue
		}
		if cancel := l.j.isolated[pos]; cancel != nil {
			cancel()
		} else if l.j.runs != nil {
			select {
			case l.j.runs <- run{pos: pos, kill: true}:
			default: // it takes nothing any more
			}
		}
		delete(l.j.running, pos)
		l.running--
	}
	l.results = nil
	r.reports = slices.DeleteFunc(r.reports, func(rep job.Report) bool { return rep.Lease == l.ID })
}
