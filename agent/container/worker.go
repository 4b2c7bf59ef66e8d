package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/skein-os/skein/agent/cluster"
)

// This file runs containers of jobs. They are no instances: a job's container belongs to the agent that made it, talks
// with it over its standard input and output, and is killed by the next agent.

// JobsGroup is the cgroup of all jobs' containers, below Config.Cgroup. What runs there gives way to services.
const JobsGroup = "skein.jobs"

// WorkerPath is where a worker's program is in its container.
const WorkerPath = "/.skein/skein-worker"

// JobLimits bound what all jobs of a node may take together.
type JobLimits struct {
	Memory int64 // bytes; 0: no limit
	Pids   int64
}

// jobWeight is the share of CPU and disk of all jobs together, beside 100 of each service: jobs use what is left.
const jobWeight = 5

// OpenJobs makes the cgroup of jobs, and kills what an earlier agent left in it. Call it before StartWorker.
func (r *Runtime) OpenJobs(limits JobLimits) error {
	if r.cfg.Cgroup == "" {
		return nil
	}
	dir := filepath.Join(cgroupMount, r.cfg.Cgroup, JobsGroup)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cgroup of jobs: %w", err)
	}
	if err := killGroup(dir); err != nil {
		return fmt.Errorf("jobs of an earlier agent: %w", err)
	}
	var errs []error
	set := func(file, value string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
			errs = append(errs, err)
		}
	}
	for _, c := range []string{"cpu", "memory", "pids", "io"} {
		set("cgroup.subtree_control", "+"+c)
	}
	set("cpu.weight", strconv.Itoa(jobWeight))
	set("pids.max", strconv.FormatInt(limits.Pids, 10))
	if limits.Memory > 0 {
		set("memory.max", strconv.FormatInt(limits.Memory, 10))
	}
	if err := os.WriteFile(filepath.Join(dir, "io.weight"), []byte(strconv.Itoa(jobWeight)), 0); err != nil {
		r.cfg.Log.Debug("this kernel weighs no disk access", "err", err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("limits of jobs: %w", err)
	}
	return nil
}

// killGroup kills all in a cgroup and waits until they are gone.
func killGroup(dir string) error {
	for end := time.Now().Add(removeTimeout); ; {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil || !strings.Contains(string(data), "populated 1") {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes in %s are still there %s after they were killed", dir, removeTimeout)
		}
		time.Sleep(2 * time.Millisecond) // cgroup.events tells no sooner
	}
}

// Worker is a container whose program is the agent's, among the files of an image.
type Worker struct {
	// Input and Output are its program's standard input and output.
	Input, Output *os.File

	r     *Runtime
	b     *box
	close func() error
}

// StartWorker makes a container from a specification whose entrypoint is program, a static executable of this node, with
// its standard input and output in the agent's hand. It is not restarted, no instance, and ends with Close.
func (r *Runtime) StartWorker(ctx context.Context, name string, svc cluster.Service, program string) (*Worker, error) {
	if !validID.MatchString(name) {
		return nil, fmt.Errorf("start worker %q: the name has other characters than letters, digits, _, . and -", name)
	}
	r.mu.Lock()
	b, err := r.reserve(name)
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	w := &Worker{r: r, b: b}
	w.close = sync.OnceValue(w.remove)
	if err := w.start(ctx, svc, program); err != nil {
		return nil, errors.Join(fmt.Errorf("start worker %s: %w", name, full(r.cfg.Root, err)), w.Close())
	}
	return w, nil
}

func (w *Worker) start(ctx context.Context, svc cluster.Service, program string) error {
	r, name := w.r, w.b.Name
	// No ID: a later agent takes the record for that of a container that was cut short, and removes it.
	in := cluster.Instance{Stack: svc.Stack, Service: svc.Name, Slot: 1, Spec: svc}
	in.Spec.Entrypoint, in.Spec.Command = []string{WorkerPath}, nil
	root, err := r.prepare(ctx, &w.b.record, in, true)
	if err != nil {
		return err
	}
	if err := r.bundle(name, in, root, w.b.Address); err != nil {
		return err
	}
	if err := r.forJob(name, program); err != nil {
		return err
	}
	theirIn, ourIn, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirIn.Close()
	w.Input = ourIn
	ourOut, theirOut, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirOut.Close()
	w.Output = ourOut
	log, err := os.OpenFile(r.dir(name, "log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	errs, err := r.crun.messages()
	if err != nil {
		return err
	}
	defer errs.remove()
	args := []string{"run", "--detach", "--no-new-keyring", "--bundle=" + r.dir(name)}
	if r.cfg.NoPivot {
		args = append(args, "--no-pivot")
	}
	cmd := r.crun.command(ctx, errs.Name(), append(args, name)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirIn, theirOut, log
	if err := runPrecise(cmd); err != nil {
		return errs.explain("crun run", err)
	}
	return nil
}

// forJob changes a bundle into one of a worker: its program, its place among the cgroups, first to be killed when memory
// is short.
func (r *Runtime) forJob(name, program string) error {
	file := r.dir(name, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	m := bind(program, WorkerPath)
	for i, o := range m.Options {
		if o == "noexec" {
			m.Options[i] = "exec"
		}
	}
	s.Mounts = append(s.Mounts, m)
	if r.cfg.Cgroup != "" {
		s.Linux.CgroupsPath = r.cgroupOf(name)
	}
	first := 800
	s.Process.OOMScoreAdj = &first
	if data, err = json.Marshal(s); err != nil {
		return err
	}
	return writeFile(file, data, 0o600)
}

func (r *Runtime) cgroupOf(worker string) string {
	return filepath.Join(r.cfg.Cgroup, JobsGroup, worker)
}

// holds tells whether this agent has a container of that name.
func (r *Runtime) holds(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, holder := range r.alloc.used {
		if holder == name {
			return true
		}
	}
	return false
}

// Log is what the program wrote to its standard error, the last few kilobytes.
func (w *Worker) Log() string {
	data, err := os.ReadFile(w.r.dir(w.b.Name, "log"))
	if err != nil {
		return ""
	}
	return string(data[max(0, len(data)-4096):])
}

// Close kills all in the container, waits until it is gone and removes what there is of it. It may be called again.
func (w *Worker) Close() error { return w.close() }

func (w *Worker) remove() error {
	for _, f := range []*os.File{w.Input, w.Output} {
		if f != nil {
			f.Close()
		}
	}
	var err error
	if w.r.cfg.Cgroup != "" {
		err = killGroup(filepath.Join(cgroupMount, w.r.cgroupOf(w.b.Name)))
	}
	return errors.Join(err, w.r.discard(w.b))
}
