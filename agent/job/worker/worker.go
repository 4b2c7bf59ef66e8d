package worker

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/job"
)

// Name is what the program is called when it is to be a worker: the same binary as the agent under another name.
const Name = "skein-worker"

// Called tells whether a program was called as a worker.
func Called(args []string) bool { return len(args) > 0 && filepath.Base(args[0]) == Name }

// Main is the program. It returns its exit code.
func Main() int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "%s: wait for orphans: %v\n", Name, err)
		return 1
	}
	if err := Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
		return 1
	}
	return 0
}

// worker runs tasks until its input ends.
type worker struct {
	setup Setup
	env   []string
	null  *os.File

	mu      sync.Mutex
	started *sync.Cond // a child was started, or closed is set
	byPID   map[int]*task
	byPos   map[int32]*task
	queue   []order
	active  int // tasks that were begun and have not ended
	closed  bool

	ends chan End
	wg   sync.WaitGroup
}

// order is a task that was ordered and has not begun.
type order struct {
	pos   int32
	index int64
	input string
}

type task struct {
	pos     int32
	pid     int
	began   time.Time
	status  chan syscall.WaitStatus
	timer   *time.Timer
	expired bool
}

// Serve talks with the agent until in ends, and then kills what runs. It waits for all children of the process, so
// nothing else in the process may have any.
func Serve(in io.Reader, out io.Writer) error {
	r := bufio.NewReaderSize(in, 64<<10)
	kind, _, payload, err := readFrame(r)
	if err != nil || kind != frameSetup {
		return fmt.Errorf("the first frame is no setup: %w", errors.Join(err, fmt.Errorf("kind %q", kind)))
	}
	w := &worker{byPID: map[int]*task{}, byPos: map[int32]*task{}, ends: make(chan End, 256)}
	w.started = sync.NewCond(&w.mu)
	if err := json.Unmarshal(payload, &w.setup); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	if w.env = w.setup.Env; w.env == nil {
		w.env = os.Environ()
	}
	w.env = append(w.env[:len(w.env):len(w.env)], "SKEIN_JOB="+w.setup.Job, "SKEIN_TASKS="+strconv.Itoa(w.setup.Spec.Indices.Len()))
	if w.null, err = os.Open(os.DevNull); err != nil {
		return err
	}
	defer w.null.Close()
	wrote := make(chan error, 1)
	go w.reap() // ends with the process: what left its group may outlive the tasks
	go func() { wrote <- w.write(out) }()
	err = w.read(r)
	w.mu.Lock()
	w.closed = true
	for _, t := range w.byPID {
		_ = unix.Kill(-t.pid, unix.SIGKILL)
	}
	w.started.Broadcast()
	w.mu.Unlock()
	w.wg.Wait()
	close(w.ends)
	return errors.Join(err, <-wrote)
}

func (w *worker) read(r io.Reader) error {
	for {
		kind, pos, payload, err := readFrame(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case kind == frameRun && len(payload) >= 8:
			w.mu.Lock()
			w.queue = append(w.queue, order{pos, int64(binary.BigEndian.Uint64(payload)), string(payload[8:])})
			w.mu.Unlock()
			w.pump()
		case kind == frameKill:
			w.mu.Lock()
			if t := w.byPos[pos]; t != nil {
				_ = unix.Kill(-t.pid, unix.SIGKILL)
			}
			w.queue = slices.DeleteFunc(w.queue, func(o order) bool { return o.pos == pos })
			w.mu.Unlock()
		default:
			return fmt.Errorf("a frame of kind %q with %d bytes makes no sense here", kind, len(payload))
		}
	}
}

// write sends ends as they come, many at once when they come fast.
func (w *worker) write(out io.Writer) error {
	b := bufio.NewWriterSize(out, 64<<10)
	var failed error
	for e := range w.ends {
		if failed != nil {
			continue // whoever ends must not wait for an agent that is gone
		}
		failed = writeEnd(b, e)
		if len(w.ends) == 0 && failed == nil {
			failed = b.Flush()
		}
	}
	return failed
}

// pump begins what waits, as far as there is room.
func (w *worker) pump() {
	for {
		w.mu.Lock()
		if len(w.queue) == 0 || w.closed || w.setup.Parallel > 0 && w.active >= w.setup.Parallel {
			w.mu.Unlock()
			return
		}
		o := w.queue[0]
		w.queue = w.queue[1:]
		w.active++
		w.wg.Add(1)
		w.mu.Unlock()
		w.start(o.pos, o.index, o.input)
	}
}

// over tells that a task does not run any more.
func (w *worker) over() {
	w.mu.Lock()
	w.active--
	w.mu.Unlock()
}

// start begins a task, which counts as active and in wg until its end is sent.
func (w *worker) start(pos int32, index int64, input string) {
	argv := w.setup.Spec.Argv(index, input)
	env := append(w.env[:len(w.env):len(w.env)], "SKEIN_INDEX="+strconv.FormatInt(index, 10))
	if w.setup.Spec.Mapped {
		env = append(env, "SKEIN_INPUT="+input)
	}
	began := time.Now()
	fail := func(err error) {
		defer w.wg.Done()
		w.over()
		w.ends <- End{Result: job.Result{Pos: pos, End: job.NotStarted, Code: 127, Took: time.Since(began)},
			Stderr: []byte(fmt.Sprintf("%s: %v\n", argv[0], err))}
	}
	path, err := lookPath(argv[0], env, w.setup.Spec.WorkingDir)
	if err != nil {
		fail(err)
		return
	}
	var pipes [2][2]*os.File
	for i := range pipes {
		if pipes[i][0], pipes[i][1], err = os.Pipe(); err != nil {
			if i == 1 {
				pipes[0][0].Close()
				pipes[0][1].Close()
			}
			fail(err)
			return
		}
	}
	t := &task{pos: pos, began: began, status: make(chan syscall.WaitStatus, 1)}
	w.mu.Lock()
	t.pid, err = syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir: w.setup.Spec.WorkingDir, Env: env,
		Files: []uintptr{w.null.Fd(), pipes[0][1].Fd(), pipes[1][1].Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err == nil {
		w.byPID[t.pid], w.byPos[pos] = t, t
		if d := w.setup.Spec.Timeout; d > 0 {
			t.timer = time.AfterFunc(d, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.byPID[t.pid] == t {
					t.expired = true
					_ = unix.Kill(-t.pid, unix.SIGKILL)
				}
			})
		}
		w.started.Broadcast()
	}
	w.mu.Unlock()
	pipes[0][1].Close()
	pipes[1][1].Close()
	if err != nil {
		pipes[0][0].Close()
		pipes[1][0].Close()
		fail(err)
		return
	}
	go func() {
		defer w.wg.Done()
		w.finish(t, pipes[0][0], pipes[1][0])
	}()
}

// strays is how long output of what left a task's process group is waited for after its end.
const strays = 50 * time.Millisecond

func (w *worker) finish(t *task, stdout, stderr *os.File) {
	var e End
	var dropped [2]uint32
	var readers sync.WaitGroup
	readers.Go(func() { e.Stderr, dropped[1] = collect(stderr) })
	ended := make(chan struct{})
	var status syscall.WaitStatus
	readers.Go(func() {
		defer close(ended)
		status = <-t.status
		e.Took = time.Since(t.began)
		w.over()
		// Whatever it left in its group: it must not go on under the next task.
		_ = unix.Kill(-t.pid, unix.SIGKILL)
		by := time.Now().Add(strays)
		_ = stdout.SetReadDeadline(by)
		_ = stderr.SetReadDeadline(by)
		w.pump()
	})
	e.Stdout, dropped[0] = collect(stdout)
	readers.Wait()
	stdout.Close()
	stderr.Close()
	e.Pos, e.Dropped = t.pos, dropped[0]+dropped[1]
	if t.timer != nil {
		t.timer.Stop()
	}
	switch {
	case t.expired:
		e.End = job.TimedOut
	case status.Signaled():
		e.End, e.Code = job.Signalled, int(status.Signal())
	default:
		e.Code = status.ExitStatus()
	}
	w.ends <- e
}

// collect reads until the end or the deadline, and keeps the first MaxOutput bytes.
func collect(f *os.File) (kept []byte, dropped uint32) {
	buf := make([]byte, 4096)
	read := f.Read
	for {
		n, err := read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && f.SetReadDeadline(time.Time{}) == nil {
			// What was written before it is still to be had: this process may not have had its turn in time.
			read = func(p []byte) (int, error) { return readNow(f, p) }
			continue
		}
		take := min(n, MaxOutput-len(kept))
		kept = append(kept, buf[:take]...)
		dropped += uint32(n - take)
		if err != nil {
			return kept, dropped
		}
		if n == len(buf) && len(buf) < 64<<10 {
			buf = make([]byte, 64<<10)
		}
	}
}

// readNow reads what is there, and does not wait for more.
func readNow(f *os.File, p []byte) (n int, err error) {
	c, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	rerr := c.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), p)
		return true
	})
	if err = errors.Join(err, rerr); err == nil && n == 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

// reap waits for all children: tasks, and orphans that came to this process.
func (w *worker) reap() {
	runtime.LockOSThread()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		w.mu.Lock()
		if err != nil { // no children
			for len(w.byPID) == 0 && !w.closed {
				w.started.Wait()
			}
			if len(w.byPID) == 0 {
				w.mu.Unlock()
				return
			}
			w.mu.Unlock()
			continue
		}
		t := w.byPID[pid]
		if t != nil {
			delete(w.byPID, pid)
			if w.byPos[t.pos] == t {
				delete(w.byPos, t.pos)
			}
		}
		w.mu.Unlock()
		if t != nil {
			t.status <- status
		}
	}
}

// lookPath finds a command as a shell does, by the task's own PATH, from its own folder.
func lookPath(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for i := len(env) - 1; i >= 0; i-- {
		list, ok := strings.CutPrefix(env[i], "PATH=")
		if !ok {
			continue
		}
		for _, d := range filepath.SplitList(list) {
			p := filepath.Join(d, name)
			if !filepath.IsAbs(p) {
				p = filepath.Join(dir, p)
			}
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				return p, nil
			}
		}
		break
	}
	return "", exec.ErrNotFound
}
