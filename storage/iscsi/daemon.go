package iscsi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A start of iscsid that did not last is tried again after these, doubled each time.
const (
	firstRestart = 200 * time.Millisecond
	maxRestart   = 10 * time.Second
	lasted       = 30 * time.Second // a run as long as this was none that fails
)

// daemon is iscsid as a child. The kernel's sessions live without it; it is needed to log in and out, and to connect a
// session again that lost its connection. One that is started anew takes over the sessions that there are: it connects
// each of them anew, during which its commands wait for 2 s or more. So iscsid outlives its Initiator if it can: in a
// cgroup of its own, where the next one finds it.
type daemon struct {
	path   string
	args   []string
	cgroup string // empty: iscsid ends with the Initiator
	log    *slog.Logger
	// output has what iscsid prints, which is no secret as long as it is not told to debug. A file of the one that reads
	// it, not a pipe to this process: iscsid would die of it with us.
	output *os.File
	// starting is called before each start.
	starting func()
}

// run keeps iscsid running until ctx ends, and waits for its end if it is not to go on.
func (d *daemon) run(ctx context.Context) {
	wait := firstRestart
	for ctx.Err() == nil {
		begin := time.Now()
		err := d.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > lasted {
			wait = firstRestart
		}
		d.log.Error("iscsid ended; sessions go on, but none is connected again until it is back", "err", err, "again", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRestart)
	}
}

// once follows an iscsid that is there, or starts one, and returns when it has ended or ctx has.
func (d *daemon) once(ctx context.Context) error {
	if d.cgroup == "" {
		cmd := exec.CommandContext(ctx, d.path, d.args...)
		return d.start(cmd, func() error { return cmd.Wait() })
	}
	if err := os.MkdirAll(d.cgroup, 0o755); err != nil {
		return fmt.Errorf("cgroup for iscsid: %w", err)
	}
	// Its pings go out in time while services use every core, like the agent's heartbeats.
	if err := os.WriteFile(filepath.Join(d.cgroup, "cpu.weight"), []byte("1000"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("iscsid may be late on a busy machine", "err", err)
	}
	pids, err := d.members()
	if err != nil {
		return err
	}
	if ok, err := listening(); err != nil {
		return err
	} else if ok && len(pids) > 0 {
		d.log.Info("iscsid of an earlier agent goes on", "pid", pids[0])
		return awaitExit(ctx, pids[0])
	}
	for _, pid := range pids { // one that takes no commands is none, and keeps another from being one
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end an iscsid that takes no commands: %w", err)
		}
	}
	dir, err := os.Open(d.cgroup)
	if err != nil {
		return fmt.Errorf("cgroup for iscsid: %w", err)
	}
	defer dir.Close()
	cmd := exec.Command(d.path, d.args...)
	// A session of its own: what is done to the agent's process group is not meant for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	return d.start(cmd, func() error {
		if err := awaitExit(ctx, cmd.Process.Pid); ctx.Err() != nil {
			return err // it goes on
		}
		return cmd.Wait()
	})
}

func (d *daemon) start(cmd *exec.Cmd, wait func() error) error {
	cmd.Stdout, cmd.Stderr = d.output, d.output
	d.starting()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.path, err)
	}
	d.log.Info("iscsid runs", "pid", cmd.Process.Pid)
	if err := wait(); err != nil {
		return err
	}
	return errors.New("exit status 0")
}

// members are the processes in the cgroup. The first is iscsid itself: those it forks come after it.
func (d *daemon) members() ([]int, error) {
	data, err := os.ReadFile(filepath.Join(d.cgroup, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("cgroup for iscsid: %w", err)
	}
	return parsePIDs(string(data))
}

func parsePIDs(text string) ([]int, error) {
	var out []int
	for word := range strings.FieldsSeq(text) {
		pid, err := strconv.Atoi(word)
		if err != nil || pid <= 0 {
			return nil, fmt.Errorf("cgroup for iscsid: %q is no process", word)
		}
		out = append(out, pid)
	}
	return out, nil
}

// awaitExit waits for the end of a process, which need not be a child.
func awaitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return errors.New("it has ended")
	}
	if err != nil {
		return fmt.Errorf("watch iscsid: %w", err)
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100) // ms; ctx cannot be polled
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch iscsid: %w", err)
		}
		if n > 0 {
			return errors.New("it has ended")
		}
	}
	return ctx.Err()
}

// socketName begins the name of iscsid's socket, which is in no folder (unix(7), abstract).
const socketName = "@ISCSIADM_ABSTRACT_NAMESPACE"

// listening tells by the kernel's list of sockets whether iscsid takes commands. It does not connect: iscsid would
// complain of a caller who says nothing.
func listening() (bool, error) {
	data, err := os.ReadFile("/proc/net/unix")
	return strings.Contains(string(data), socketName), err
}

// awaitDaemon waits for iscsid to take commands.
func awaitDaemon(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("iscsid does not run: it takes no commands"))
	defer cancel()
	for {
		if ok, err := listening(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
