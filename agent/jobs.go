package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/balance"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
	"github.com/skein-os/skein/agent/job"
	"github.com/skein-os/skein/agent/job/dispatch"
	"github.com/skein-os/skein/agent/job/execute"
)

// jobs are both halves of running jobs on this node: every node runs tasks, and the coordinator gives them out.
type jobs struct {
	*dispatch.Dispatch
	p      *parts
	output *execute.Output
	runner *execute.Runner
}

var _ api.Jobs = (*jobs)(nil)

const (
	// A node keeps this much of the output of one job, and of all jobs, in bytes: it is in memory.
	outputOfJob = 32 << 20
	outputOfAll = 96 << 20
	// jobPids is how many processes and threads all jobs of a node may have.
	jobPids = 16384
)

// openJobs makes this node's part in jobs. What an earlier agent ran of them is killed first: only then may this life of the
// node ask for tasks.
func (p *parts) openJobs() (*jobs, error) {
	self := &cluster.Node{CPUs: p.a.id.CPUs, Memory: p.a.id.Memory}
	cpus, memory := dispatch.Capacity(self)
	if err := p.runtime.OpenJobs(container.JobLimits{Memory: memory, Pids: jobPids}); err != nil {
		return nil, err
	}
	j := &jobs{p: p}
	var err error
	if j.output, err = execute.OpenOutput(p.a.path("joboutput"), outputOfJob, outputOfAll); err != nil {
		return nil, err
	}
	log := p.a.log.With("part", "jobs")
	j.Dispatch = dispatch.New(dispatch.Config{
		Self: p.a.id.Name, Ledger: p.store, State: p.state.Load, Leader: p.store.Leader, Changes: p.store.Changes, Now: balance.Now, Log: log,
	})
	j.runner = execute.New(execute.Config{
		Node: p.a.id.Name, Life: p.a.id.BootID + "." + rand.Text(), CPUs: cpus, Memory: memory,
		Ask: j.ask, Changes: p.store.Changes, Launch: j.launch, Output: j.output, Log: log,
	})
	return j, nil
}

// Output is what tasks wrote that ran here.
func (j *jobs) Output(id string, from, to int32, fn func(execute.Text) error) error {
	return j.output.Read(id, from, to, fn)
}

// run coordinates jobs when it is this node's turn.
func (j *jobs) coordinate(ctx context.Context) { j.Dispatch.Run(ctx) }

// execute runs tasks. A witness runs none.
func (j *jobs) execute(ctx context.Context) {
	if !j.p.a.id.Witness {
		j.runner.Run(ctx)
	}
}

// ask asks the coordinator for tasks.
func (j *jobs) ask(ctx context.Context, p *job.Pull) (job.Answer, error) {
	name := j.p.store.Coordinator()
	if name == j.p.a.id.Name {
		return j.Pull(ctx, p)
	}
	n := j.p.state.Load().Node(name)
	if n == nil {
		return job.Answer{}, errors.New("there is no coordinator")
	}
	return api.PullJobs(ctx, j.p.peers.transport, j.p.peers.url(n), p)
}

// launch starts a container of the job's image with a worker in it.
func (j *jobs) launch(ctx context.Context, name string, jb *job.Job) (execute.Worker, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the worker's program: %w", err)
	}
	if err := (ensurer{j.p}).Ensure(ctx, jb.Spec.Image, jb.Spec.ImageDigest); err != nil {
		return nil, err
	}
	s := &jb.Spec
	svc := cluster.Service{Stack: "job", Name: strings.ToLower(jb.ID), Image: s.Image, ImageDigest: s.ImageDigest, Env: maps.Clone(s.Env), Hostname: j.p.a.id.Name,
		User: s.User, WorkingDir: s.WorkingDir, Tmpfs: []string{"/tmp"}, Shares: s.Shares}
	if svc.Env == nil {
		svc.Env = map[string]string{}
	}
	svc.Env["SKEIN_NODE"] = j.p.a.id.Name
	if s.Isolate {
		svc.Limits = cluster.Resources{CPUs: s.CPUs, Memory: s.Memory}
	}
	if err := (attached{j.p}).Attach(ctx, cluster.Instance{ID: name, Spec: svc}); err != nil {
		return nil, err
	}
	w, err := j.p.runtime.StartWorker(ctx, name, svc, program)
	if err != nil {
		return nil, err
	}
	return jobWorker{w}, nil
}

// jobWorker is a container as package execute sees it.
type jobWorker struct{ *container.Worker }

func (w jobWorker) In() io.Writer  { return w.Input }
func (w jobWorker) Out() io.Reader { return w.Worker.Output }
