package dispatch

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/job"
)

// RefusedError is a job that cannot be, in words for who submitted it.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

func refuse(format string, a ...any) error { return &RefusedError{fmt.Errorf(format, a...)} }

// UnknownError: there is no job of that ID.
type UnknownError struct{ ID string }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("there is no job %q; 'skein job ls' lists them", e.ID)
}

func bySubmission(jobs []job.Job) {
	slices.SortStableFunc(jobs, func(a, b job.Job) int {
		return cmp.Or(a.Submitted.Compare(b.Submitted), strings.Compare(a.ID, b.ID))
	})
}

// locked runs f with the table, if this node has one.
func (d *Dispatch) locked(f func(*job.Table) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.table == nil {
		return ErrElsewhere
	}
	return f(d.table)
}

// Submit takes a job. What can be seen to be impossible is refused.
func (d *Dispatch) Submit(ctx context.Context, spec job.Spec, inputs []string, by string) (job.Job, error) {
	st := d.cfg.State()
	if err := check(st, &spec, inputs); err != nil {
		return job.Job{}, err
	}
	var term int64
	if err := d.locked(func(t *job.Table) error {
		term = t.Term()
		if n := len(t.List(0)); n >= mostJobs {
			return refuse("there are %d jobs already; wait, or cancel some", n)
		}
		for _, id := range spec.After {
			if _, _, ok := t.Job(id); !ok {
				return refuse("it is to come after job %q, which does not exist", id)
			}
		}
		return nil
	}); err != nil {
		return job.Job{}, err
	}
	j := job.Job{ID: spec.Name + "-" + strings.ToLower(rand.Text()[:5]), Spec: spec, State: job.Running, By: by, Submitted: time.Now().UTC()}
	if len(spec.After) > 0 {
		j.State = job.Waiting
	}
	parts := job.SplitInputs(inputs)
	for i, part := range parts {
		if err := d.commit(ctx, term, cluster.Txn{Puts: []cluster.Put{{Key: job.InputKey(j.ID, i), Value: part}}}); err != nil {
			return job.Job{}, err
		}
	}
	err := d.commit(ctx, term, cluster.Txn{
		Conditions: []cluster.Condition{{Key: j.Key()}}, Puts: []cluster.Put{{Key: j.Key(), Value: j}},
		Events: []cluster.Event{{Time: time.Now(), Node: d.cfg.Self, Kind: job.EventJob, Subject: "job " + j.ID,
			Text: fmt.Sprintf("submitted: %d tasks of image %s", spec.Indices.Len(), spec.Image), Why: "asked by operator " + by}},
	})
	if err != nil {
		return job.Job{}, err
	}
	return j, d.locked(func(t *job.Table) error {
		if t.Term() != term {
			return ErrElsewhere // it is in the ledger, and so in the new table
		}
		t.Add(j, inputs, nil, nil, d.cfg.Now())
		d.wakeLocked()
		return nil
	})
}

// check refuses what is known to be impossible, and resolves the image.
func check(st *cluster.State, spec *job.Spec, inputs []string) error {
	if err := spec.Check(); err != nil {
		return &RefusedError{err}
	}
	if err := spec.CheckInputs(inputs); err != nil {
		return &RefusedError{err}
	}
	with := cluster.Service{Stack: "job", Name: spec.Name, Shares: spec.Shares}
	if err := st.ResolveShares(&with); err != nil {
		return &RefusedError{err}
	}
	var refs []string
	spec.ImageDigest = ""
	spec.Image = cluster.PlainRef(spec.Image)
	for i := range st.Images {
		im := &st.Images[i]
		if im.Artifact {
			continue // nothing of it can be run
		}
		refs = append(refs, im.Ref)
		if im.Ref == spec.Image || im.Ref == spec.Image+":latest" || spec.Image == "" && len(st.Images) == 1 {
			spec.Image, spec.ImageDigest = im.Ref, im.Digest
		}
	}
	if spec.ImageDigest == "" {
		if spec.Image == "" {
			return refuse("say with --image in which image the command is to run: %s", strings.Join(refs, ", "))
		}
		return refuse("the cluster has no image %q; load it with 'skein image load FILE' or fetch it with 'skein image pull %s'", spec.Image, spec.Image)
	}
	var why []string
	for i := range st.Nodes {
		n := &st.Nodes[i]
		cpus, memory := Capacity(n)
		switch {
		case n.Witness:
			continue
		case cpus < spec.CPUs:
			why = append(why, fmt.Sprintf("%s has %g CPUs", n.Name, cpus))
		case memory < spec.Memory:
			why = append(why, fmt.Sprintf("%s has %d MiB for jobs", n.Name, memory>>20))
		default:
			return nil
		}
	}
	return refuse("a task wants %g CPUs and %d MiB, which no node has: %s", spec.CPUs, spec.Memory>>20, strings.Join(why, ", "))
}

// memoryShare is how much of a node's memory jobs may take, so that services and the agent keep the rest.
const memoryShare = 0.6

// Capacity is what a node has for jobs: all its CPUs, as services go first by weight, and a part of its memory.
func Capacity(n *cluster.Node) (cpus float64, memory int64) {
	return max(n.CPUs, 1), int64(float64(n.Memory) * memoryShare)
}

// List are all jobs, in the order in which they came.
func (d *Dispatch) List() (out []job.Progress, err error) {
	err = d.locked(func(t *job.Table) error { out = t.List(d.cfg.Now()); return nil })
	return out, err
}

// Show is one job.
func (d *Dispatch) Show(id string) (p job.Progress, err error) {
	err = d.locked(func(t *job.Table) error {
		var ok bool
		if p, ok = t.Progress(id, d.cfg.Now()); !ok {
			return &UnknownError{id}
		}
		return nil
	})
	return p, err
}

// Outcomes are a job and what is recorded of its tasks, by position.
func (d *Dispatch) Outcomes(id string) (j job.Job, list []job.Outcome, err error) {
	err = d.locked(func(t *job.Table) error {
		var recorded []job.Outcome
		var ok bool
		if j, recorded, ok = t.Job(id); !ok {
			return &UnknownError{id}
		}
		list = job.Sorted(recorded)
		return nil
	})
	return j, list, err
}

// Input is the input of one task, empty if the job has none.
func (d *Dispatch) Input(id string, pos int) string {
	input := ""
	_ = d.locked(func(t *job.Table) error {
		if in := t.Inputs(id); pos >= 0 && pos < len(in) {
			input = in[pos]
		}
		return nil
	})
	return input
}

// Cancel ends a job. Its tasks are killed.
func (d *Dispatch) Cancel(id, by string) error {
	return d.locked(func(t *job.Table) error {
		j, _, ok := t.Job(id)
		switch {
		case !ok:
			return &UnknownError{id}
		case !t.Cancel(id, "asked by operator "+by):
			return refuse("job %s has ended already: %s", id, j.State)
		}
		d.wakeLocked()
		return nil
	})
}

// Retry submits the failed tasks of a job as a new one, and those that have no outcome if it was cancelled.
func (d *Dispatch) Retry(ctx context.Context, id, by string) (job.Job, error) {
	var spec job.Spec
	var inputs []string
	err := d.locked(func(t *job.Table) error {
		j, recorded, ok := t.Job(id)
		if !ok {
			return &UnknownError{id}
		}
		if !j.State.Ended() {
			return refuse("job %s has not ended; what failed of it can be run again then", id)
		}
		well := make([]bool, j.Spec.Indices.Len())
		for _, o := range recorded {
			for p := o.From; p < o.To && o.OK(); p++ {
				well[p] = true
			}
		}
		var again []int
		for p, ok := range well {
			if !ok {
				again = append(again, p)
			}
		}
		if len(again) == 0 {
			return refuse("no task of job %s failed", id)
		}
		spec = j.Spec
		spec.Indices, spec.RetryOf, spec.After = spec.Indices.Select(again), id, nil
		if in := t.Inputs(id); in != nil {
			for _, p := range again {
				inputs = append(inputs, in[p])
			}
		}
		return nil
	})
	if err != nil {
		return job.Job{}, err
	}
	return d.Submit(ctx, spec, inputs, by)
}
