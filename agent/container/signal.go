package container

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ParseSignal reads a signal as Compose files and images write it: SIGTERM, TERM or 15. Empty is SIGTERM.
func ParseSignal(s string) (unix.Signal, error) {
	if s == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("signal %d: signals are 1 to 64", n)
		}
		return unix.Signal(n), nil
	}
	up := strings.ToUpper(s)
	if !strings.HasPrefix(up, "SIG") {
		up = "SIG" + up
	}
	if n := unix.SignalNum(up); n != 0 {
		return n, nil
	}
	// nginx and systemd images use these.
	if rest, ok := strings.CutPrefix(up, "SIGRTMIN"); ok {
		off, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "+"))
		if err == nil && off <= 30 {
			return unix.Signal(34 + off), nil
		}
	}
	return 0, fmt.Errorf("signal %q: there is none of this name; see signal(7)", s)
}
