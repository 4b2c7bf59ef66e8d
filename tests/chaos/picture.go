package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// picture draws a row for each kind of fault: a dot for each outage of an address that was hit, on a scale of
// seconds, with marks at p50, p99 and max. Equal summaries give equal bytes.
func picture(s summary) []byte {
	const (
		left, right, top, height = 170, 150, 40, 44
		width                    = 960
	)
	rows := append(slices.Clone(s.kinds), s.all)
	rows = slices.DeleteFunc(rows, func(f figures) bool { return len(f.hit) == 0 })
	// The scale ends at a half second beyond what there is, and shows both aims.
	end := math.Ceil(max(largest(s.all.hit), aimMax)/500)*500 + 250
	x := func(ms float64) float64 { return left + ms/end*(width-left-right) }
	bottom := top + height*len(rows)
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`, width, bottom+40, width, bottom+40)
	p(`<rect width="%d" height="%d" fill="#fff"/>`, width, bottom+40)
	p(`<text x="%d" y="20" font-size="14">Outage of floating addresses whose node had the fault</text>`, left)
	step := 500.0
	for end/step > 14 {
		step *= 2
	}
	for ms := 0.0; ms <= end; ms += step {
		p(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#eee"/>`, x(ms), top, x(ms), bottom)
		p(`<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%g s</text>`, x(ms), bottom+16, ms/1000)
	}
	for _, aim := range []struct {
		ms   float64
		text string
	}{{aimP50, "aim p50"}, {aimMax, "aim max"}} {
		p(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#2a7" stroke-dasharray="4 3"/>`, x(aim.ms), top-4, x(aim.ms), bottom)
		p(`<text x="%.1f" y="%d" text-anchor="middle" fill="#2a7">%s</text>`, x(aim.ms), bottom+32, aim.text)
	}
	for i, f := range rows {
		y := top + i*height
		middle := float64(y) + height/2
		p(`<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="#ccc"/>`, left, y+height, width-right, y+height)
		p(`<text x="%d" y="%.0f" text-anchor="end">%s</text>`, left-10, middle, f.kind)
		p(`<text x="%d" y="%.0f" text-anchor="end" fill="#777" font-size="10">n = %d</text>`, left-10, middle+13, len(f.hit))
		for k, ms := range f.hit {
			// Neighbours in five lanes, so that dots of equal outages stay apart.
			p(`<circle cx="%.1f" cy="%.1f" r="2.2" fill="#27c" fill-opacity="0.45"/>`, x(ms), middle+float64(k%5-2)*6)
		}
		for _, m := range []struct {
			at    int
			color string
		}{{50, "#000"}, {99, "#c60"}} {
			v := percentile(f.hit, m.at)
			p(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="2"/>`, x(v), y+5, x(v), y+height-5, m.color)
		}
		p(`<text x="%d" y="%.0f"><tspan>p50 %.0f</tspan> <tspan fill="#c60">p99 %.0f</tspan></text>`, width-right+8, middle, percentile(f.hit, 50), percentile(f.hit, 99))
		p(`<text x="%d" y="%.0f" fill="#777">max %.0f ms</text>`, width-right+8, middle+14, largest(f.hit))
	}
	p(`</svg>`)
	return b.Bytes()
}
