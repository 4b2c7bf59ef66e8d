package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Event is what the kernel says of a device. It is a hint to scan: events get lost when many come at once.
type Event struct {
	Action, Path, Subsystem string            // add, change, remove ...; below /sys; block, scsi, iscsi_connection ...
	Values                  map[string]string // DEVNAME, SDEV_UA=CAPACITY_DATA_HAS_CHANGED ...
}

// parseEvent reads action@path and KEY=VALUE strings that end with NULs (Linux, lib/kobject_uevent.c).
func parseEvent(b []byte) (Event, bool) {
	fields := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	action, path, ok := strings.Cut(fields[0], "@")
	if !ok || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, false // udev's own messages look otherwise
	}
	e := Event{Action: action, Path: path, Values: map[string]string{}}
	for _, f := range fields[1:] {
		if k, v, ok := strings.Cut(f, "="); ok {
			e.Values[k] = v
		}
	}
	e.Subsystem = e.Values["SUBSYSTEM"]
	return e, true
}

// Watch calls hint for each event of a disk until ctx ends, and with an event without an action when some were lost.
// It calls from one goroutine, its caller's.
func Watch(ctx context.Context, hint func(Event)) error {
	l, err := Listen()
	if err != nil {
		return err
	}
	return l.Run(ctx, hint, "block", "scsi", "nvme", "iscsi_session", "iscsi_connection", "fc_remote_ports")
}

// Listener hears what the kernel says of its devices.
type Listener struct{ fd int }

// Listen begins to hear: nothing that happens from now on is missed, unless Run says so. Run ends it.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("watch the kernel's devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch the kernel's devices: %w", err)
	}
	return &Listener{fd}, nil
}

// Run is Watch for these subsystems. The Listener is used up.
func (l *Listener) Run(ctx context.Context, hint func(Event), subsystems ...string) error {
	fd := l.fd
	defer unix.Close(fd)
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(wake[0])
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { unix.Close(wake[1]); close(done) })
	defer func() {
		if stop() {
			unix.Close(wake[1])
		} else {
			<-done
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch the kernel's devices: %w", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			hint(Event{})
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("watch the kernel's devices: %w", err)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not from the kernel
		}
		e, ok := parseEvent(buf[:n])
		if !ok {
			continue
		}
		if slices.Contains(subsystems, e.Subsystem) {
			hint(e)
		}
	}
}
