package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FDEnv is the environment variable in which PID 1 tells the agent the number of the inherited socket.
const FDEnv = "SKEIN_PID1_FD"

// writeTimeout is how long a request may wait for room in the socket. PID 1 reads at once unless it is
// dying, so a longer wait would only hang the agent with it.
const writeTimeout = 5 * time.Second

// ErrNoPID1: the program was not started by Skein's PID 1.
var ErrNoPID1 = errors.New("not started by Skein's PID 1 (" + FDEnv + " is not set)")

// Conn is the agent's end of the conversation. Requests may be sent from any goroutine; Receive has one
// caller.
type Conn struct {
	conn  net.Conn
	lines *Lines
	write sync.Mutex
	now   func() time.Duration // CLOCK_BOOTTIME
}

// Open takes over the socket that PID 1 gave to this process. It can be called once: it hides the socket
// from the processes that the agent starts, which must not speak for it.
func Open() (*Conn, error) {
	value, ok := os.LookupEnv(FDEnv)
	if !ok {
		return nil, ErrNoPID1
	}
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("open conversation with PID 1: %s=%q is not a descriptor", FDEnv, value)
	}
	if err := os.Unsetenv(FDEnv); err != nil {
		return nil, fmt.Errorf("open conversation with PID 1: %w", err)
	}
	syscall.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), "pid1")
	defer file.Close() // FileConn works on a duplicate
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("open conversation with PID 1 on descriptor %d: %w", fd, err)
	}
	return NewConn(conn), nil
}

// NewConn speaks the agent's side on conn.
func NewConn(conn net.Conn) *Conn {
	return &Conn{conn: conn, lines: NewLines(conn), now: boottime}
}

// Feed tells PID 1 that the agent is well at this moment. Call it at least every second while that is
// true, and never otherwise: nothing else keeps a machine alive whose agent cannot do its duty.
func (c *Conn) Feed() error {
	return c.send(Request{Op: Feed, AtMS: c.now().Milliseconds()})
}

// KeepFeeding calls Feed every interval while well returns true, until ctx ends or PID 1 is gone. When well
// returns false it skips the feed and goes on: the watchdog's patience is PID 1's matter.
func (c *Conn) KeepFeeding(ctx context.Context, interval time.Duration, well func() bool) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if well() {
			if err := c.Feed(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Reboot asks PID 1 to stop everything in order and restart the machine. The agent gets a SIGTERM soon after.
func (c *Conn) Reboot(reason string) error { return c.send(Request{Op: Reboot, Reason: clip(reason)}) }

// Poweroff asks PID 1 to stop everything in order and power the machine off.
func (c *Conn) Poweroff(reason string) error {
	return c.send(Request{Op: Poweroff, Reason: clip(reason)})
}

// StopServices asks PID 1 to kill every process in the services' cgroup at once. The exits of those that
// are PID 1's children follow as events. The empty cgroups stay for the agent to remove.
func (c *Conn) StopServices() error { return c.send(Request{Op: StopServices}) }

// Bind has PID 1 feed the watchdog only so that the machine is off at until, on CLOCK_BOOTTIME. Once bound, only
// a later Bind prolongs its life; a new agent does not end it. PID 1 answers with Bound.
func (c *Conn) Bind(until time.Duration) error {
	return c.send(Request{Op: Bind, UntilMS: until.Milliseconds()})
}

// Unbind has PID 1 feed the watchdog as if it had never been bound.
func (c *Conn) Unbind() error { return c.send(Request{Op: Unbind}) }

// SetWill leaves w with PID 1, in place of an earlier one.
func (c *Conn) SetWill(w Will) error {
	if err := w.check(); err != nil {
		return fmt.Errorf("leave a will with PID 1: %w", err)
	}
	return c.send(Request{Op: SetWill, Will: &w})
}

func (c *Conn) send(r Request) error {
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("tell PID 1 %q: %w", r.Op, err)
	}
	if _, err := c.conn.Write(AppendLine(nil, r)); err != nil {
		return fmt.Errorf("tell PID 1 %q: %w", r.Op, err)
	}
	return nil
}

// Receive waits for the next event. After a *LineError it may be called again; io.EOF and every other error
// are the end of the conversation.
func (c *Conn) Receive() (Event, error) {
	line, err := c.lines.Next()
	if err != nil {
		if lineErr := (*LineError)(nil); errors.As(err, &lineErr) || errors.Is(err, io.EOF) {
			return Event{}, err
		}
		return Event{}, fmt.Errorf("hear from PID 1: %w", err)
	}
	e, err := ParseEvent(line)
	if err != nil {
		return Event{}, &LineError{err}
	}
	return e, nil
}

// Close ends the conversation; a waiting Receive returns.
func (c *Conn) Close() error { return c.conn.Close() }

func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // PID 1 then counts from when it reads
	}
	return time.Duration(ts.Nano())
}
