package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/job"
	"github.com/skein-os/skein/agent/store"
)

// Ledger is what is needed of the cluster's ledger.
type Ledger interface {
	Commit(ctx context.Context, t cluster.Txn) (revision int64, ok bool, err error)
	List(ctx context.Context, prefix string) ([]store.Entry, error)
}

// Config of a Dispatch.
type Config struct {
	Self   string
	Ledger Ledger
	// State is the newest copy of the rest of the ledger.
	State func() *cluster.State
	// Leader tells whether this node coordinates now; Changes is closed when that may have changed.
	Leader  func() bool
	Changes func() <-chan struct{}
	Now     func() time.Duration // a clock that only goes forward
	Log     *slog.Logger
}

const (
	// look is how often the coordinator looks at what has happened to nodes.
	look = 100 * time.Millisecond
	// slack is how much longer than a node a coordinator waits before it takes the node's tasks for dead; a new one, that
	// does not know who asked its predecessor until when, waits slackNew.
	slack    = time.Second
	slackNew = 10 * time.Second
	// keep is how many jobs are kept that have ended.
	keep = 200
	// mostJobs is how many may be there.
	mostJobs = 2000
	// commitTime bounds one write.
	commitTime = 10 * time.Second
)

// ErrElsewhere: this node does not coordinate jobs now.
var ErrElsewhere = errors.New("this node does not coordinate jobs now; ask again")

// Dispatch gives out tasks while this node is the coordinator.
type Dispatch struct {
	cfg Config

	mu      sync.Mutex
	table   *job.Table        // nil: not the coordinator, or not yet
	boots   map[string]string // of awaited nodes when the term began
	began   time.Duration
	changed chan struct{} // closed when there may be something new for who waits
	due     chan struct{} // there may be something to write; holds one wake-up
}

// New makes a Dispatch; it does nothing before Run.
func New(cfg Config) *Dispatch {
	return &Dispatch{cfg: cfg, changed: make(chan struct{}), due: make(chan struct{}, 1)}
}

// wakeLocked wakes all who wait.
func (d *Dispatch) wakeLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
	select {
	case d.due <- struct{}{}:
	default:
	}
}

// Run coordinates whenever it is this node's turn, until the context ends.
func (d *Dispatch) Run(ctx context.Context) {
	for ctx.Err() == nil {
		changes := d.cfg.Changes()
		if !d.cfg.Leader() {
			select {
			case <-ctx.Done():
			case <-changes:
			case <-time.After(time.Second):
			}
			continue
		}
		if err := d.term(ctx); err != nil && ctx.Err() == nil {
			d.cfg.Log.Warn("jobs have no coordinator for a moment", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
}

// term coordinates until somebody else does.
func (d *Dispatch) term(ctx context.Context) error {
	if err := d.open(ctx); err != nil {
		return err
	}
	defer func() {
		d.mu.Lock()
		d.table = nil
		d.wakeLocked()
		d.mu.Unlock()
	}()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if !d.cfg.Leader() {
			return nil
		}
		d.judge()
		wait, err := d.flush(ctx)
		if err != nil {
			return err
		}
		var later <-chan time.Time
		if wait > 0 && wait < look {
			later = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-d.due:
		case <-later:
		}
	}
}

// open begins a term with what is in the ledger.
func (d *Dispatch) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	term, _, err := d.cfg.Ledger.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: job.KeyTerm, Value: job.Term{Node: d.cfg.Self}}}})
	if err != nil {
		return fmt.Errorf("begin to coordinate jobs: %w", err)
	}
	specs, err := d.cfg.Ledger.List(ctx, job.KeySpecs)
	if err != nil {
		return err
	}
	inputs, err := d.lists(ctx, job.KeyInputs)
	if err != nil {
		return err
	}
	logs, err := d.lists(ctx, job.KeyLog)
	if err != nil {
		return err
	}
	var jobs []job.Job
	open := false
	for _, e := range specs {
		var j job.Job
		if err := json.Unmarshal(e.Data, &j); err != nil || j.Key() != e.Key || j.Spec.Check() != nil {
			d.cfg.Log.Error("unreadable job in the ledger is ignored", "key", e.Key, "err", errors.Join(err, j.Spec.Check()))
			continue
		}
		jobs = append(jobs, j)
		open = open || !j.State.Ended()
	}
	bySubmission(jobs)
	now := d.cfg.Now()
	boots := map[string]string{}
	var awaited []string
	if open { // otherwise nobody holds anything
		st := d.cfg.State()
		for i := range st.Nodes {
			if n := &st.Nodes[i]; !n.Witness {
				awaited = append(awaited, n.Name)
				boots[n.Name] = n.BootID
			}
		}
	}
	t := job.NewTable(term, awaited)
	for _, j := range jobs {
		recorded, keys, err := outcomesOf(logs[j.ID])
		if err != nil { // to go on without them would be to run tasks twice
			d.cfg.Log.Error("a job whose outcomes are not readable is left alone", "job", j.ID, "err", err)
			continue
		}
		var in []string
		for _, e := range inputs[j.ID] {
			var part []string
			err = errors.Join(err, json.Unmarshal(e.Data, &part))
			in = append(in, part...)
		}
		if err := errors.Join(err, j.Spec.CheckInputs(in)); err != nil {
			d.cfg.Log.Error("a job whose inputs are not whole is ignored", "job", j.ID, "err", err)
			continue
		}
		t.Add(j, in, recorded, keys, now)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.table, d.boots, d.began = t, boots, now
	d.wakeLocked()
	if len(jobs) > 0 {
		d.cfg.Log.Info("this node coordinates jobs", "term", term, "jobs", len(jobs), "waits_for", awaited)
	}
	return nil
}

// lists are all records below a prefix, by the job's ID, in their order.
func (d *Dispatch) lists(ctx context.Context, prefix string) (map[string][]store.Entry, error) {
	all, err := d.cfg.Ledger.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := map[string][]store.Entry{}
	for _, e := range all {
		id, _, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
		out[id] = append(out[id], e)
	}
	return out, nil
}

func outcomesOf(log []store.Entry) (recorded []job.Outcome, keys []string, err error) {
	for _, e := range log {
		list, err := job.DecodeOutcomes(e.Data)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", e.Key, err)
		}
		recorded, keys = append(recorded, list...), append(keys, e.Key)
	}
	return recorded, keys, nil
}

// judge tells the table what is known of nodes that do not ask any more.
func (d *Dispatch) judge() {
	st, now := d.cfg.State(), d.cfg.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	news := false
	for _, name := range d.table.Known() {
		if proof := d.proof(st, name, now); proof > job.Alive && d.table.Dead(name, proof) {
			news = true
			d.cfg.Log.Info("tasks of a lost node may be given out again", "node", name, "proof", proof)
		}
	}
	if news {
		d.wakeLocked()
	}
}

// proof is what is known of a node.
func (d *Dispatch) proof(st *cluster.State, name string, now time.Duration) job.Proof {
	n := st.Node(name)
	if n == nil {
		return job.Off // removed: an operator has seen to it
	}
	life, heard := d.table.Life(name)
	boot, _, _ := strings.Cut(life, ".")
	if !heard {
		boot = d.boots[name]
	}
	if n.BootID != boot {
		if heard && n.State == cluster.NodeLost {
			return job.Alive // the ledger's copy here is older than what was heard
		}
		return job.Off
	}
	if n.State != cluster.NodeLost {
		return job.Alive
	}
	if f := st.Fence(name); f != nil && f.BootID == boot && f.State == cluster.FenceOff {
		return job.Off
	}
	since, wait := d.began, job.Tether+slackNew
	if heard {
		since, _ = d.table.Heard(name)
		wait = job.Tether + slack
	}
	if now-since > wait {
		return job.Tethered
	}
	return job.Lost
}

// flush writes what is due, and tells how long the next can wait; 0: nothing waits.
func (d *Dispatch) flush(ctx context.Context) (time.Duration, error) {
	for {
		d.mu.Lock()
		now := d.cfg.Now()
		is, at := d.table.Due(now)
		if !is {
			d.mu.Unlock()
			return max(at-now, 0), nil
		}
		b, ok := d.table.Batch(now, time.Now().UTC())
		term := d.table.Term()
		d.mu.Unlock()
		if !ok {
			return 0, nil
		}
		if err := d.commit(ctx, term, cluster.Txn{Puts: b.Puts, Deletes: b.Deletes, Events: endings(b.Puts, d.cfg.Self)}); err != nil {
			return 0, err
		}
		d.mu.Lock()
		d.table.Written(b, d.cfg.Now())
		ids, keys := d.table.Forget(keep)
		d.wakeLocked()
		d.mu.Unlock()
		if err := d.remove(ctx, term, ids, keys); err != nil {
			return 0, err
		}
	}
}

// endings are the events of jobs that have ended.
func endings(puts []cluster.Put, self string) []cluster.Event {
	var out []cluster.Event
	for _, p := range puts {
		j, ok := p.Value.(job.Job)
		if !ok || !j.State.Ended() || len(out) >= 24 {
			continue
		}
		e := cluster.Event{Time: time.Now(), Node: self, Kind: job.EventJob, Subject: "job " + j.ID, Why: j.Reason}
		switch j.State {
		case job.Done:
			e.Text = fmt.Sprintf("all %d tasks are done", j.OK)
		case job.Failed:
			e.Text = fmt.Sprintf("%d of %d tasks failed; 'skein job retry %s' runs them again", j.Bad, j.OK+j.Bad, j.ID)
		case job.Cancelled:
			e.Text = fmt.Sprintf("cancelled after %d of %d tasks", j.OK+j.Bad, j.Spec.Indices.Len())
		}
		out = append(out, e)
	}
	return out
}

// commit writes, if this is still the term that began.
func (d *Dispatch) commit(ctx context.Context, term int64, t cluster.Txn) error {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	t.Conditions = append(t.Conditions, cluster.Condition{Key: job.KeyTerm, Revision: term})
	_, ok, err := d.cfg.Ledger.Commit(ctx, t)
	if err != nil {
		return fmt.Errorf("record outcomes of jobs: %w", err)
	}
	if !ok {
		return errors.New("another node coordinates jobs now")
	}
	return nil
}

// remove deletes what the ledger has of jobs that are forgotten.
func (d *Dispatch) remove(ctx context.Context, term int64, ids, keys []string) error {
	for _, id := range ids {
		list, err := d.cfg.Ledger.List(ctx, job.KeyInputs+id+"/")
		if err != nil {
			return err
		}
		for _, e := range list {
			keys = append(keys, e.Key)
		}
	}
	for len(keys) > 0 {
		some := keys[:min(len(keys), 100)]
		keys = keys[len(some):]
		if err := d.commit(ctx, term, cluster.Txn{Deletes: some}); err != nil {
			return err
		}
	}
	return nil
}

// Pull answers a node. It waits as long as the node would for something to say.
func (d *Dispatch) Pull(ctx context.Context, p *job.Pull) (job.Answer, error) {
	wait := time.NewTimer(min(max(p.Wait, 0), job.Tether/2))
	defer wait.Stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil {
		return job.Answer{}, ErrElsewhere
	}
	if err := d.admit(p); err != nil {
		return job.Answer{}, err
	}
	if !d.table.Take(p, d.cfg.Now()) {
		return job.Answer{Term: d.table.Term(), Again: true}, nil
	}
	if is, _ := d.table.Due(d.cfg.Now()); is {
		select {
		case d.due <- struct{}{}:
		default:
		}
	}
	table := d.table
	for over := false; ; {
		n := d.cfg.State().Node(p.Node)
		a, more := table.Answer(p, n != nil && n.MayRun(), d.cfg.Now())
		if more || over {
			return a, nil
		}
		changed := d.changed
		d.mu.Unlock()
		select {
		case <-changed:
		case <-wait.C:
			over = true
		case <-ctx.Done():
			d.mu.Lock()
			return job.Answer{}, ctx.Err()
		}
		d.mu.Lock()
		if d.table != table {
			return job.Answer{}, ErrElsewhere
		}
	}
}

// admit refuses nodes that the ledger does not know as they say they are.
func (d *Dispatch) admit(p *job.Pull) error {
	n := d.cfg.State().Node(p.Node)
	boot, _, _ := strings.Cut(p.Life, ".")
	switch {
	case n == nil:
		return fmt.Errorf("node %q is not known here", p.Node)
	case n.BootID != boot:
		return fmt.Errorf("node %s is known here in another boot", p.Node)
	case n.State == cluster.NodeLost:
		return fmt.Errorf("node %s was given up in this boot: it gets no tasks", p.Node)
	}
	return nil
}
