package multipath

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Status is what the kernel says of a map that runs.
type Status struct {
	Groups []GroupStatus
	// Next is the group that I/O goes to, or will go to, counted from 1; 0 if there is none.
	Next int
}

// GroupStatus is one group. Active: I/O goes there now.
type GroupStatus struct {
	Active, Disabled bool
	Paths            []PathStatus
}

// PathStatus is one path. Failures are those since the table was loaded.
type PathStatus struct {
	Dev      string
	Active   bool
	Failures uint64
}

// path finds a path.
func (s Status) path(dev string) (PathStatus, bool) {
	for _, g := range s.Groups {
		for _, p := range g.Paths {
			if p.Dev == dev {
				return p, true
			}
		}
	}
	return PathStatus{}, false
}

// active is the number of the group that I/O goes to; 0 if there is none yet.
func (s Status) active() int {
	for i, g := range s.Groups {
		if g.Active {
			return i + 1
		}
	}
	return 0
}

// words reads a line of dm-mpath from the left. After the first error it gives zero values.
type words struct {
	rest []string
	err  error
}

func (w *words) next(what string) string {
	if w.err == nil && len(w.rest) == 0 {
		w.err = fmt.Errorf("it ends before %s", what)
	}
	if w.err != nil {
		return ""
	}
	s := w.rest[0]
	w.rest = w.rest[1:]
	return s
}

// number reads a count; at most max.
func (w *words) number(what string, max uint64) uint64 {
	s := w.next(what)
	if w.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > max {
		w.err = fmt.Errorf("%s: %q is no number up to %d", what, s, max)
		return 0
	}
	return n
}

// list reads a count and that many words.
func (w *words) list(what string) []string {
	n := w.number("the number of "+what, uint64(len(w.rest)))
	var out []string
	for range n {
		out = append(out, w.next(what))
	}
	return out
}

func (w *words) dev() string {
	s := w.next("a path")
	if w.err == nil {
		_, _, w.err = splitDev(s)
	}
	return s
}

func (w *words) end() error {
	if w.err == nil && len(w.rest) > 0 {
		w.err = fmt.Errorf("%q is left over", strings.Join(w.rest, " "))
	}
	return w.err
}

// ParseStatus reads the status line of the multipath target (multipath_status in drivers/md/dm-mpath.c).
func ParseStatus(line string) (Status, error) {
	w := &words{rest: strings.Fields(line)}
	var s Status
	w.list("features")
	w.list("words of the hardware handler")
	n := w.number("the number of groups", uint64(len(w.rest)))
	s.Next = int(w.number("the next group", n))
	for range n {
		var g GroupStatus
		switch state := w.next("the state of a group"); state {
		case "A":
			g.Active = true
		case "D":
			g.Disabled = true
		case "E":
		default:
			if w.err == nil {
				w.err = fmt.Errorf("%q is no state of a group", state)
			}
		}
		w.list("words of the selector")
		paths := w.number("the number of paths", uint64(len(w.rest)))
		extra := w.number("the number of words of each path", uint64(len(w.rest)))
		for range paths {
			p := PathStatus{Dev: w.dev()}
			switch state := w.next("the state of a path"); state {
			case "A":
				p.Active = true
			case "F":
			default:
				if w.err == nil {
					w.err = fmt.Errorf("%q is no state of a path", state)
				}
			}
			p.Failures = w.number("failures of a path", 1<<32-1)
			for range extra {
				w.next("a word of a path")
			}
			if w.err != nil {
				break
			}
			g.Paths = append(g.Paths, p)
		}
		if w.err != nil {
			break
		}
		s.Groups = append(s.Groups, g)
	}
	if err := w.end(); err != nil {
		return Status{}, fmt.Errorf("status of a multipath map %q: %w", line, err)
	}
	return s, nil
}

// errForeignTable: the map is not one of ours.
var errForeignTable = errors.New("not a table of this package")

// ParseTable reads a table line as the kernel gives it back. Sectors is not in the line.
func ParseTable(line string) (Table, error) {
	w := &words{rest: strings.Fields(line)}
	var t Table
	for _, f := range w.list("features") {
		if f == "queue_if_no_path" {
			t.Queue = true
		}
	}
	w.list("words of the hardware handler")
	n := w.number("the number of groups", uint64(len(w.rest)))
	w.number("the first group", n)
	for range n {
		var g Group
		w.next("the selector")
		w.list("words of the selector")
		paths := w.number("the number of paths", uint64(len(w.rest)))
		extra := w.number("the number of words of each path", uint64(len(w.rest)))
		for range paths {
			g.Paths = append(g.Paths, w.dev())
			for range extra {
				w.next("a word of a path")
			}
			if w.err != nil {
				break
			}
		}
		if w.err != nil {
			break
		}
		t.Groups = append(t.Groups, g)
	}
	if err := w.end(); err != nil {
		return Table{}, fmt.Errorf("table of a multipath map %q: %w", line, errors.Join(errForeignTable, err))
	}
	return t, nil
}
