package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine is where a longer line of a log is cut into several, in bytes.
const maxLine = 64 << 10

// trimLogs frees the old part of each log. The file is not truncated or renamed, because its writer is the
// container itself: a hole is punched at its beginning, so that not a line is lost in between.
func (r *Runtime) trimLogs() {
	tick := time.NewTicker(TrimEvery)
	defer tick.Stop()
	trimmed := map[string]int64{}
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		r.mu.Lock()
		var names []string
		for _, b := range r.boxes {
			if b.running {
				names = append(names, b.Name)
			}
		}
		r.mu.Unlock()
		next := make(map[string]int64, len(names))
		for _, name := range names {
			to, err := trimLog(r.dir(name, "log"), trimmed[name])
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				r.cfg.Log.Warn("could not trim a container's log", "container", name, "err", err)
			}
			next[name] = to
		}
		trimmed = next
	}
}

// trimLog frees all but the last LogKeep bytes; from is where the last call stopped.
func trimLog(path string, from int64) (to int64, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return from, err
	}
	to = (st.Size() - LogKeep) &^ 4095 // whole pages
	if to <= from {
		return from, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return from, err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, to); err != nil {
		return from, fmt.Errorf("punch a hole into %s: %w", path, err)
	}
	return to, nil
}

// Logs calls fn for each line of the container's log: the last tail lines that are kept, all if tail is
// negative, and, with follow, those that come, until ctx ends or the container is removed. An error of fn
// ends it and is returned.
func (r *Runtime) Logs(ctx context.Context, id string, follow bool, tail int, fn func(line string) error) error {
	r.mu.Lock()
	b, ok := r.boxes[id]
	r.mu.Unlock()
	if !ok {
		return fmt.Errorf("logs of %s: %w", id, ErrNotFound)
	}
	f, err := os.Open(r.dir(b.Name, "log"))
	if err != nil {
		return fmt.Errorf("logs of %s: %w", id, err)
	}
	defer f.Close()
	return tailFile(ctx, f, follow, tail, fn)
}

func tailFile(ctx context.Context, f *os.File, follow bool, tail int, fn func(string) error) error {
	// The watch is set before the first read: what is written in between is then either read or noticed.
	var changes *os.File
	if follow {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return fmt.Errorf("follow %s: %w", f.Name(), err)
		}
		changes = os.NewFile(uintptr(fd), "inotify")
		defer changes.Close()
		if _, err := unix.InotifyAddWatch(fd, f.Name(), unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_DELETE_SELF); err != nil {
			return fmt.Errorf("follow %s: %w", f.Name(), err)
		}
		defer context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Unix(1, 0)) })()
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	size := st.Size()
	off := max(0, size-LogKeep)
	lines := splitter{skip: off > 0}
	var kept []string // the first part is known only when its end is reached, to count from behind
	for _, l := range lines.take(f, &off, size) {
		if kept = append(kept, l); tail >= 0 && len(kept) > tail {
			kept = kept[1:]
		}
	}
	for _, l := range kept {
		if err := fn(l); err != nil {
			return err
		}
	}
	if !follow {
		if l := lines.rest(); l != "" && tail != 0 {
			return fn(l)
		}
		return nil
	}
	events := make([]byte, 4096)
	for {
		if st, err = f.Stat(); err != nil {
			return err
		}
		if st.Size()-off > LogKeep { // the writer is faster; what is gone is gone
			off, lines = st.Size()-LogKeep, splitter{skip: true}
		}
		for _, l := range lines.take(f, &off, st.Size()) {
			if err := fn(l); err != nil {
				return err
			}
		}
		if removed(f) {
			return nil
		}
		if _, err := changes.Read(events); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("follow %s: %w", f.Name(), err)
		}
	}
}

func removed(f *os.File) bool {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return err != nil || st.Nlink == 0
}

// splitter cuts what is read into lines.
type splitter struct {
	skip bool // the first line is a part of one only
	part []byte
}

func (s *splitter) take(f io.ReaderAt, off *int64, to int64) (lines []string) {
	buf := make([]byte, 32<<10)
	for *off < to {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), to-*off)], *off)
		*off += int64(n)
		for chunk := buf[:n]; len(chunk) > 0; {
			i := bytes.IndexByte(chunk, '\n')
			end := i >= 0
			if !end {
				i = len(chunk)
			}
			s.part = append(s.part, chunk[:i]...)
			chunk = chunk[min(i+1, len(chunk)):]
			for len(s.part) >= maxLine && !s.skip {
				lines = append(lines, clean(s.part[:maxLine]))
				s.part = append(s.part[:0], s.part[maxLine:]...)
			}
			if s.skip {
				s.part = s.part[:0]
			}
			if end {
				if !s.skip {
					lines = append(lines, clean(s.part))
				}
				s.part, s.skip = s.part[:0], false
			}
		}
		if err != nil || n == 0 {
			break
		}
	}
	return lines
}

func (s *splitter) rest() string { return clean(s.part) }

// clean drops what trimming turned into zeros while it was read, and a carriage return.
func clean(line []byte) string {
	return string(bytes.TrimSuffix(bytes.TrimLeft(line, "\x00"), []byte("\r")))
}
