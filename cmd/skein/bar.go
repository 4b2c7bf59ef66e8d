package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/skein-os/skein/agent/job"
)

// bar is a job's progress on a terminal: one line that is drawn again and again. Elsewhere it is a line now and then.
type bar struct {
	mu    sync.Mutex
	w     io.Writer
	tty   bool
	drawn bool
	last  time.Time
	said  string
	// marks are how many tasks had ended when, over the last while: the rate is that of now, not of the whole.
	marks []mark
}

type mark struct {
	at time.Time
	n  int
}

// rateOver is the time over which a rate is measured.
const rateOver = 10 * time.Second

func newBar(w io.Writer) *bar {
	b := &bar{w: w, last: time.Now()}
	if f, ok := w.(*os.File); ok {
		if st, err := f.Stat(); err == nil {
			b.tty = st.Mode()&os.ModeCharDevice != 0
		}
	}
	return b
}

func (b *bar) draw(p *job.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	text := b.line(p, now)
	switch {
	case b.tty:
		fmt.Fprintf(b.w, "\r\033[K%s", text)
		b.drawn = true
	case now.Sub(b.last) >= rateOver, p.Blocked != "" && p.Blocked != b.said:
		fmt.Fprintln(b.w, text)
		b.last, b.said = now, p.Blocked
	}
}

// line is "[####......] 43 %  4300 of 10000, 2 failed, 812 a second, 7s left".
func (b *bar) line(p *job.Progress, now time.Time) string {
	n, all := p.OK+p.Bad, p.Spec.Indices.Len()
	b.marks = append(b.marks, mark{now, n})
	for len(b.marks) > 2 && now.Sub(b.marks[0].at) > rateOver {
		b.marks = b.marks[1:]
	}
	const width = 30
	full := width * n / all
	text := fmt.Sprintf("[%s%s] %d %%  %d of %d", strings.Repeat("#", full), strings.Repeat(".", width-full), 100*n/all, n, all)
	if p.Bad > 0 {
		text += fmt.Sprintf(", %d failed", p.Bad)
	}
	first := b.marks[0]
	if d := now.Sub(first.at); n > first.n && d > 0 {
		rate := float64(n-first.n) / d.Seconds()
		left := time.Duration(float64(all-n) / rate * float64(time.Second))
		text += fmt.Sprintf(", %.3g a second, %s left", rate, left.Round(time.Second))
	}
	if p.Blocked != "" {
		text += ": " + p.Blocked
	}
	return text
}

// clear makes room for other lines; the bar is drawn again after them.
func (b *bar) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drawn {
		fmt.Fprint(b.w, "\r\033[K")
		b.drawn = false
	}
}

func newTable(w io.Writer) *table {
	return &table{w: tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)}
}
