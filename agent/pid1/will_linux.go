package pid1

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/pid1/control"
)

// willPriority is that of heartbeats: the first band of the kernel's default queue.
const willPriority = 6

// SendWill implements World. Its sockets live for the moment of sending and are never read.
func (m *Machine) SendWill(w control.Will) error { return sendWill(w) }

func sendWill(w control.Will) error {
	var errs []error
	for i := range w.Links {
		if err := sendWillOn(&w.Links[i]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", w.Links[i].Link, err))
		}
	}
	return errors.Join(errs...)
}

func sendWillOn(l *control.WillLink) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.BindToDevice(fd, l.Link); err != nil {
		return fmt.Errorf("bind to the link: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, willPriority); err != nil {
		return fmt.Errorf("priority: %w", err)
	}
	var last error
	for _, to := range l.To {
		// One that cannot be reached must not keep it from the others.
		if err := unix.Sendto(fd, l.Payload, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			last = fmt.Errorf("send to %s: %w", to, err)
		}
	}
	return last
}
