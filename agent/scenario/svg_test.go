package scenario_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/scenario"
)

func picture(t interface {
	Helper()
	Fatalf(string, ...any)
}, r *scenario.Run, title string) string {
	t.Helper()
	var a, b bytes.Buffer
	if err := errors.Join(r.WriteSVG(&a, title), r.WriteSVG(&b, title)); err != nil {
		t.Fatalf("%v", err)
	}
	if a.String() != b.String() {
		t.Fatalf("two pictures of one run differ")
	}
	dec := xml.NewDecoder(&b)
	for {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			return a.String()
		} else if err != nil {
			t.Fatalf("no XML: %v\n%s", err, a.String())
		}
	}
}

func TestPicture(t *testing.T) {
	r := &scenario.Run{
		Stage: "simulator", Nodes: []string{"n1", "n2"}, Length: 10 * time.Second, Failure: "line 3: got <nothing>",
		Marks: []scenario.Mark{
			{At: 2 * time.Second, Kind: scenario.Did, Node: "n1", Text: "power off n1"},
			{At: 3 * time.Second, Kind: scenario.Occurred, Node: "n1", Text: "n1 is lost & gone"},
			{At: 10 * time.Second, Kind: scenario.Failed, Text: "line 3: got <nothing>"},
		},
		History: scenario.History{
			Owned:    []scenario.Span{{Node: "n1", What: "web", To: 2 * time.Second}, {Node: "n2", What: "web", From: 3 * time.Second, To: 10 * time.Second}},
			Machines: []scenario.Span{{Node: "n1", What: "off", From: 2 * time.Second, To: 10 * time.Second}},
			Outages:  []scenario.Span{{What: "web", From: 2 * time.Second, To: 3 * time.Second}},
		},
	}
	got := picture(t, r, "power <cut>")
	// 1200 wide less gutter and margin is 1070 for 10 s: 107 a second from 110 on.
	for _, want := range []string{
		`power &lt;cut&gt;`, `FAILED on the simulator: line 3: got &lt;nothing&gt;`, `n1 is lost &amp; gone`,
		`class="outage" x="324.0" y=`, `width="107.0" height="9" fill="#e53e3e"`,
		`class="owned" x="431.0"`, `class="machine" x="324.0"`, `class="did" x1="324.0"`, `class="event" cx="431.0"`,
		`1   2.000 s   power off n1`, `3.000 s   n1 is lost`, `>10 s</text>`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestPictureOfAnything: whatever a cluster says, the picture is XML.
func TestPictureOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		at := rapid.Map(rapid.Int64Range(0, int64(2*time.Hour)), func(n int64) time.Duration { return time.Duration(n) })
		span := rapid.Custom(func(t *rapid.T) scenario.Span {
			return scenario.Span{Node: text.Draw(t, "node"), What: text.Draw(t, "what"), From: at.Draw(t, "from"), To: at.Draw(t, "to")}
		})
		r := &scenario.Run{Nodes: rapid.SliceOf(text).Draw(t, "nodes"), Length: at.Draw(t, "length"), Failure: text.Draw(t, "failure")}
		r.Owned, r.Outages = rapid.SliceOf(span).Draw(t, "owned"), rapid.SliceOf(span).Draw(t, "outages")
		for range rapid.IntRange(0, 80).Draw(t, "marks") {
			r.Marks = append(r.Marks, scenario.Mark{At: at.Draw(t, "at"), Kind: scenario.Did, Node: text.Draw(t, "about"), Text: text.Draw(t, "text")})
		}
		picture(t, r, text.Draw(t, "title"))
	})
}

func TestRecorder(t *testing.T) {
	var r scenario.Recorder
	a, b := scenario.Span{Node: "n1", What: "web"}, scenario.Span{Node: "n2", What: "web"}
	r.Observe(1, []scenario.Span{a})
	r.Observe(2, []scenario.Span{a, b})
	r.Observe(3, []scenario.Span{b})
	r.Observe(4, []scenario.Span{a})
	got := r.Spans(5)
	want := []scenario.Span{{"n1", "web", 1, 3}, {"n2", "web", 2, 4}, {"n1", "web", 4, 5}}
	if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLongestOutage(t *testing.T) {
	const s = time.Second
	r := &scenario.Run{Arranged: []scenario.Span{{From: 5 * s, To: 10 * s}}}
	r.Outages = []scenario.Span{{From: 1 * s, To: 3 * s}, {From: 7 * s, To: 90 * s}, {From: 10*s - 1, To: 15 * s}}
	if got, want := r.LongestOutage(), 5*s+1; got != want {
		t.Errorf("got %v, want %v: the second began while all was made ready", got, want)
	}
}
