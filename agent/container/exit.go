package container

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is how a container's process ended.
type Exit struct {
	PID    int           `json:"pid"`
	Code   int           `json:"code"`             // exit status when Signal is 0; -1 if nobody knows
	Signal int           `json:"signal,omitempty"` // the signal that ended it, or 0
	OOM    bool          `json:"oom,omitempty"`    // a process of the container was killed for exceeding the memory limit
	At     time.Duration `json:"at"`               // CLOCK_BOOTTIME when it was reaped
}

// OK tells that the process ended by itself and says that all went well.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == 0 }

// String is a phrase for people, that goes on after the name of the container.
func (e Exit) String() string {
	s := ""
	switch {
	case e.Signal != 0:
		name := unix.SignalName(unix.Signal(e.Signal))
		if name == "" {
			name = "signal " + strconv.Itoa(e.Signal)
		}
		s = "killed by " + name
	case e.Code < 0:
		s = "ended, how is not known"
	default:
		s = "exited with code " + strconv.Itoa(e.Code)
	}
	if e.OOM {
		s += " (it reached its memory limit)"
	}
	return s
}

// recentExits matches PID 1's messages with containers. A message may come before the container's PID is
// known here (the process was short, or the agent has just started), so the last ones are kept.
type recentExits struct {
	exits   []Exit // oldest first, at most maxRecent
	waiting []expectation
}

type expectation struct {
	pid   int
	since time.Duration
	word  chan Exit
}

// maxRecent is how many PID 1 repeats to a new agent.
const maxRecent = 1024

func (r *recentExits) add(e Exit) {
	for _, w := range r.waiting {
		if w.match(e) {
			select {
			case w.word <- e:
			default: // repeated
			}
			return
		}
	}
	if len(r.exits) >= maxRecent {
		r.exits = slices.Delete(r.exits, 0, maxRecent/2)
	}
	r.exits = append(r.exits, e)
}

// match: PIDs are used again, so an exit before the start is another process's. PID 1 counts whole
// milliseconds.
func (w expectation) match(e Exit) bool {
	return e.PID == w.pid && e.At+time.Millisecond > w.since
}

func (r *recentExits) expect(pid int, since time.Duration) chan Exit {
	w := expectation{pid, since, make(chan Exit, 1)}
	for i, e := range r.exits {
		if w.match(e) {
			w.word <- e
			r.exits = slices.Delete(r.exits, i, i+1)
			break
		}
	}
	r.waiting = append(r.waiting, w)
	return w.word
}

func (r *recentExits) forget(pid int, word chan Exit) {
	r.waiting = slices.DeleteFunc(r.waiting, func(w expectation) bool { return w.pid == pid && w.word == word })
}

// process is a handle on a process that is not our child.
type process struct {
	pid   int
	ticks uint64
	fd    *os.File // pidfd; nil: the process had ended already
}

// openProcess takes hold of a process, or finds that it is gone.
func openProcess(pid int) *process {
	p := &process{pid: pid}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return p
	}
	p.fd = os.NewFile(uintptr(fd), "pidfd")
	p.ticks = startTicks(pid)
	return p
}

// wait returns true when the process has ended, false when the handle was closed.
func (p *process) wait() bool {
	if p.fd == nil {
		return true
	}
	c, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	return c.Read(ended) == nil
}

// ended tells whether the process of a pidfd has ended, reaped or not.
func ended(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return n > 0 && err == nil
}

// signal sends a signal, to this process and no other, whatever happened to its PID.
func (p *process) signal(sig unix.Signal) error {
	if p.fd == nil {
		return unix.ESRCH
	}
	c, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := c.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	return sent
}

// alive tells whether it has not ended; what waits to be reaped has.
func (p *process) alive() bool {
	if p.fd == nil {
		return false
	}
	c, err := p.fd.SyscallConn()
	if err != nil {
		return false
	}
	gone := true
	return c.Control(func(fd uintptr) { gone = ended(fd) }) == nil && !gone
}

func (p *process) close() {
	if p.fd != nil {
		p.fd.Close()
	}
}

// startTicks is when a process started, in clock ticks since the machine's boot; 0 if there is none.
func startTicks(pid int) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything; field 3 follows the last one.
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(f[19], 10, 64)
	return n
}

// heeds tells whether a process has a handler for a signal or takes it by sigwait or signalfd. The first
// process of a PID namespace is not ended by a signal it does not heed, whatever the signal's default.
func heeds(pid int, sig unix.Signal) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		k, v, _ := strings.Cut(line, ":")
		if k != "SigCgt" && k != "SigBlk" {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		if err != nil || mask&(1<<(uint(sig)-1)) != 0 {
			return true
		}
	}
	return false
}

// boottime is CLOCK_BOOTTIME, which PID 1 and the agent share and which no one sets.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // older than every exit: the PID alone decides
	}
	return time.Duration(ts.Nano())
}
