package pid1

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// console writes PID 1's progress and the agent's output to every console that the kernel writes to, and
// PID 1's lines to the kernel log as well.
type console struct {
	mu    sync.Mutex
	sinks []*sink
}

func newConsole() *console { return &console{} }

// open finds the consoles. All of them are used: on which one somebody looks depends on the machine, and
// /dev/console is only the last that was named on the kernel's command line.
func (c *console) open() {
	names := []string{"console"}
	if active, err := os.ReadFile("/sys/class/tty/console/active"); err == nil {
		if fields := strings.Fields(string(active)); len(fields) > 0 {
			names = fields
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		f, err := os.OpenFile("/dev/"+name, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			tellKernel(info, fmt.Sprintf("console %s: %v", name, err))
			continue
		}
		c.sinks = append(c.sinks, newSink(f))
	}
	// What Go's runtime says when it gives up goes to descriptor 2. The kernel opened it for PID 1 only if
	// the archive has a /dev/console.
	if fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err == nil {
		for std := range 3 {
			_ = unix.Dup3(fd, std, 0)
		}
		unix.Close(fd)
	}
}

// logf writes one line of PID 1's own.
func (c *console) logf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	tellKernel(info, text)
	c.put(fmt.Appendf(nil, "skein: %7.3f %s\n", uptime().Seconds(), text))
}

// put writes a line with its end to the consoles.
func (c *console) put(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sinks {
		s.put(line)
	}
}

// flush waits a moment for slow consoles. It is for the last lines before the machine stops.
func (c *console) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sinks {
		s.flush(flushTime)
	}
}

const flushTime = 300 * time.Millisecond
