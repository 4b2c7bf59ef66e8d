package qemu

import (
	"os/exec"
	"runtime"
	"syscall"
)

// spawner starts processes that the kernel kills when the lab's process dies. That signal is tied to
// the *thread* that started the child, so all are started from one thread that lives as long as the lab.
type spawner struct {
	requests chan func()
	done     chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		defer close(s.done)
		for f := range s.requests {
			f()
		}
	}()
	return s
}

// start starts cmd in a process group of its own, so that an interrupt on the terminal is the lab's to
// handle.
func (s *spawner) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	result := make(chan error, 1)
	s.requests <- func() { result <- cmd.Start() }
	return <-result
}

// close ends the thread. Children that still run are killed by that.
func (s *spawner) close() {
	close(s.requests)
	<-s.done
}
