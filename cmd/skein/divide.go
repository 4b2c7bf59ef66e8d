package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/job"
)

// jobFlags are what all ways to submit a job have in common.
type jobFlags struct {
	spec   job.Spec
	memory string
	env    []string
	safety string
	shares []string
	detach bool
}

func (f *jobFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.spec.Image, "image", "", "the image that the command is in; may be left out if the cluster has only one")
	fl.StringVar(&f.spec.Name, "name", "", "what the job is called (default: after the command)")
	fl.IntVar(&f.spec.Retries, "retries", 0, "how often a task that failed is tried again")
	fl.DurationVar(&f.spec.Timeout, "timeout", 0, "kill a task that takes longer, and count it as failed (default: never)")
	fl.Float64Var(&f.spec.CPUs, "cpus", 1, "CPUs that a task takes of its node; 0.5 lets two share one")
	fl.StringVar(&f.memory, "memory", "", "memory that a task takes of its node, such as 512m; with --isolate it gets no more")
	fl.BoolVar(&f.spec.Isolate, "isolate", false, "a container of its own for each task: slower, and tasks cannot see one another")
	fl.BoolVar(&f.spec.Idempotent, "idempotent", false, "a task may run twice without harm: slow ones are run a second time elsewhere, and those of a lost node at once")
	fl.StringVar(&f.safety, "safety", string(cluster.SafetyLease), "what must be known of a lost node before its tasks run elsewhere: lease, that it has stopped them by itself; power, that it is off")
	fl.StringArrayVar(&f.shares, "shared", nil, "folder of a shared file system that tasks see: FOLDER:/PATH, FILESYSTEM/FOLDER:/PATH, with :ro to only read it")
	fl.StringSliceVar(&f.spec.After, "after", nil, "begin when these jobs have ended without a failure")
	fl.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE for the tasks' environment, or NAME to pass on your own")
	fl.StringVarP(&f.spec.WorkingDir, "workdir", "w", "", "folder in which the command runs")
	fl.StringVarP(&f.spec.User, "user", "u", "", "user that the command runs as (default: the image's)")
	fl.BoolVarP(&f.detach, "detach", "d", false, "print the job's name and do not wait")
	addOutputFlag(cmd)
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// submit completes the specification and hands it in.
func (f *jobFlags) submit(cmd *cobra.Command, command []string, inputs []string) error {
	if len(command) == 0 {
		return &usageError{errors.New("no command; give it after --")}
	}
	if _, err := wantsJSON(cmd); err != nil {
		return err
	}
	s := f.spec
	s.Command, s.Safety = command, cluster.Safety(f.safety)
	if s.Name == "" {
		s.Name = strings.Trim(notInNames.ReplaceAllString(strings.ToLower(path.Base(command[0])), "-"), "-")
		if s.Name = strings.Trim(s.Name[:min(len(s.Name), 20)], "-"); s.Name == "" {
			s.Name = "job"
		}
	}
	if f.memory != "" {
		n, err := parseBytes(f.memory)
		if err != nil {
			return &usageError{fmt.Errorf("--memory %q: %w", f.memory, err)}
		}
		s.Memory = n
	}
	for _, text := range f.shares {
		u, err := job.ParseShare(text)
		if err != nil {
			return &usageError{fmt.Errorf("--shared: %w", err)}
		}
		s.Shares = append(s.Shares, u)
	}
	for _, kv := range f.env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			v = os.Getenv(k)
		}
		if s.Env == nil {
			s.Env = map[string]string{}
		}
		s.Env[k] = v
	}
	if err := s.Check(); err != nil {
		return &usageError{err}
	}
	if err := s.CheckInputs(inputs); err != nil {
		return err
	}
	c, err := client(cmd)
	if err != nil {
		return err
	}
	j, err := c.Submit(cmd.Context(), api.Submission{Spec: s, Inputs: inputs})
	if err != nil {
		return err
	}
	return submitted(cmd, c, j, f.detach)
}

// parseBytes reads a size such as 512m or 2g, in powers of 1024 as Docker does.
func parseBytes(s string) (int64, error) {
	t := strings.TrimSuffix(strings.ToLower(s), "b")
	shift := 0
	if i := strings.IndexAny(t, "kmgt"); i >= 0 && i == len(t)-1 {
		shift = 10 * (strings.IndexByte("kmgt", t[i]) + 1)
		t = t[:i]
	}
	n, err := strconv.ParseInt(t, 10, 64)
	if err != nil || n < 1 || n > 1<<62>>shift {
		return 0, errors.New("it must be a size such as 512m or 2g")
	}
	return n << shift, nil
}

func runCommand() *cobra.Command {
	var f jobFlags
	cmd := &cobra.Command{
		Use: "run [--image IMAGE] -- COMMAND...", Short: "Run a command once, on the node that has most room", Args: cobra.ArbitraryArgs,
		Long:    "run runs a command on one of the nodes and prints what it writes. Its exit code is the command's.",
		Example: "  skein run --image tools:1 -- nightly-report --all",
		RunE: func(cmd *cobra.Command, args []string) error {
			f.spec.Indices = job.Indices{{First: 1, Last: 1}}
			return f.submit(cmd, args, nil)
		},
	}
	f.add(cmd)
	return cmd
}

func arrayCommand() *cobra.Command {
	var f jobFlags
	cmd := &cobra.Command{
		Use: "array FIRST-LAST[:STEP][,...][%MAX] --image IMAGE -- COMMAND...", Short: "Run a command for each of many numbers, divided over all nodes",
		Args: cobra.MinimumNArgs(1),
		Long: `array runs a command once for each index, at most MAX at the same time. {} in the command is replaced by the index,
which is also in the environment as SKEIN_INDEX. What tasks write is printed in the order of the indices.`,
		Example: "  skein array 1-10000 --image sim:3 -- ./sim --seed {}\n  skein array 0-95:5%20 --image tools:1 -- render --frame {}",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if f.spec.Indices, f.spec.Limit, err = job.ParseIndices(args[0]); err != nil {
				return &usageError{err}
			}
			return f.submit(cmd, args[1:], nil)
		},
	}
	f.add(cmd)
	return cmd
}

func mapCommand() *cobra.Command {
	var f jobFlags
	var files []string
	var limit int
	cmd := &cobra.Command{
		Use: "map INPUT... --image IMAGE -- COMMAND...", Short: "Run a command for each of many inputs, divided over all nodes", Args: cobra.ArbitraryArgs,
		Long: `map runs a command once for each input: a word, a name of a file, a line. {} in the command is replaced by it; {.} by it
without its extension, {/} by its base name, {//} by its folder, {/.} by the base name without extension, {#} by its
number. Without any of these it becomes the last argument. It is in the environment, too, as SKEIN_INPUT.

Inputs are given as arguments, or as lines of a file with -a, or as lines of the standard input with - . A pattern that your
shell did not expand is. What tasks write is printed in the order of the inputs.`,
		Example: "  skein map photos/*.raw --image tools:1 -- convert {} out/{/.}.png\n  find . -name '*.log' | skein map - --image tools:1 -- summarise {}",
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if dash < 0 {
				return &usageError{errors.New("no command; give it after --")}
			}
			inputs, err := readInputs(cmd.InOrStdin(), args[:dash], files)
			if err != nil {
				return err
			}
			f.spec.Mapped, f.spec.Limit = true, limit
			f.spec.Indices = job.Indices{{First: 1, Last: int64(len(inputs))}}
			return f.submit(cmd, args[dash:], inputs)
		},
	}
	f.add(cmd)
	cmd.Flags().StringArrayVarP(&files, "arg-file", "a", nil, "take each line of this file as an input")
	cmd.Flags().IntVarP(&limit, "limit", "j", 0, "how many tasks may run at the same time (default: as many as there is room for)")
	return cmd
}

// readInputs are the inputs that the arguments name, in their order, and then the lines of files.
func readInputs(stdin io.Reader, args, files []string) ([]string, error) {
	var out []string
	lines := func(r io.Reader, name string) error {
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, job.MaxInput)
		for n := 1; sc.Scan(); n++ {
			if l := strings.TrimSuffix(sc.Text(), "\r"); l != "" {
				out = append(out, l)
			}
		}
		if err := sc.Err(); err != nil {
			return fmt.Errorf("inputs in %s: %w", name, err)
		}
		return nil
	}
	for _, a := range args {
		if a == "-" {
			if err := lines(stdin, "the standard input"); err != nil {
				return nil, err
			}
			continue
		}
		if strings.ContainsAny(a, "*?[") {
			if _, err := os.Lstat(a); err != nil {
				found, err := filepath.Glob(a)
				if err != nil {
					return nil, &usageError{fmt.Errorf("pattern %q: %w", a, err)}
				}
				if len(found) == 0 {
					return nil, fmt.Errorf("no file is like %q", a)
				}
				out = append(out, found...)
				continue
			}
		}
		out = append(out, a)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		err = lines(f, name)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, &usageError{errors.New("there is no input")}
	}
	return out, nil
}

// attend prints a job's output as it comes and its progress, and gives its exit code. If it is interrupted it cancels the job,
// if that is one's own.
func attend(cmd *cobra.Command, c *api.Client, id string, own bool) error {
	ctx, out, errOut := cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	asJSON, err := wantsJSON(cmd)
	if err != nil {
		return err
	}
	bar := newBar(errOut)
	printed := make(chan error, 1)
	// Another client: a connection serves one question at a time, and the node that is asked may be another.
	streams := &api.Client{Endpoints: c.Endpoints, HTTP: c.HTTP, AttemptTimeout: c.AttemptTimeout}
	code := 0
	go func() {
		printed <- follow(ctx, streams, id, func(t api.TaskOutput) error {
			if !t.OK {
				code = failureCode(t.How)
			}
			if asJSON {
				return nil
			}
			bar.clear()
			return printTask(&t, out, errOut)
		})
	}()
	d, err := awaitJob(ctx, c, id, bar)
	if err != nil {
		if ctx.Err() != nil && own {
			tctx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer done()
			bar.clear()
			if _, err := c.JobAction(tctx, id, "cancel"); err == nil {
				fmt.Fprintf(errOut, "skein: job %s is cancelled; with --detach it would go on\n", id)
			}
		}
		return err
	}
	if err := <-printed; err != nil {
		return err
	}
	bar.clear()
	if asJSON {
		if err := show(cmd, d, nil); err != nil {
			return err
		}
	} else if n := d.Spec.Indices.Len(); n > 1 || d.State != job.Done {
		summary(errOut, &d)
	}
	switch {
	case d.State == job.Done:
		return nil
	case cmd.Name() == "run" && code > 0: // of one command: its exit code
		return &exitError{code}
	default:
		return &exitError{exitFailed}
	}
}

// failureCode is the exit code of a task that failed, from how it is told to have failed.
func failureCode(how string) int {
	if text, ok := strings.CutPrefix(how, "exit code "); ok {
		if n, err := strconv.Atoi(text); err == nil {
			return n
		}
	}
	return exitFailed
}

// follow calls fn for the output of each task until all have ended, whatever becomes of the node that is asked.
func follow(ctx context.Context, c *api.Client, id string, fn func(api.TaskOutput) error) error {
	next := int32(0)
	var stopped error
	for failures := 0; ; {
		err := c.JobOutput(ctx, id, next, "", func(t api.TaskOutput) error {
			next, failures = t.Pos+1, 0
			stopped = fn(t)
			return stopped
		})
		if stopped != nil || ctx.Err() != nil {
			return errors.Join(stopped, ctx.Err())
		}
		if err == nil {
			if d, err := c.Job(ctx, id, false); err == nil && d.State.Ended() {
				return nil
			}
		} else if failures++; failures > 60 {
			return fmt.Errorf("output of job %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// awaitJob asks for a job until it has ended.
func awaitJob(ctx context.Context, c *api.Client, id string, bar *bar) (api.JobDetail, error) {
	var unheard time.Time
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		d, err := c.Job(ctx, id, false)
		var refused *api.ResponseError
		switch {
		case err == nil:
			unheard = time.Time{}
			if d.State.Ended() {
				return c.Job(ctx, id, true)
			}
			bar.draw(&d.Progress)
		case ctx.Err() != nil:
			return d, ctx.Err()
		case errors.As(err, &refused) && refused.Status == 404:
			return d, err
		case unheard.IsZero():
			unheard = time.Now()
		case time.Since(unheard) > time.Minute:
			return d, err
		}
		select {
		case <-ctx.Done():
			return d, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func summary(w io.Writer, d *api.JobDetail) {
	took := d.Ended.Sub(d.Submitted)
	fmt.Fprintf(w, "%s: %d of %d tasks done", d.ID, d.OK, d.Spec.Indices.Len())
	if d.Bad > 0 {
		fmt.Fprintf(w, ", %d failed", d.Bad)
	}
	if took > 0 {
		fmt.Fprintf(w, ", in %s, %.3g a second", took.Round(10*time.Millisecond), float64(d.OK+d.Bad)/took.Seconds())
	}
	fmt.Fprintln(w)
	if d.State == job.Cancelled {
		fmt.Fprintf(w, "it was cancelled: %s\n", d.Reason)
	}
	if len(d.Failures) > 0 {
		t := newTable(w)
		drawFailures(t, d, 10)
		t.w.Flush()
		fmt.Fprintf(w, "run these again: skein job retry %s\n", d.ID)
	}
}
