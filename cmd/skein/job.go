package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/job"
)

func jobCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "job", Short: "Work that was divided over the nodes: what there is, what failed, what it wrote",
		Example: "  skein job ls\n  skein job show sim-x3k7q\n  skein job logs sim-x3k7q 17\n  skein job retry sim-x3k7q"}
	cmd.AddCommand(jobLsCommand(), jobShowCommand(), jobLogsCommand(), jobWaitCommand(), jobCancelCommand(), jobRetryCommand())
	return cmd
}

func jobLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Short: "List jobs, the newest last", Args: cobra.NoArgs, Example: "  skein job ls\n  skein job ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Jobs(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("JOB", "STATE", "TASKS", "DONE", "FAILED", "RUNNING", "AGE", "COMMAND")
				for i := range list {
					p := &list[i]
					state := string(p.State)
					if p.Blocked != "" && !p.State.Ended() {
						state += " (" + p.Blocked + ")"
					}
					t.row(p.ID, state, p.Spec.Indices.Len(), p.OK, p.Bad, p.Held, age(p.Submitted), short(strings.Join(p.Spec.Command, " "), 40))
				}
			})
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func age(since time.Time) string { return time.Since(since).Round(time.Second).String() }

func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func jobShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show JOB", Short: "One job: how far it is, and what failed", Args: cobra.ExactArgs(1), Example: "  skein job show sim-x3k7q",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			d, err := c.Job(cmd.Context(), args[0], true)
			if err != nil {
				return err
			}
			return show(cmd, d, func(t *table) { drawJob(t, &d) })
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func drawJob(t *table, d *api.JobDetail) {
	s := &d.Spec
	t.row("job", d.ID)
	t.row("state", d.State)
	if d.Blocked != "" {
		t.row("", d.Blocked)
	} else if d.Reason != "" {
		t.row("", d.Reason)
	}
	t.row("tasks", fmt.Sprintf("%d: %d done, %d failed, %d with nodes, %d waiting", s.Indices.Len(), d.OK, d.Bad, d.Held, d.Left))
	t.row("indices", short(s.Indices.String(), 60))
	t.row("image", s.Image)
	t.row("command", strings.Join(s.Command, " "))
	if d.Mean > 0 {
		t.row("a task takes", d.Mean.Round(10*time.Microsecond))
	}
	t.row("submitted", fmt.Sprintf("%s by %s", d.Submitted.Local().Format(time.DateTime), d.By))
	if !d.Ended.IsZero() {
		t.row("ended", fmt.Sprintf("%s, after %s", d.Ended.Local().Format(time.DateTime), d.Ended.Sub(d.Submitted).Round(10*time.Millisecond)))
	}
	if s.RetryOf != "" {
		t.row("runs again", "what failed of "+s.RetryOf)
	}
	drawFailures(t, d, len(d.Failures))
}

func drawFailures(t *table, d *api.JobDetail, most int) {
	if len(d.Failures) == 0 {
		return
	}
	t.blank()
	t.row("TASK", "INPUT", "NODE", "TRIES", "HOW IT FAILED")
	for _, f := range d.Failures[:min(most, len(d.Failures))] {
		t.row(f.Index, orDash(short(f.Input, 50)), orDash(f.Node), f.Tries, f.How)
	}
	if more := d.More + len(d.Failures) - min(most, len(d.Failures)); more > 0 {
		t.row(fmt.Sprintf("and %d more", more))
	}
}

func jobLogsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logs JOB [INDEX]", Short: "Print what the tasks of a job wrote, by index, as they end", Args: cobra.RangeArgs(1, 2),
		Example: "  skein job logs sim-x3k7q\n  skein job logs sim-x3k7q 17",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			only := ""
			if len(args) == 2 {
				only = args[1]
			}
			return c.JobOutput(cmd.Context(), args[0], 0, only, func(t api.TaskOutput) error {
				return printTask(&t, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
}

// printTask prints what a task wrote, each stream to its own.
func printTask(t *api.TaskOutput, stdout, stderr io.Writer) error {
	_, err := stdout.Write(t.Stdout)
	_, err2 := stderr.Write(t.Stderr)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	switch {
	case t.Lost != "":
		fmt.Fprintf(stderr, "skein: task %d: %s\n", t.Index, t.Lost)
	case t.Dropped > 0:
		fmt.Fprintf(stderr, "skein: task %d: it wrote more than is kept; %d bytes are missing\n", t.Index, t.Dropped)
	}
	if t.How != "" {
		fmt.Fprintf(stderr, "skein: task %d failed on %s: %s\n", t.Index, orDash(t.Node), t.How)
	}
	return nil
}

func jobWaitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "wait JOB", Short: "Wait for a job as if it had just been submitted: its output, its progress, its exit code", Args: cobra.ExactArgs(1),
		Example: "  skein job wait sim-x3k7q",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return attend(cmd, c, args[0], false)
		},
	}
	addOutputFlag(cmd)
	return cmd
}

func jobCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cancel JOB...", Short: "End a job: its tasks are killed, and none begins any more", Args: cobra.MinimumNArgs(1),
		Example: "  skein job cancel sim-x3k7q",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			for _, id := range args {
				if _, err := c.JobAction(cmd.Context(), id, "cancel"); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "cancelled: %s\n", id)
			}
			return nil
		},
	}
}

func jobRetryCommand() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use: "retry JOB", Short: "Run again what failed of a job, as a new job", Args: cobra.ExactArgs(1),
		Long: `retry submits the tasks of a job that failed as a new job, with the same indices and inputs. Of a job that was
cancelled it takes those that have not ended well.`,
		Example: "  skein job retry sim-x3k7q",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			j, err := c.JobAction(cmd.Context(), args[0], "retry")
			if err != nil {
				return err
			}
			return submitted(cmd, c, j, detach)
		},
	}
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "print the job's name and do not wait")
	addOutputFlag(cmd)
	return cmd
}

// submitted goes on after a job was submitted.
func submitted(cmd *cobra.Command, c *api.Client, j job.Job, detach bool) error {
	if detach {
		asJSON, err := wantsJSON(cmd)
		if err == nil && asJSON {
			return show(cmd, j, nil)
		}
		fmt.Fprintln(cmd.OutOrStdout(), j.ID)
		return err
	}
	return attend(cmd, c, j.ID, true)
}
