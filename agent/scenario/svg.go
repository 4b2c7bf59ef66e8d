package scenario

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"
)

// Sizes of the picture, in pixels.
const (
	pictureWidth = 1200
	gutter       = 110 // names of rows
	margin       = 20
	laneHeight   = 12
	listHeight   = 15
	mostListed   = 60 // steps and events in the lists below; the picture has all of them
	listChars    = 92 // that fit a column
)

var palette = []string{"#2b6cb0", "#2f855a", "#b7791f", "#6b46c1", "#00808a", "#97266d", "#4a5568", "#9c4221"}

// WriteSVG draws the run: a row for what clients saw, with outages in red; a row for each node, with bars for
// the services that it ran and a grey ground while it was not well; numbered lines for the steps, dots for events.
// The same run gives the same bytes.
func (r *Run) WriteSVG(w io.Writer, title string) error {
	d := &drawing{run: r, services: r.services()}
	d.scale = float64(pictureWidth-gutter-margin) / max(r.Length.Seconds(), 0.001)
	d.body(title)
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n"+
		`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n%s</svg>\n", pictureWidth, d.y, pictureWidth, d.y, d.out.Bytes())
	return err
}

func (r *Run) services() []string {
	var names []string
	for _, s := range slices.Concat(r.Owned, r.Outages) {
		if !slices.Contains(names, s.What) {
			names = append(names, s.What)
		}
	}
	slices.Sort(names)
	return names
}

type drawing struct {
	run      *Run
	services []string
	scale    float64 // pixels a second
	y        int     // the first free line
	out      bytes.Buffer
}

func (d *drawing) body(title string) {
	d.y = 24
	d.text(margin, d.y, "#1a202c", 16, title)
	verdict, color := "passed on the "+d.run.Stage, "#2f855a"
	if d.run.Failure != "" {
		verdict, color = "FAILED on the "+d.run.Stage+": "+d.run.Failure, "#c53030"
	}
	d.y += 18
	d.text(margin, d.y, color, 12, cut(verdict, 180))
	d.y += 18
	d.key()
	d.y += 26
	top := d.y
	d.row("client", nil, d.run.Outages)
	for _, n := range d.run.Nodes {
		d.row(n, d.run.Machines, d.run.Owned)
	}
	d.axis(top)
	d.steps(top)
	d.y += 34
	d.lists()
}

// key says which color is which service.
func (d *drawing) key() {
	x := gutter
	for i, s := range d.services {
		fmt.Fprintf(&d.out, `<rect x="%d" y="%d" width="10" height="10" fill="%s"/>`+"\n", x, d.y-9, palette[i%len(palette)])
		d.text(x+14, d.y, "#1a202c", 11, cut(s, 40))
		if x += 34 + 7*min(utf8.RuneCountInString(s), 40); x > pictureWidth-200 {
			x = gutter
			d.y += 14
		}
	}
}

func (d *drawing) x(at time.Duration) float64 { return gutter + at.Seconds()*d.scale }

// bar is a rectangle that is wide enough to be seen.
func (d *drawing) bar(s Span, y, height int, color, class string) {
	x, w := d.x(s.From), max((s.To-s.From).Seconds()*d.scale, 2)
	fmt.Fprintf(&d.out, `<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`+"\n",
		class, x, y, w, height, color, escape(fmt.Sprintf("%s %s: %s to %s, %s", s.Node, s.What, seconds(s.From), seconds(s.To), seconds(s.To-s.From))))
}

// row draws the client's row, if name is that, or a node's.
func (d *drawing) row(name string, ground, bars []Span) {
	height := max(len(d.services), 1)*laneHeight + 8
	d.text(margin, d.y+height/2+4, "#1a202c", 12, cut(name, 14))
	fmt.Fprintf(&d.out, `<rect x="%d" y="%d" width="%d" height="%d" fill="#f7fafc" stroke="#e2e8f0"/>`+"\n", gutter, d.y, pictureWidth-gutter-margin, height)
	for _, s := range ground {
		if s.Node == name {
			d.bar(s, d.y, height, "#cbd5e0", "machine")
		}
	}
	for _, s := range bars {
		if s.Node != name && name != "client" {
			continue
		}
		lane := slices.Index(d.services, s.What)
		color, class := palette[lane%len(palette)], "owned"
		if name == "client" {
			color, class = "#e53e3e", "outage"
		}
		d.bar(s, d.y+4+lane*laneHeight, laneHeight-3, color, class)
	}
	for _, m := range d.run.Marks {
		if m.Kind == Occurred && (m.Node == name || m.Node == "" && name == "client") {
			fmt.Fprintf(&d.out, `<circle class="event" cx="%.1f" cy="%d" r="2.5" fill="#1a202c"><title>%s</title></circle>`+"\n",
				d.x(m.At), d.y+height-3, escape(seconds(m.At)+" "+m.Text))
		}
	}
	d.y += height + 4
}

func (d *drawing) axis(top int) {
	tick := tickOf(d.run.Length)
	for at := time.Duration(0); at <= d.run.Length; at += tick {
		x := d.x(at)
		fmt.Fprintf(&d.out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#a0aec0" stroke-width="0.5"/>`+"\n", x, top, x, d.y+4)
		d.text(int(x)+2, d.y+14, "#4a5568", 10, fmt.Sprintf("%g s", at.Seconds()))
	}
}

// tickOf is 1, 2 or 5 times a power of ten, so that there are a dozen at most.
func tickOf(length time.Duration) time.Duration {
	for unit := time.Millisecond; ; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if length <= 12*n*unit {
				return n * unit
			}
		}
	}
}

func (d *drawing) steps(top int) {
	n, last := 0, -100.0
	for _, m := range d.run.Marks {
		if m.Kind != Did && m.Kind != Failed {
			continue
		}
		color, label := "#4a5568", ""
		if m.Kind == Failed {
			color = "#c53030"
		} else {
			n++
			label = fmt.Sprint(n)
		}
		x := d.x(m.At)
		fmt.Fprintf(&d.out, `<line class="%s" x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-dasharray="3,3"><title>%s</title></line>`+"\n",
			m.Kind, x, top-4, x, d.y, color, escape(seconds(m.At)+" "+m.Text))
		if x-last >= 12 { // numbers that would lie upon each other are found by the line's title
			d.text(int(x)-3, top-6, color, 10, label)
			last = x
		}
	}
}

// lists are the steps by number, and the events, side by side.
func (d *drawing) lists() {
	var left, right []string
	n := 0
	for _, m := range d.run.Marks {
		switch m.Kind {
		case Did:
			n++
			left = append(left, fmt.Sprintf("%d   %s   %s", n, seconds(m.At), m.Text))
		case Failed:
			left = append(left, fmt.Sprintf("FAILED   %s   %s", seconds(m.At), m.Text))
		case Occurred:
			right = append(right, seconds(m.At)+"   "+m.Text)
		}
	}
	y := d.y
	for i, list := range [][]string{left, right} {
		x := margin + i*(pictureWidth-margin)/2
		at := y
		d.text(x, at, "#1a202c", 12, []string{"what was done", "what happened"}[i])
		more := len(list) - mostListed
		for _, line := range list[:min(len(list), mostListed)] {
			at += listHeight
			d.text(x, at, "#2d3748", 11, cut(line, listChars))
		}
		if more > 0 {
			at += listHeight
			d.text(x, at, "#2d3748", 11, fmt.Sprintf("and %d more", more))
		}
		d.y = max(d.y, at)
	}
	d.y += margin
}

func (d *drawing) text(x, y int, color string, size int, s string) {
	fmt.Fprintf(&d.out, `<text x="%d" y="%d" fill="%s" font-size="%d">%s</text>`+"\n", x, y, color, size, escape(s))
}

// escape makes text of anything: what XML cannot hold becomes U+FFFD.
func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes all
	return b.String()
}

// cut bounds a line.
func cut(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-3]) + "..."
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
