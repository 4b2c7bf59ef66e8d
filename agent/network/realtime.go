package network

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// realTimePriority is low among the real-time ones: above every service, below the kernel's own threads
// (watchdog and migration run at 99, interrupt threads at 50).
const realTimePriority = 10

// RealTime binds the calling goroutine to its thread and lets that thread run before all ordinary ones:
// a loaded machine still answers heartbeats. Call the returned function to undo it. The error says if the
// kernel refused; the goroutine is then bound but ordinary.
//
// Children inherit nothing (reset on fork), so a process started from here is an ordinary one.
func RealTime() (undo func(), err error) {
	runtime.LockOSThread()
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: realTimePriority,
		Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}
	if err := unix.SchedSetAttr(0, attr, 0); err != nil {
		return runtime.UnlockOSThread, fmt.Errorf("real-time priority for heartbeats (needs CAP_SYS_NICE): %w", err)
	}
	return func() {
		attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
		if unix.SchedSetAttr(0, attr, 0) == nil {
			runtime.UnlockOSThread()
		} // else the thread stays bound and ends with its goroutine: never a real-time thread in the pool
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
