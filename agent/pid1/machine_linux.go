package pid1

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/pid1/control"
)

// Machine is the World of a real node. It is made by boot.
type Machine struct {
	console  *console
	watchdog *armedWatchdog // nil on a machine without one
	cgroups  *cgroups
	report   Report

	program string   // PID 1's own binary, which is the agent's too
	command []string // the agent's arguments, its name first
	null    *os.File // the agent's stdin
	output  *os.File // the agent's stdout and stderr: the end of a pipe that stays open for good
}

var _ World = (*Machine)(nil)

// agentScore protects the agent from the out-of-memory killer, not absolutely: an agent that leaks must die
// before the kernel runs out of others. PID 1, which the kernel never kills for memory, takes it on for itself: so
// the agent has it from its first instruction, and whatever the agent starts; a container has its own.
const agentScore = "-900"

// AgentLogPath is the newest output of the agent, at most 1 MiB.
const AgentLogPath = RunDir + "/agent.log"

// Uptime implements World.
func (m *Machine) Uptime() time.Duration { return uptime() }

func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // no decision of the guard could be trusted
	}
	return time.Duration(ts.Nano())
}

// prepareAgent opens all that starting the agent needs, so that a start later depends on little.
func (m *Machine) prepareAgent(command []string) error {
	if len(command) == 0 {
		command = []string{"agent"}
	}
	m.program = "/proc/self/exe"
	if err := writeFile("/proc/self/oom_score_adj", agentScore); err != nil {
		m.console.logf("protect the agent when memory runs out: %v", err)
	}
	// The program's first argument is its name, for whoever looks at a list of processes.
	m.command = append([]string{"skeind"}, command...)
	var err error
	if m.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("prepare agent: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("prepare agent: %w", err)
	}
	m.output = w
	log, err := newRingFile(AgentLogPath, maxLogFile)
	if err != nil {
		m.console.logf("the agent's output is only on the consoles: %v", err)
	}
	go func() { // ends with PID 1: its own end of the pipe stays open
		defer dieOnPanic()
		var logError string
		err := copyLines(r, func(line []byte) {
			m.console.put(line)
			if log == nil {
				return
			}
			// A full /run must not stop the agent's output, nor be repeated with every line.
			if _, err := log.Write(line); err != nil && err.Error() != logError {
				logError = err.Error()
				m.console.logf("the agent's log has gaps: %v", err)
			}
		})
		panic(fmt.Sprintf("the agent's output ended: %v", err))
	}()
	return nil
}

// StartAgent implements World. The agent is cloned into its cgroup, so that there is no moment at which it, or a
// child of it, is outside.
func (m *Machine) StartAgent() (int, io.ReadWriteCloser, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("socket to the agent: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "agent"), os.NewFile(uintptr(pair[1]), "pid1")
	defer ours.Close() // FileConn works on a duplicate
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return 0, nil, fmt.Errorf("socket to the agent: %w", err)
	}
	const socketFD = 3
	pid, err := syscall.ForkExec(m.program, m.command, &syscall.ProcAttr{
		Dir: "/",
		Env: []string{
			"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
			"HOME=" + RunDir,
			control.FDEnv + "=" + strconv.Itoa(socketFD),
		},
		Files: []uintptr{m.null.Fd(), m.output.Fd(), m.output.Fd(), theirs.Fd()},
		Sys: &syscall.SysProcAttr{
			Setsid:      true,
			UseCgroupFD: true,
			CgroupFD:    int(m.cgroups.agent.Fd()),
		},
	})
	if err != nil {
		conn.Close()
		return 0, nil, fmt.Errorf("run %s: %w", m.program, err)
	}
	return pid, conn, nil
}

// Reap implements World.
func (m *Machine) Reap() []Ended {
	var all []Ended
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 { // no children at all, or none that has ended
			return all
		}
		e := Ended{PID: pid}
		if status.Signaled() {
			e.Signal = status.Signal()
		} else {
			e.Code = status.ExitStatus()
		}
		all = append(all, e)
	}
}

// TerminateAgent implements World.
func (m *Machine) TerminateAgent(pid int) error { return unix.Kill(pid, unix.SIGTERM) }

// killTime is how long a killed cgroup may take to be empty while PID 1 waits for it.
const killTime = time.Second

// KillAgent implements World.
func (m *Machine) KillAgent() error {
	return killAndWait(m.cgroups.killAgent, AgentCgroup, killTime)
}

// KillServices implements World.
func (m *Machine) KillServices() error {
	if _, err := m.cgroups.killServices.WriteString("1"); err != nil {
		return fmt.Errorf("kill all services: %w", err)
	}
	return nil
}

// ServicesRunning implements World.
func (m *Machine) ServicesRunning() bool { return populated(ServicesCgroup) }

// FeedWatchdog implements World.
func (m *Machine) FeedWatchdog() error {
	if m.watchdog == nil {
		return nil
	}
	return m.watchdog.feed()
}

// WatchdogTimeout implements World. A watchdog whose timeout is not known for certain counts as none.
func (m *Machine) WatchdogTimeout() time.Duration {
	if m.watchdog == nil || m.report.Watchdog == "" {
		return 0
	}
	return m.watchdog.timeout
}

// Unmount implements World.
func (m *Machine) Unmount() { unmountAll(m.console.logf) }

// Stop implements World.
func (m *Machine) Stop(mode StopMode) {
	m.console.flush()
	command := unix.LINUX_REBOOT_CMD_RESTART
	if mode == PowerOff {
		command = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	endMachine(command)
}

// Logf implements World.
func (m *Machine) Logf(format string, args ...any) { m.console.logf(format, args...) }
