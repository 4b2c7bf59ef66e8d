package job

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// MaxTasks is how many tasks one job may have. Each takes some bits of the coordinator's memory.
const MaxTasks = 10_000_000

// maxSpans bounds how scattered a set of indices may be: it is a part of the job's record in the ledger.
const maxSpans = 20_000

// Span is First, First+Step, ... up to Last, which is one of them.
type Span struct {
	First int64 `json:"first"`
	Last  int64 `json:"last"`
	Step  int64 `json:"step,omitempty"` // 0 is 1
}

func (s Span) step() int64 { return max(s.Step, 1) }
func (s Span) len() int64  { return (s.Last-s.First)/s.step() + 1 }

// Indices are the numbers of a job's tasks, in rising order.
type Indices []Span

// ParseIndices reads "1-10000", "0-100:5,200" and with "%50" at the end how many may run at once (0: no limit).
func ParseIndices(text string) (x Indices, limit int, err error) {
	set, most, limited := strings.Cut(text, "%")
	if limited {
		if limit, err = strconv.Atoi(most); err != nil || limit < 1 {
			return nil, 0, fmt.Errorf("indices %q: %q after %% must be how many tasks may run at once, 1 or more", text, most)
		}
	}
	for _, part := range strings.Split(set, ",") {
		s, err := parseSpan(part)
		if err != nil {
			return nil, 0, fmt.Errorf("indices %q: %w", text, err)
		}
		x = append(x, s)
	}
	if err := x.Check(); err != nil {
		return nil, 0, fmt.Errorf("indices %q: %w", text, err)
	}
	return x, limit, nil
}

func parseSpan(part string) (Span, error) {
	bad := func() (Span, error) {
		return Span{}, fmt.Errorf("%q is not a number, FIRST-LAST or FIRST-LAST:STEP", part)
	}
	span, step, stepped := strings.Cut(part, ":")
	first, last, ranged := strings.Cut(span, "-")
	if !ranged {
		last = first
	}
	s := Span{Step: 1}
	for _, f := range []struct {
		text string
		into *int64
	}{{first, &s.First}, {last, &s.Last}, {step, &s.Step}} {
		if f.into == &s.Step && !stepped {
			continue
		}
		n, err := strconv.ParseUint(f.text, 10, 62)
		if err != nil {
			return bad()
		}
		*f.into = int64(n)
	}
	if s.Last < s.First || s.Step < 1 || stepped && !ranged {
		return bad()
	}
	s.Last = s.First + (s.Last-s.First)/s.Step*s.Step
	if s.Step == 1 || s.First == s.Last {
		s.Step = 0
	}
	return s, nil
}

// Check refuses sets that are empty, too large, or name an index twice.
func (x Indices) Check() error {
	if len(x) == 0 {
		return fmt.Errorf("there is no index")
	}
	if len(x) > maxSpans {
		return fmt.Errorf("the indices are in %d pieces, and at most %d can be kept", len(x), maxSpans)
	}
	n, before := int64(0), int64(-1)
	for _, s := range x {
		if s.First < 0 || s.Last < s.First || s.Step < 0 || s.Last > math.MaxInt64/4 || (s.Last-s.First)%s.step() != 0 {
			return fmt.Errorf("%s is not a range", s)
		}
		if s.First <= before {
			return fmt.Errorf("%s comes after %d: indices must rise, and none may be there twice", s, before)
		}
		before = s.Last
		if s.len() > MaxTasks || n+s.len() > MaxTasks {
			return fmt.Errorf("a job has at most %d tasks; divide it into several", MaxTasks)
		}
		n += s.len()
	}
	return nil
}

// Len is how many there are.
func (x Indices) Len() int {
	n := int64(0)
	for _, s := range x {
		n += s.len()
	}
	return int(n)
}

// At is the index at a position, from 0.
func (x Indices) At(pos int) int64 {
	left := int64(pos)
	for _, s := range x {
		if left < s.len() {
			return s.First + left*s.step()
		}
		left -= s.len()
	}
	panic(fmt.Sprintf("position %d of %d indices", pos, x.Len()))
}

// Position finds an index in the set.
func (x Indices) Position(index int64) (pos int, ok bool) {
	for _, s := range x {
		if index >= s.First && index <= s.Last && (index-s.First)%s.step() == 0 {
			return pos + int((index-s.First)/s.step()), true
		}
		pos += int(s.len())
	}
	return 0, false
}

// Select is the set of the indices at some positions, which must rise.
func (x Indices) Select(positions []int) Indices {
	var out Indices
	for _, p := range positions {
		i := x.At(p)
		if n := len(out); n > 0 && out[n-1].Last+1 == i && out[n-1].Step == 0 {
			out[n-1].Last = i
			continue
		}
		out = append(out, Span{First: i, Last: i})
	}
	return out
}

func (s Span) String() string {
	switch {
	case s.First == s.Last:
		return strconv.FormatInt(s.First, 10)
	case s.step() == 1:
		return fmt.Sprintf("%d-%d", s.First, s.Last)
	default:
		return fmt.Sprintf("%d-%d:%d", s.First, s.Last, s.Step)
	}
}

func (x Indices) String() string {
	var parts []string
	for _, s := range x {
		parts = append(parts, s.String())
	}
	return strings.Join(parts, ",")
}

// ranges are half-open ranges of positions, sorted, apart from each other.
type ranges []span32

type span32 struct{ from, to int32 }

func (r ranges) count() int {
	n := 0
	for _, s := range r {
		n += int(s.to - s.from)
	}
	return n
}

// add puts positions in that are not there yet.
func (r *ranges) add(from, to int32) {
	if from >= to {
		return
	}
	i, _ := slices.BinarySearchFunc(*r, from, func(s span32, p int32) int { return int(s.from) - int(p) })
	joinsLeft := i > 0 && (*r)[i-1].to == from
	joinsRight := i < len(*r) && (*r)[i].from == to
	switch {
	case joinsLeft && joinsRight:
		(*r)[i-1].to = (*r)[i].to
		*r = slices.Delete(*r, i, i+1)
	case joinsLeft:
		(*r)[i-1].to = to
	case joinsRight:
		(*r)[i].from = from
	default:
		*r = slices.Insert(*r, i, span32{from, to})
	}
}

// remove takes positions out, those that are there.
func (r *ranges) remove(from, to int32) {
	var out ranges
	touched := false
	for _, s := range *r {
		if s.to <= from || s.from >= to {
			out = append(out, s)
			continue
		}
		touched = true
		if s.from < from {
			out = append(out, span32{s.from, from})
		}
		if s.to > to {
			out = append(out, span32{to, s.to})
		}
	}
	if touched {
		*r = out
	}
}

// take removes and returns the first positions, at most most of them, in one piece.
func (r *ranges) take(most int) (span32, bool) {
	if len(*r) == 0 || most < 1 {
		return span32{}, false
	}
	s := (*r)[0]
	if int(s.to-s.from) > most {
		s.to = s.from + int32(most)
		(*r)[0].from = s.to
		return s, true
	}
	*r = slices.Delete(*r, 0, 1)
	return s, true
}

// bits is a set of small numbers.
type bits []uint64

func newBits(n int) bits        { return make(bits, (n+63)/64) }
func (b bits) has(i int32) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bits) set(i int32)      { b[i/64] |= 1 << (i % 64) }
func (b bits) drop(i int32)     { b[i/64] &^= 1 << (i % 64) }
