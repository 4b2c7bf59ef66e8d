package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Stop asks the container to end, by signal or, if that is empty, by what service or image name for it
// (SIGTERM by default), and after grace kills all its processes. It returns when the container has ended
// and its mounts and cgroup are gone. A process that pays no attention to the signal is killed at once.
func (r *Runtime) Stop(ctx context.Context, id, signal string, grace time.Duration) (Exit, error) {
	r.mu.Lock()
	b, ok := r.boxes[id]
	if !ok {
		r.mu.Unlock()
		return Exit{}, fmt.Errorf("stop container %s: %w", id, ErrNotFound)
	}
	if !b.running {
		r.mu.Unlock()
		return Exit{}, fmt.Errorf("stop container %s: %w", id, ErrNotRunning)
	}
	proc, pid, name := b.proc, b.PID, b.Name
	if signal == "" {
		signal = b.Signal
	}
	r.mu.Unlock()
	sig, err := ParseSignal(signal)
	if err != nil {
		// A wrong name in an image must not keep a container from being stopped.
		r.cfg.Log.Warn("container has an unknown stop signal; SIGTERM is used", "id", id, "err", err)
		sig = unix.SIGTERM
	}
	ended := r.Wait(id)
	if sig != unix.SIGKILL && grace > 0 && heeds(pid, sig) {
		if err := proc.signal(sig); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrClosed) {
			return Exit{}, fmt.Errorf("stop container %s: %w", id, err)
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case e := <-ended:
			return e, nil
		case <-timer.C:
		case <-ctx.Done():
			return Exit{}, fmt.Errorf("stop container %s: %w", id, ctx.Err())
		}
	}
	if err := r.kill(name, proc); err != nil {
		return Exit{}, fmt.Errorf("stop container %s: %w", id, err)
	}
	select {
	case e := <-ended:
		return e, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("stop container %s: it was killed but has not ended: %w", id, ctx.Err())
	}
}

// kill ends all processes of a container.
func (r *Runtime) kill(name string, proc *process) error {
	if r.cfg.Cgroup != "" {
		// One write, that no fork can outrun.
		err := os.WriteFile(filepath.Join(cgroupMount, r.cfg.Cgroup, name, "cgroup.kill"), []byte("1"), 0)
		if err == nil {
			return nil
		}
		r.cfg.Log.Warn("cgroup.kill failed; its first process is killed, which ends the others", "container", name, "err", err)
	}
	if err := proc.signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
