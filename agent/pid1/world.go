package pid1

import (
	"io"
	"syscall"
	"time"

	"github.com/skein-os/skein/agent/pid1/control"
)

// StopMode is how the machine ends.
type StopMode int

// The modes.
const (
	Restart StopMode = iota
	PowerOff
)

func (m StopMode) String() string { return [...]string{"reboot", "poweroff"}[m] }

// Ended is one reaped process.
type Ended struct {
	PID    int
	Code   int
	Signal syscall.Signal // 0 if it ended by itself
}

// World is all that the supervision needs of the machine. The real one is Machine; tests have their own.
// No method may block for long: they are called by the goroutine that feeds the watchdog.
type World interface {
	// Uptime is CLOCK_BOOTTIME: it counts while the machine is suspended.
	Uptime() time.Duration
	// StartAgent starts the agent and returns its process id and PID 1's end of the conversation with it.
	StartAgent() (pid int, conn io.ReadWriteCloser, err error)
	// Reap collects every process that has ended, without waiting.
	Reap() []Ended
	// TerminateAgent asks the agent to end.
	TerminateAgent(pid int) error
	// KillAgent kills everything in the agent's cgroup.
	KillAgent() error
	// KillServices kills everything in the services' cgroup. It is the last resort and one write.
	KillServices() error
	// ServicesRunning is false once no process is left in the services' cgroup.
	ServicesRunning() bool
	// FeedWatchdog restarts the watchdog's countdown. On a machine without one it does nothing.
	FeedWatchdog() error
	// WatchdogTimeout is from a feed to the reset, as the driver took it; 0 on a machine without a watchdog.
	WatchdogTimeout() time.Duration
	// SendWill sends the datagrams of a dead agent's will. It does not block: what has no room is lost.
	SendWill(control.Will) error
	// KeepWords has the last words of this will sent if PID 1 panics.
	KeepWords(control.Will)
	// Unmount unmounts what can be unmounted and writes back what is dirty. It may block (a storage that
	// does not answer) and is therefore called in a goroutine that is not waited for beyond Limits.Stop.
	Unmount()
	// Stop ends the machine. It does not return.
	Stop(StopMode)
	// Logf writes one line to the kernel log and the consoles. It never blocks.
	Logf(format string, args ...any)
}
