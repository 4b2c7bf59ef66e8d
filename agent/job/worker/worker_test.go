package worker

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/job"
)

// TestMain lets the test binary be a worker.
func TestMain(m *testing.M) {
	if os.Getenv("BE_WORKER") != "" {
		os.Unsetenv("BE_WORKER")
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

func open(t *testing.T, spec job.Spec) (*Conn, func()) {
	t.Helper()
	if spec.Indices == nil {
		spec.Indices = job.Indices{{First: 1, Last: 100}}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BE_WORKER=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := Open(in, out, Setup{Job: "test-1", Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	stop := func() { in.Close(); cmd.Wait() }
	t.Cleanup(stop)
	return c, stop
}

func one(t *testing.T, c *Conn, index int64, input string) End {
	t.Helper()
	if err := c.Run(int32(index-1), index, input); err != nil {
		t.Fatal(err)
	}
	e, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestTasks(t *testing.T) {
	for _, tc := range []struct {
		name    string
		command []string
		spec    job.Spec
		end     job.End
		code    int
		stdout  string
		stderr  string
	}{
		{name: "well", command: []string{"echo", "number", "{}"}, stdout: "number 7\n"},
		{name: "code", command: []string{"sh", "-c", "echo oh >&2; exit 3"}, code: 3, stderr: "oh\n"},
		{name: "environment", command: []string{"sh", "-c", "echo $SKEIN_JOB $SKEIN_INDEX of $SKEIN_TASKS"}, stdout: "test-1 7 of 100\n"},
		{name: "signal", command: []string{"sh", "-c", "kill -TERM $$"}, end: job.Signalled, code: 15},
		{name: "no command", command: []string{"no-such-command"}, end: job.NotStarted, code: 127, stderr: "no-such-command: executable file not found in $PATH\n"},
		{name: "not a program", command: []string{"/etc/passwd"}, end: job.NotStarted, code: 127, stderr: "/etc/passwd: permission denied\n"},
		{name: "timeout", command: []string{"sleep", "600"}, spec: job.Spec{Timeout: 20 * time.Millisecond}, end: job.TimedOut},
		{name: "input", command: []string{"echo", "{/.}"}, spec: job.Spec{Mapped: true}, stdout: "b\n"},
		{name: "no standard input", command: []string{"cat"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.spec.Command = tc.command
			c, _ := open(t, tc.spec)
			e := one(t, c, 7, "a/b.raw")
			if e.Pos != 6 || e.End != tc.end || e.Code != tc.code || string(e.Stdout) != tc.stdout || string(e.Stderr) != tc.stderr {
				t.Errorf("got %d %s %d %q %q, want %s %d %q %q", e.Pos, e.End, e.Code, e.Stdout, e.Stderr, tc.end, tc.code, tc.stdout, tc.stderr)
			}
		})
	}
}

// Output is kept up to a bound, and a task that writes more is not held up.
func TestFlood(t *testing.T) {
	c, _ := open(t, job.Spec{Command: []string{"sh", "-c", "head -c 3000000 /dev/zero; echo done >&2"}})
	e := one(t, c, 1, "")
	if len(e.Stdout) != MaxOutput || e.Dropped != 3000000-MaxOutput || string(e.Stderr) != "done\n" || !e.OK() {
		t.Errorf("got %d bytes, %d dropped, %q, %v", len(e.Stdout), e.Dropped, e.Stderr, e.Result)
	}
}

// What a task leaves behind ends with it if it is in its group; it holds nothing up in any case.
func TestLeftovers(t *testing.T) {
	c, stop := open(t, job.Spec{Command: []string{"sh", "-c", "sleep 1000 & setsid sleep 1001 & echo $!; echo x; exit"}})
	begin := time.Now()
	e := one(t, c, 1, "")
	if !e.OK() || !strings.HasSuffix(string(e.Stdout), "x\n") || time.Since(begin) > 30*time.Second {
		t.Errorf("got %v %q after %v", e.Result, e.Stdout, time.Since(begin))
	}
	left, err := strconv.Atoi(strings.Fields(string(e.Stdout))[0])
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(left, syscall.SIGKILL)
	if e := one(t, c, 2, ""); !e.OK() {
		t.Errorf("the next task: %v", e.Result)
	}
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Fatal("the worker waits for what its tasks left behind")
	}
}

func TestManyAtOnceAndKill(t *testing.T) {
	c, _ := open(t, job.Spec{Command: []string{"sh", "-c", "test {} = 50 && exec sleep 1000; exit 0"}})
	for i := range 100 {
		if err := c.Run(int32(i), int64(i+1), ""); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[int32]bool{}
	for len(seen) < 100 {
		if len(seen) == 99 {
			if err := c.Kill(49); err != nil {
				t.Fatal(err)
			}
		}
		e, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if want := (e.Pos == 49); seen[e.Pos] || (e.End == job.Signalled) != want {
			t.Fatalf("got %+v", e.Result)
		}
		seen[e.Pos] = true
	}
}

func FuzzFrames(f *testing.F) {
	var b bytes.Buffer
	_ = writeEnd(&b, End{Result: job.Result{Pos: 3, Code: 1}, Stdout: []byte("a"), Stderr: []byte("b")})
	f.Add(b.Bytes())
	f.Add([]byte("E\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &Conn{r: newReader(data)}
		for {
			e, err := c.Next()
			if err != nil {
				return
			}
			var b bytes.Buffer
			if err := writeEnd(&b, e); err != nil {
				t.Fatal(err)
			}
			_, pos, p, _ := readFrame(&b)
			if again, err := parseEnd(pos, p); err != nil || fmt.Sprint(again) != fmt.Sprint(e) {
				t.Fatalf("got %v, %v, want %v", again, err, e)
			}
		}
	})
}

func newReader(data []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(data)) }
