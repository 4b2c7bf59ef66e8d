package pid1

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/pid1/control"
)

// dieOnPanic is deferred in every goroutine of PID 1. It writes the reason of a panic to the kernel log and
// restarts the machine at once: after a panic nothing here can be trusted, the other nodes take over, and a
// machine that hangs half dead is worse than one that restarts.
func dieOnPanic() {
	reason := recover()
	if reason == nil {
		return
	}
	tellKernel(emergency, fmt.Sprintf("PID 1 panic: %v; rebooting", reason))
	for line := range strings.Lines(string(debug.Stack())) {
		tellKernel(emergency, strings.TrimRight(line, "\n"))
	}
	sayFailed()
	endMachine(unix.LINUX_REBOOT_CMD_RESTART)
}

// wordsOnPanic are PID 1's last words. A panic can be in any goroutine and at any depth, and PID 1 is one for a
// machine: that is why they are not a field of something.
var wordsOnPanic atomic.Pointer[control.Will]

// KeepWords implements World.
func (m *Machine) KeepWords(w control.Will) { w = w.Words(true); wordsOnPanic.Store(&w) }

// sayFailed sends them. Whatever fails here, the machine restarts.
func sayFailed() {
	defer func() { _ = recover() }()
	if w := wordsOnPanic.Load(); w != nil {
		for range wordsTimes {
			if err := sendWill(*w); err != nil {
				tellKernel(emergency, err.Error())
			}
		}
	}
}

// endMachine gives the kernel the order. It never returns: if the order fails it tries the other ways there
// are, the last being the end of PID 1 itself, which is a kernel panic and a restart by kernel.panic.
func endMachine(command int) {
	err := unix.Reboot(command)
	tellKernel(emergency, fmt.Sprintf("reboot(%#x): %v; trying sysrq", command, err))
	key := "b"
	if command == unix.LINUX_REBOOT_CMD_POWER_OFF {
		key = "o"
	}
	if err := os.WriteFile("/proc/sysrq-trigger", []byte(key), 0); err != nil {
		tellKernel(emergency, err.Error())
	} else {
		time.Sleep(time.Second) // sysrq o works in the background
	}
	os.Exit(1)
}

// Levels of the kernel log (linux/kern_levels.h).
const (
	emergency = 0 // shown on the consoles whatever their level
	info      = 6
)

// tellKernel writes one record to the kernel log. It opens the device each time, so that it works at any
// moment of PID 1's life, and has no error: there is nowhere left to tell it.
func tellKernel(level int, text string) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	const longest = 900 // a record of more than LOG_LINE_MAX (1 KiB) is refused
	fmt.Fprintf(f, "<%d>skein: %.*s", level, longest, text)
}
