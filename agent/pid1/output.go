package pid1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"
)

const (
	// maxOutputLine is where longer lines of the agent are broken, in bytes.
	maxOutputLine = 8 << 10
	// queuedLines is how many lines may wait for a slow console before some are dropped.
	queuedLines = 512
	// maxLogFile is the size at which the agent's log is cut to its newer half, in bytes.
	maxLogFile = 1 << 20
)

// sink is a place for lines that may be slow, such as a serial console. Writing to it never blocks: when its
// queue is full lines are dropped, and how many is said when there is room again.
type sink struct {
	w       io.Writer
	queue   chan queued
	dropped atomic.Int64
}

// queued is a line, or a mark in the queue that is closed when its turn comes.
type queued struct {
	line []byte
	mark chan<- struct{}
}

// newSink returns a sink; its goroutine lives as long as PID 1.
func newSink(w io.Writer) *sink {
	s := &sink{w: w, queue: make(chan queued, queuedLines)}
	go func() {
		defer dieOnPanic()
		s.drain()
	}()
	return s
}

// put queues one line with its end. The sink keeps it.
func (s *sink) put(line []byte) {
	select {
	case s.queue <- queued{line: line}:
	default:
		s.dropped.Add(1)
	}
}

func (s *sink) drain() {
	for q := range s.queue {
		if q.mark != nil {
			close(q.mark)
			continue
		}
		s.w.Write(q.line) // a console that fails has nobody to be told
		if n := s.dropped.Swap(0); n > 0 {
			fmt.Fprintf(s.w, "skein: %d lines were dropped here: this console is too slow\n", n)
		}
	}
}

// flush waits until everything queued is written, at most for the limit. It reports whether that was so.
func (s *sink) flush(limit time.Duration) bool {
	late := time.After(limit)
	mark := make(chan struct{})
	select {
	case s.queue <- queued{mark: mark}:
	case <-late:
		return false
	}
	select {
	case <-mark:
		return true
	case <-late:
		return false
	}
}

// copyLines hands r to put line by line until r ends. Lines longer than maxOutputLine are broken; what is left at
// the end without a line's end gets one.
func copyLines(r io.Reader, put func(line []byte)) error {
	br := bufio.NewReaderSize(r, maxOutputLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			out := bytes.Clone(line)
			if out[len(out)-1] != '\n' {
				out = append(out, '\n')
			}
			put(out)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// ringFile is a log file of bounded size that keeps the newest lines.
type ringFile struct {
	path string
	max  int64
	f    *os.File
	size int64
}

func newRingFile(path string, max int64) (*ringFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &ringFile{path: path, max: max, f: f, size: info.Size()}, nil
}

// Write appends whole lines. When the file would grow over its limit it is first replaced by its newer half.
func (r *ringFile) Write(lines []byte) (int, error) {
	if r.size+int64(len(lines)) > r.max {
		if err := r.cut(); err != nil {
			return 0, err
		}
	}
	n, err := r.f.Write(lines)
	r.size += int64(n)
	return n, err
}

// cut replaces the file by one with the newer half of its lines. The old one is renamed over, not truncated: a
// reader that follows it sees a whole file at any moment.
func (r *ringFile) cut() error {
	tail := make([]byte, min(r.size, r.max/2))
	n, err := r.f.ReadAt(tail, r.size-int64(len(tail)))
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cut log: %w", err)
	}
	tail = tail[:n]
	if _, after, found := bytes.Cut(tail, []byte{'\n'}); found && r.size > int64(n) {
		tail = after // the first line is most likely a part of one
	}
	next, err := os.OpenFile(r.path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("cut log: %w", err)
	}
	if _, err := next.Write(tail); err != nil {
		next.Close()
		return fmt.Errorf("cut log: %w", err)
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		next.Close()
		return fmt.Errorf("cut log: %w", err)
	}
	r.f.Close()
	r.f, r.size = next, int64(len(tail))
	return nil
}
