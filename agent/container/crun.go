package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// crun calls the OCI runtime.
type crun struct {
	path, root, tmp string
	cgroups         bool
	noPivot         bool
}

// removeTimeout bounds `crun delete`: a process in uninterruptible sleep cannot be waited for.
const removeTimeout = 20 * time.Second

// command prepares a call; crun's own messages go to the file log, so that they do not mix with the
// container's.
func (c *crun) command(ctx context.Context, log string, args ...string) *exec.Cmd {
	manager := "cgroupfs"
	if !c.cgroups {
		manager = "disabled"
	}
	cmd := exec.CommandContext(ctx, c.path, append([]string{"--root=" + c.root, "--cgroup-manager=" + manager, "--log=" + log}, args...)...)
	// crun needs nothing of the agent's environment, and a container must not see it by accident.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}

// run starts a container with one call (create and start in one: half the time) and returns its PID. The
// process keeps log open as its standard output and error.
func (c *crun) run(ctx context.Context, id, bundle, log string) (pid int, err error) {
	return c.launch(ctx, id, bundle, log, "run", "--detach")
}

// create is run up to the moment before the container's own program; start lets it go.
func (c *crun) create(ctx context.Context, id, bundle, log string) (pid int, err error) {
	return c.launch(ctx, id, bundle, log, "create")
}

// start lets a created container go, as crun does it: its first process waits for a byte in this FIFO, and
// crun takes a container for running as soon as the FIFO is gone. A call of crun itself takes longer than
// all the rest of a takeover's start.
func (c *crun) start(id string) error {
	name := filepath.Join(c.root, id, "exec.fifo")
	// Not blocking: nobody reads it if the process is dead.
	fifo, err := os.OpenFile(name, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("start a container that was made ahead: %w", err)
	}
	defer fifo.Close()
	if err := os.Remove(name); err != nil {
		return fmt.Errorf("start a container that was made ahead: %w", err)
	}
	if _, err := fifo.Write([]byte{0}); err != nil {
		return fmt.Errorf("start a container that was made ahead: %w", err)
	}
	return nil
}

func (c *crun) launch(ctx context.Context, id, bundle, log string, verb ...string) (pid int, err error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	errs, err := c.messages()
	if err != nil {
		return 0, err
	}
	defer errs.remove()
	pidFile := filepath.Join(bundle, "pid")
	args := append(verb, "--no-new-keyring", "--bundle="+bundle, "--pid-file="+pidFile)
	if c.noPivot {
		args = append(args, "--no-pivot")
	}
	cmd := c.command(ctx, errs.Name(), append(args, id)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := runPrecise(cmd); err != nil {
		return 0, errs.explain("crun "+verb[0], err)
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil || pid < 2 {
		return 0, fmt.Errorf("crun wrote %q into %s, which is not a process id", data, pidFile)
	}
	return pid, nil
}

// defaultSlack is the kernel's usual imprecision of timers, ns.
const defaultSlack = 50_000

// runPrecise runs a command whose processes have the kernel's usual precision of timers. They inherit it
// from the thread that starts them, and some of the agent's threads are imprecise (network.CalmRuntime).
func runPrecise(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, defaultSlack, 0, 0, 0); err != nil {
		return fmt.Errorf("set the precision of timers: %w", err)
	}
	return cmd.Run()
}

// remove kills and removes whatever is left of a container; it is no error if that is nothing.
func (c *crun) remove(id string) error {
	if _, err := os.Stat(filepath.Join(c.root, id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	errs, err := c.messages()
	if err != nil {
		return err
	}
	defer errs.remove()
	if err := c.command(ctx, errs.Name(), "delete", "--force", id).Run(); err != nil {
		return errs.explain("crun delete", err)
	}
	return nil
}

// messages is a file that crun writes its errors to.
type messages struct{ *os.File }

func (c *crun) messages() (messages, error) {
	f, err := os.CreateTemp(c.tmp, "")
	return messages{f}, err
}

func (m messages) remove() {
	m.Close()
	os.Remove(m.Name())
}

// explain makes an error of what crun wrote, which is more telling than its exit code.
func (m messages) explain(what string, err error) error {
	data, readErr := io.ReadAll(io.LimitReader(m, 4096))
	lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
	text := lines[len(lines)-1]
	// "2026-11-22T21:00:00.000000000Z: message"
	if stamp, rest, ok := strings.Cut(text, ": "); ok && len(stamp) > 0 && stamp[0] >= '0' && stamp[0] <= '9' {
		text = rest
	}
	if readErr != nil || text == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %s", what, text)
}

// Exec runs a command in a running container, as its user and with its environment, and returns its exit
// code. An error means that the command could not be run or that ctx ended, in which case it was killed.
// stdin may be nil; if it is not, a Read of it may still be in progress when Exec returns.
func (r *Runtime) Exec(ctx context.Context, id string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	r.mu.Lock()
	b, ok := r.boxes[id]
	running, name := ok && b.running, id
	if ok {
		name = b.Name
	}
	r.mu.Unlock()
	switch {
	case !ok:
		return -1, fmt.Errorf("exec in %s: %w", id, ErrNotFound)
	case !running:
		return -1, fmt.Errorf("exec in %s: %w", id, ErrNotRunning)
	case len(argv) == 0:
		return -1, fmt.Errorf("exec in %s: no command given", id)
	}
	code, err := r.crun.exec(ctx, name, argv, stdin, stdout, stderr)
	if err != nil {
		return -1, fmt.Errorf("exec %q in %s: %w", argv[0], id, err)
	}
	return code, nil
}

func (c *crun) exec(ctx context.Context, id string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	errs, err := c.messages()
	if err != nil {
		return -1, err
	}
	defer errs.remove()
	pidFile := errs.Name() + ".pid"
	defer os.Remove(pidFile)
	cmd := c.command(ctx, errs.Name(), append([]string{"exec", "--pid-file=" + pidFile, "--", id}, argv...)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// What the command leaves in the background may hold the pipes open for ever.
	cmd.WaitDelay = time.Second
	cmd.Cancel = func() error {
		// First the command itself: while crun, its parent, lives, its PID cannot be anyone else's.
		if data, err := os.ReadFile(pidFile); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		return cmd.Process.Kill()
	}
	var in io.WriteCloser
	if stdin != nil {
		if in, err = cmd.StdinPipe(); err != nil {
			return -1, err
		}
	}
	if err := cmd.Start(); err != nil {
		return -1, err
	}
	if in != nil {
		// Not waited for: it ends when stdin does, and stdin is the caller's.
		go func() {
			_, _ = io.Copy(in, stdin)
			_ = in.Close()
		}()
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return -1, ctx.Err()
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if st, statErr := errs.Stat(); statErr == nil && st.Size() > 0 {
			return -1, errs.explain("crun exec", err)
		}
		if ws, ok := exit.Sys().(interface{ Signaled() bool }); ok && ws.Signaled() {
			return -1, fmt.Errorf("crun exec: %w", err)
		}
		return exit.ExitCode(), nil
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return -1, err
	}
	return 0, nil
}
