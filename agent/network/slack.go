package network

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// runtimeSlack is how late the monitor of Go's runtime may wake up. It takes a processor back from a thread
// that blocks in a system call, so this is also how long such a call may hold up a machine with a single
// processor.
const runtimeSlack = 5 * time.Millisecond

// CalmRuntime lets the monitor thread of Go's runtime (sysmon) sleep coarsely. It asks to be woken every
// 20 µs while anything runs, which is 650 timer interrupts a second on an idle node: cheap on bare metal, but
// in a virtual machine each is an exit to the host, and under emulation they were half of all the time
// that an idle node took. There is no setting for it, but the kernel may be told to be imprecise.
func CalmRuntime() error {
	tid, err := monitorThread()
	if err != nil {
		return fmt.Errorf("find the runtime's monitor thread: %w", err)
	}
	// A thread is found under /proc by its own number too, and only there has it this file.
	name := fmt.Sprintf("/proc/%d/timerslack_ns", tid)
	if err := os.WriteFile(name, []byte(strconv.FormatInt(runtimeSlack.Nanoseconds(), 10)), 0); err != nil {
		return fmt.Errorf("let the runtime's monitor sleep coarsely (needs CAP_SYS_NICE): %w", err)
	}
	return nil
}

// monitorThread is the first thread that the runtime starts besides the main one, before any init function.
func monitorThread() (int, error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, err
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil && tid != os.Getpid() {
			tids = append(tids, tid)
		}
	}
	if len(tids) == 0 {
		return 0, fmt.Errorf("process %d has one thread only", os.Getpid())
	}
	return slices.Min(tids), nil
}
