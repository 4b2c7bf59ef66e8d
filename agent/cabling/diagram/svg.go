package diagram

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Sizes of the picture, in pixels.
const (
	margin    = 24
	boxWidth  = 190 // of a node
	rowHeight = 34  // of a port
	boxPad    = 30  // of a node, for its name
	boxGap    = 18
	firstBar  = 190 // from the nodes to the first switch
	barGap    = 150 // between two switches
	barWidth  = 26
	noteChars = 46 // that fit beside the last switch
	noteWidth = 330
	lineChars = 150 // of a sentence below
)

const (
	ink    = "#1f2937"
	pale   = "#6b7280"
	border = "#94a3b8"
	ground = "#f8fafc"
	bar    = "#334155"
)

var cableColors = map[State]string{Good: "#15803d", Bad: "#d97706", Down: "#b91c1c", Unknown: "#94a3b8"}

// SVG draws the cabling: a box for each node with its ports on the left, a bar for each switch, and a line for each
// cable, which ends in a dot on the bar that it is plugged into.
func SVG(title string, nodes []Node) []byte {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b Node) int { return natural(a.Name, b.Name) })
	all := hubs(nodes)
	column := map[string]int{}
	named := 0
	for _, h := range all {
		if h.name != "" {
			column[h.chassis] = named
			named++
		}
	}
	barX := func(i int) int { return margin + boxWidth + firstBar + i*barGap }
	right := barX(max(named-1, 0)) + barWidth/2
	width := right + noteWidth + margin
	var below, lines, bars, over bytes.Buffer
	text := func(b *bytes.Buffer, x, y int, anchor, color string, size int, weight, s string) {
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="%s" fill="%s" font-size="%d" font-weight="%s">`, x, y, anchor, color, size, weight)
		_ = xml.EscapeText(b, []byte(s)) // a buffer takes it
		b.WriteString("</text>\n")
	}
	text(&over, margin, 34, "start", ink, 18, "600", title)
	top := 84
	y := top
	for i := range nodes {
		n := &nodes[i]
		height := boxPad + max(len(n.Ports), 1)*rowHeight
		fmt.Fprintf(&below, `<rect x="%d" y="%d" width="%d" height="%d" rx="6" fill="%s" stroke="%s"/>`+"\n", margin, y, boxWidth, height, ground, border)
		text(&over, margin+12, y+21, "start", ink, 14, "600", n.Name)
		if n.Note != "" {
			text(&over, margin+boxWidth-10, y+21, "end", cableColors[Down], 11, "400", cut(n.Note, 20))
		}
		ports := slices.Clone(n.Ports)
		slices.SortFunc(ports, func(a, b Port) int { return natural(a.Name, b.Name) })
		for j := range ports {
			p := &ports[j]
			at := y + boxPad + j*rowHeight + rowHeight/2
			text(&over, margin+boxWidth-14, at+4, "end", ink, 13, "400", p.label())
			if len(p.Addrs) > 0 {
				text(&over, margin+12, at+4, "start", pale, 11, "400", p.Addrs[0].Addr().String())
			}
			end, color, dash := margin+boxWidth+firstBar/3, cableColors[n.state(p)], ""
			if n.state(p) == Down {
				dash = ` stroke-dasharray="6 5"`
			}
			if sw := p.Switch(); sw != nil {
				end = barX(column[sw.Chassis])
				fmt.Fprintf(&over, `<circle cx="%d" cy="%d" r="5" fill="%s" stroke="#ffffff" stroke-width="1.5"/>`+"\n", end, at, color)
				text(&over, end-barWidth/2-6, at-5, "end", pale, 11, "400", sw.Port)
			} else {
				text(&over, end+8, at+4, "start", pale, 11, "400", "no switch is heard")
			}
			fmt.Fprintf(&lines, `<path d="M%d %dH%d" stroke="%s" stroke-width="2.5" fill="none"%s/>`+"\n", margin+boxWidth, at, end, color, dash)
			fmt.Fprintf(&over, `<circle cx="%d" cy="%d" r="4" fill="%s"/>`+"\n", margin+boxWidth, at, color)
			if t := p.trouble(); t != "" {
				text(&over, right+14, at+4, "start", color, 12, "400", cut(t, noteChars))
			}
		}
		y += height + boxGap
	}
	bottom := y
	for _, h := range all {
		if h.name == "" {
			continue
		}
		x := barX(column[h.chassis])
		fmt.Fprintf(&bars, `<rect x="%d" y="%d" width="%d" height="%d" rx="5" fill="%s"/>`+"\n", x-barWidth/2, top-6, barWidth, bottom-top-boxGap+12, bar)
		text(&over, x, top-16, "middle", ink, 13, "600", cut(h.name, 20))
	}
	y = bottom + 14
	for _, n := range nodes {
		for _, f := range n.Faults {
			text(&over, margin, y, "start", cableColors[Down], 12, "400", "! "+cut(f, lineChars))
			y += 18
			width = max(width, margin*2+7*min(utf8.RuneCountInString(f)+2, lineChars))
		}
	}
	x := margin
	for _, k := range []struct {
		state State
		what  string
	}{{Good, "works"}, {Bad, "works badly"}, {Down, "no carrier"}, {Unknown, "not known now"}} {
		dash := ""
		if k.state == Down {
			dash = ` stroke-dasharray="6 5"`
		}
		fmt.Fprintf(&lines, `<path d="M%d %dH%d" stroke="%s" stroke-width="2.5"%s/>`+"\n", x, y+6, x+28, cableColors[k.state], dash)
		text(&over, x+36, y+10, "start", pale, 11, "400", k.what)
		x += 130
	}
	height := y + 10 + margin
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, sans-serif">`+"\n"+
		`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n", width, height, width, height)
	for _, part := range []*bytes.Buffer{&below, &lines, &bars, &over} {
		out.Write(part.Bytes())
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// cut shortens a text to so many characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
