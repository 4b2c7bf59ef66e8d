package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// ConsoleLine is one line that a machine printed.
type ConsoleLine struct {
	At   time.Time // host's time of its first byte
	Text string    // without control characters
}

// String is the line as it is recorded.
func (l ConsoleLine) String() string { return l.At.Format("15:04:05.000") + "  " + l.Text }

const (
	keepLines = 20000 // in memory, for waits; the file holds all
	// longLine is where a line without an end is cut, in bytes.
	longLine = 8 << 10
)

// trouble is what a console must never show unless a test asked for it. kola checks the same words,
// but only after the run; here they are seen as they are printed.
var trouble = regexp.MustCompile(`Kernel panic|\bOops\b|BUG:|soft lockup|hard LOCKUP|hung_task`)

// control matches terminal control sequences: a guest must not be able to drive the user's terminal.
var control = regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|.)?|[\x00-\x08\x0b-\x1f\x7f]")

// console records what a machine prints over all its boots.
type console struct {
	alarm func(text string)

	mu      sync.Mutex
	file    *os.File
	lines   []ConsoleLine
	dropped int // lines no longer in memory: lines[i] has number dropped+i
	boot    int // number of the first line since the last power-on or reset
	partial []byte
	began   time.Time // of partial
	changed chan struct{}
}

func newConsole(path string, alarm func(string)) (*console, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &console{alarm: alarm, file: f, changed: make(chan struct{})}, nil
}

// record reads a machine's console until it ends. onByte is called at the first byte.
func (c *console) record(r io.Reader, onByte func()) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if onByte != nil {
				onByte()
				onByte = nil
			}
			c.write(buf[:n])
		}
		if err != nil {
			c.endLine()
			return
		}
	}
}

func (c *console) write(data []byte) {
	now := time.Now()
	var alarms []string
	c.mu.Lock()
	for _, b := range data {
		if len(c.partial) == 0 {
			c.began = now
		}
		if b != '\n' {
			c.partial = append(c.partial, b)
		}
		if b == '\n' || len(c.partial) >= longLine {
			if t := c.finish(); t != "" {
				alarms = append(alarms, t)
			}
		}
	}
	c.notify()
	c.mu.Unlock()
	for _, a := range alarms {
		c.alarm(a)
	}
}

// finish turns partial into a line and returns its text if it is alarming.
func (c *console) finish() (alarming string) {
	l := ConsoleLine{c.began, clean(c.partial)}
	c.partial = c.partial[:0]
	if len(c.lines) >= keepLines {
		cut := keepLines / 10
		c.lines = append(c.lines[:0], c.lines[cut:]...)
		c.dropped += cut
	}
	c.lines = append(c.lines, l)
	fmt.Fprintln(c.file, l.At.Format("2006-01-02T15:04:05.000Z07:00")+"  "+l.Text)
	if trouble.MatchString(l.Text) {
		return l.Text
	}
	return ""
}

func (c *console) endLine() {
	c.mu.Lock()
	alarm := ""
	if len(c.partial) > 0 {
		alarm = c.finish()
	}
	c.notify()
	c.mu.Unlock()
	if alarm != "" {
		c.alarm(alarm)
	}
}

func (c *console) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// newBoot marks the place from which wait looks.
func (c *console) newBoot() {
	c.endLine()
	c.mu.Lock()
	c.boot = c.dropped + len(c.lines)
	c.mu.Unlock()
}

// since returns the lines from a number on, the number of the next one, and a channel that is closed
// when there is more. An unfinished line is part of the list but not of the count.
func (c *console) since(from int) (lines []ConsoleLine, next int, more <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := max(from-c.dropped, 0)
	if i < len(c.lines) {
		lines = append(lines, c.lines[i:]...)
	}
	if len(c.partial) > 0 {
		lines = append(lines, ConsoleLine{c.began, clean(c.partial)})
	}
	return lines, c.dropped + len(c.lines), c.changed
}

func (c *console) bootStart() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

// wait returns the first line of the current boot that matches.
func (c *console) wait(ctx context.Context, re *regexp.Regexp) (ConsoleLine, error) {
	from := c.bootStart()
	for {
		lines, next, more := c.since(from)
		for _, l := range lines {
			if re.MatchString(l.Text) {
				return l, nil
			}
		}
		from = next
		select {
		case <-more:
		case <-ctx.Done():
			return ConsoleLine{}, fmt.Errorf("console does not show %q: %w", re, ctx.Err())
		}
	}
}

func (c *console) tail(n int) []ConsoleLine {
	lines, _, _ := c.since(0)
	return lines[max(0, len(lines)-n):]
}

func (c *console) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.file.Close())
}

func clean(b []byte) string {
	return strings.ToValidUTF8(control.ReplaceAllString(string(b), ""), "\uFFFD")
}
