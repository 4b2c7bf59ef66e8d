package job

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/skein-os/skein/agent/cluster"
)

// Spec is what somebody wants done.
type Spec struct {
	Name        string            `json:"name"` // for people, and the beginning of the job's ID
	Image       string            `json:"image"`
	ImageDigest string            `json:"image_digest,omitempty"` // resolved when it is submitted
	Command     []string          `json:"command"`                // see Argv for what is replaced in it
	Env         map[string]string `json:"env,omitempty"`
	WorkingDir  string            `json:"working_dir,omitempty"`
	User        string            `json:"user,omitempty"`

	Indices Indices `json:"indices"`
	// Mapped: each task has an input, a line of text; they are records of their own (Input).
	Mapped bool `json:"mapped,omitempty"`

	Limit   int           `json:"limit,omitempty"`   // tasks that may run at once in the whole cluster; 0: no limit
	Retries int           `json:"retries,omitempty"` // how often a task that failed is tried again
	Timeout time.Duration `json:"timeout,omitempty"` // of one task, ns; 0: none
	CPUs    float64       `json:"cpus,omitempty"`    // a task's share of its node, 1 by default
	Memory  int64         `json:"memory_bytes,omitempty"`
	// Isolate gives each task a container of its own. Otherwise the tasks of a job on one node are processes in one
	// container, which takes some hundred times less.
	Isolate bool `json:"isolate,omitempty"`
	// Shares are folders of shared file systems that tasks see, on whatever node.
	Shares []cluster.SharedUse `json:"shares,omitempty"`
	// Idempotent: no harm is done if a task runs twice, also at the same time. Then stragglers are run a second time
	// elsewhere, and what a lost node held is given out at once.
	Idempotent bool `json:"idempotent,omitempty"`
	// Safety is the proof that is needed of a lost node before what it held is given out again. SafetyLease (default):
	// that a node which cannot be heard has killed its tasks by itself, which takes Tether. SafetyPower: its power is off, read
	// back, or it has rebooted, or an operator says so.
	Safety cluster.Safety `json:"safety,omitempty"`
	After  []string       `json:"after,omitempty"` // jobs that must have ended well before this one begins
	// RetryOf is the job whose failed tasks this one runs again.
	RetryOf string `json:"retry_of,omitempty"`
}

// Bounds of what a job may be, beside those of its indices. A job's record is one value in the ledger.
const (
	maxCommand = 256 << 10 // bytes of all arguments
	maxEnv     = 64 << 10
	maxRetries = 100
	maxAfter   = 64
	maxShares  = 16
	// MaxInput is the length of one input, MaxInputs that of all, in bytes. They are in the ledger, beside all else.
	MaxInput  = 64 << 10
	MaxInputs = 32 << 20
)

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Check refuses what cannot be run.
func (s *Spec) Check() error {
	if !validName.MatchString(s.Name) {
		return fmt.Errorf("job name %q: it must be lower-case letters, digits and dashes, at most 32", s.Name)
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return errors.New("the job has no command; give it after --")
	}
	size := 0
	for _, a := range s.Command {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("command %q: an argument holds a zero byte", s.Command[0])
		}
		size += len(a)
	}
	if size > maxCommand {
		return fmt.Errorf("command %q: its arguments are %d bytes, at most %d can be kept; put a script into the image", s.Command[0], size, maxCommand)
	}
	size = 0
	for k, v := range s.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return fmt.Errorf("environment variable %q: its name is empty or has a = in it, or it holds a zero byte", k)
		}
		size += len(k) + len(v)
	}
	if size > maxEnv {
		return fmt.Errorf("the environment is %d bytes, at most %d can be kept", size, maxEnv)
	}
	if err := s.Indices.Check(); err != nil {
		return err
	}
	switch {
	case s.Limit < 0:
		return fmt.Errorf("%d tasks at once: it must be 1 or more", s.Limit)
	case s.Retries < 0 || s.Retries > maxRetries:
		return fmt.Errorf("%d retries: it must be 0 to %d", s.Retries, maxRetries)
	case s.Timeout < 0:
		return fmt.Errorf("timeout %s: it must not be negative", s.Timeout)
	case s.CPUs < 0 || s.CPUs > 4096 || s.CPUs != s.CPUs || s.Memory < 0:
		return fmt.Errorf("%g CPUs and %d bytes of memory for a task: neither may be negative", s.CPUs, s.Memory)
	case s.Safety != "" && s.Safety != cluster.SafetyLease && s.Safety != cluster.SafetyPower:
		return fmt.Errorf("safety %q: it must be %s or %s", s.Safety, cluster.SafetyLease, cluster.SafetyPower)
	case len(s.Shares) > maxShares:
		return fmt.Errorf("%d folders of shared file systems, at most %d are possible", len(s.Shares), maxShares)
	case len(s.After) > maxAfter:
		return fmt.Errorf("it waits for %d jobs, at most %d are possible", len(s.After), maxAfter)
	}
	return nil
}

// CheckInputs refuses inputs that cannot be kept or do not fit the indices.
func (s *Spec) CheckInputs(inputs []string) error {
	if !s.Mapped {
		if len(inputs) > 0 {
			return fmt.Errorf("there are %d inputs for a job that has none", len(inputs))
		}
		return nil
	}
	if len(inputs) != s.Indices.Len() {
		return fmt.Errorf("there are %d inputs for %d tasks", len(inputs), s.Indices.Len())
	}
	size := 0
	for i, in := range inputs {
		if len(in) > MaxInput || strings.ContainsRune(in, 0) || !utf8.ValidString(in) {
			return fmt.Errorf("input %d: it is longer than %d bytes, or is not UTF-8 text, or holds a zero byte", i+1, MaxInput)
		}
		size += len(in)
	}
	if size > MaxInputs {
		return fmt.Errorf("the inputs are %d bytes, at most %d can be kept; put them into a file that the tasks read", size, MaxInputs)
	}
	return nil
}

// ParseShare reads "FOLDER:TARGET", "FILESYSTEM/FOLDER:TARGET" and with ":ro" at the end that tasks may only read it.
func ParseShare(text string) (u cluster.SharedUse, err error) {
	from, target, ok := strings.Cut(text, ":")
	if t, ro := strings.CutSuffix(target, ":ro"); ro {
		target, u.ReadOnly = t, true
	}
	name, folder, named := strings.Cut(from, "/")
	if !named {
		name, folder = "", from
	}
	u.Name, u.Folder, u.Target = name, folder, target
	if !ok || folder == "" || named && name == "" || strings.Contains(folder, "/") || !path.IsAbs(target) || strings.Contains(target, ":") {
		return cluster.SharedUse{}, fmt.Errorf("%q is not FOLDER:/PATH or FILESYSTEM/FOLDER:/PATH, with :ro at the end or without", text)
	}
	return u, nil
}

// Argv is a task's command. In each argument {} is replaced by the input, or by the index if there are none; {#}
// by the index; {.} {/} {//} {/.} by the input without extension, its base name, its folder, its base name without
// extension, as GNU parallel has them. A job with inputs whose command has none of these gets the input as last argument.
func (s *Spec) Argv(index int64, input string) []string {
	number := strconv.FormatInt(index, 10)
	if !s.Mapped {
		input = number
	}
	bare := strings.TrimSuffix(input, path.Ext(input))
	r := strings.NewReplacer("{}", input, "{#}", number, "{.}", bare, "{/}", path.Base(input), "{//}", path.Dir(input), "{/.}", path.Base(bare))
	out := make([]string, 0, len(s.Command)+1)
	used := false
	for _, a := range s.Command {
		b := a
		if strings.Contains(a, "{") {
			b = r.Replace(a)
		}
		used = used || b != a || strings.Contains(a, "{}")
		out = append(out, b)
	}
	if s.Mapped && !used {
		out = append(out, input)
	}
	return out
}

// EventJob is the kind of events that tell of jobs.
const EventJob cluster.EventKind = "job"

// State of a job.
type State string

const (
	Waiting   State = "waiting"   // for other jobs (Spec.After)
	Running   State = "running"   // its tasks are given out
	Done      State = "done"      // all tasks ended well
	Failed    State = "failed"    // all tasks have an outcome, and some failed
	Cancelled State = "cancelled" // somebody cancelled it, or a job failed that it waited for
)

// Ended tells that nothing of it runs any more and nothing will.
func (s State) Ended() bool { return s == Done || s == Failed || s == Cancelled }

// Job is the record of a job in the ledger.
type Job struct {
	ID        string    `json:"id"`
	Spec      Spec      `json:"spec"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"` // why it waits or was cancelled
	By        string    `json:"by"`               // who submitted it
	Submitted time.Time `json:"submitted"`        // wall clock, for people
	Ended     time.Time `json:"ended,omitzero"`   // wall clock, for people
	OK        int       `json:"ok"`               // tasks that ended well, as of the end
	Bad       int       `json:"failed"`           // tasks that failed for good, as of the end

	Revision int64 `json:"-"`
}
