package network

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// urgency is the nice value of urgent threads: a weight some thirty times that of an ordinary one.
const urgency = -15

// Urgent binds the calling goroutine to its thread and has the kernel prefer that thread to ordinary ones,
// so that a loaded machine still answers heartbeats. Call the returned function to undo it. The error says
// if the kernel refused; the goroutine is then bound but ordinary.
//
// It is not real-time priority on purpose. Go's runtime waits for another thread here and there by spinning
// with sched_yield, which a SCHED_FIFO thread does for nobody below it: on a machine with one processor
// such a thread then spins until the kernel throttles it, 0.95 s in every second. Seen as heartbeats that
// were held up for a little over a second, several times a minute under load, and as nodes given up for that.
func Urgent() (undo func(), err error) {
	runtime.LockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, urgency); err != nil {
		return runtime.UnlockOSThread, fmt.Errorf("prefer the thread of the heartbeats (needs CAP_SYS_NICE): %w", err)
	}
	return func() {
		if unix.Setpriority(unix.PRIO_PROCESS, 0, 0) == nil {
			runtime.UnlockOSThread()
		} // else the thread stays bound and ends with its goroutine: never a preferred thread in the pool
	}, nil
}

// LockMemory keeps what the process has touched in memory: heartbeats do not wait for a page to be read
// back. Pages are locked when they are first used (MCL_ONFAULT); locking the heap's reservations at once
// would cost 64 MiB each.
func LockMemory() error {
	err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	if errors.Is(err, unix.EINVAL) {
		return errors.New("lock memory: the kernel does not know MCL_ONFAULT (needs 4.4)")
	}
	if err != nil {
		return fmt.Errorf("lock memory (needs CAP_IPC_LOCK): %w", err)
	}
	return nil
}
