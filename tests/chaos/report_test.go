package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/qemu/owners"
)

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	tests := []struct {
		list []float64
		p    int
		want float64
	}{
		{nil, 50, 0}, {[]float64{7}, 1, 7}, {[]float64{7}, 99, 7}, {[]float64{1, 2}, 50, 1}, {[]float64{1, 2, 3}, 50, 2},
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {[]float64{1, 2, 3}, 99, 3},
	}
	for _, tt := range tests {
		if got := percentile(tt.list, tt.p); got != tt.want {
			t.Errorf("p%d of %d values: got %v, want %v", tt.p, len(tt.list), got, tt.want)
		}
	}
}

func sample() []Result {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return []Result{
		{Commit: "abc", Seed: 1, Step: 0, Time: at, Kind: PowerCut, Nodes: 3, CPUs: 2, Accel: "tcg", Load1: 2, Others: 0.1, HealthyMs: 21000,
			Faults: []Fault{{Kind: PowerCut, Node: "n1"}}, Lost: []string{"n1"}, Addresses: []AddressResult{
				{Address: "10.77.9.21", Before: "n1", After: "n2", Hit: true, OutageMs: 1000, Handovers: 1, DarkMs: []float64{930}},
				{Address: "10.77.9.22", Before: "n3", After: "n3", OutageMs: 80}}},
		{Commit: "abc", Seed: 1, Step: 1, Time: at.Add(time.Minute), Kind: LinkDown, Nodes: 3, CPUs: 2, Accel: "tcg", Load1: 3, Others: 0.2, HealthyMs: 5000,
			Faults: []Fault{{Kind: LinkDown, Node: "n2", Link: "eth0"}}, Addresses: []AddressResult{{Address: "10.77.9.21", Before: "n2", After: "n2", OutageMs: 90}}},
		{Commit: "def", Seed: 2, Step: 0, Time: at.Add(time.Hour), Kind: PowerCut, Nodes: 3, CPUs: 2, Accel: "tcg", Load1: 4, HealthyMs: 24000,
			Faults: []Fault{{Kind: PowerCut, Node: "n3"}}, Lost: []string{"n3"}, Addresses: []AddressResult{
				{Address: "10.77.9.21", Before: "n3", After: "n2", Hit: true, OutageMs: 1400, Handovers: 1, DarkMs: []float64{1250}}}},
		{Commit: "def", Seed: 2, Time: at.Add(2 * time.Hour), Calm: 10 * time.Minute, LossPercent: 30, JitterMs: 50, Nodes: 3, CPUs: 2, Accel: "tcg",
			Addresses: []AddressResult{{Address: "10.77.9.21", Before: "n2", After: "n2", OutageMs: 700}}},
	}
}

func TestReport(t *testing.T) {
	page := markdown(summarise(sample()), "outage.svg")
	for _, want := range []string{
		"3 random faults in the lab", "p50 1000 ms (aim met), p99 1400 ms, max 1400 ms (aim met)", "Double owners: 0. False takeovers: 0.",
		"| power cut | 2 | 2 | 1000 | 1400 | 1400 | 1400 | 1 | 80 |", "| link down | 1 | 0 | - | - | - | - | 1 | 90 |",
		"| all | 3 | 2 | 1000 |", "of 2 declared lost | 0 |", "lay 930 ms at least, 930 ms in the middle, 1250 ms at most",
		"| 30 % | 50 ms | 10m0s | 3 | 0 | 0 | 700 ms |", "Commits abc, def, seeds 1, 2", "median 3.0, max 4.0",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}

// What must never be is counted and told, step by step.
func TestReportTellsWhatWentWrong(t *testing.T) {
	bad := sample()
	bad[0].Violations = []owners.Violation{{Fault: owners.Overlap, Node: "n1", Owner: "n2", LateMs: 12}}
	bad[1].False = []string{"n2"}
	bad[2].Failure = "not well"
	bad[2].Addresses[0].OutageMs = 9000
	bad[2].Disagree = []string{"10.77.9.21: the ledger says n1, on the wire it is n2"}
	page := markdown(summarise(bad), "outage.svg")
	for _, want := range []string{"(aim missed)", "Double owners: 1. False takeovers: 1.", "overlap of n1 over n2", "step 1 (link down of n2): n2",
		"step 0 (power cut of n3): not well", "| 1 |\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	for i, r := range bad[:3] {
		if !r.bad() {
			t.Errorf("result %d is not bad: %s", i, r.line())
		}
	}
	if good := sample(); slices.ContainsFunc(good, func(r Result) bool { return r.bad() }) {
		t.Errorf("a good result is bad: %+v", good)
	}
}

func TestPictureIsXMLAndRepeats(t *testing.T) {
	svg := picture(summarise(sample()))
	if again := picture(summarise(sample())); string(again) != string(svg) {
		t.Error("the same results gave another picture")
	}
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	circles := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, svg)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	if circles != 4 { // two outages, in the row of their kind and in that of all
		t.Errorf("got %d dots, want 4", circles)
	}
}

// A run that is cut off in the middle of a line counts up to there; damage inside a file is an error.
func TestResultsAddUp(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	for i, r := range sample() {
		if err := appendResult([]string{one, two}[i%2], &r); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(one, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"commit":"x","se`); err != nil {
		t.Fatal(err)
	}
	got, err := readResults([]string{one, two})
	if err != nil || len(got) != len(sample()) {
		t.Fatalf("got %d results, %v, want %d", len(got), err, len(sample()))
	}
	if _, err := f.WriteString("\n{}\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got, err := readResults([]string{one, two}); err == nil {
		t.Fatalf("a damaged line in the middle: got %d results, want an error", len(got))
	}
}

func TestOthers(t *testing.T) {
	at := time.Now()
	from := usage{at: at, all: 1000, ours: 400}
	tests := []struct {
		name string
		to   usage
		want float64
	}{
		{"all ours", usage{at: at.Add(time.Second), all: 1150, ours: 550}, 0},
		{"half of two processors is others'", usage{at: at.Add(time.Second), all: 1150, ours: 450}, 0.5},
		{"a machine that ended", usage{at: at.Add(time.Second), all: 1010, ours: 300}, 0.55},
		{"no time", usage{at: at, all: 1150, ours: 450}, 0},
	}
	for _, tt := range tests {
		if got := others(from, tt.to, 2); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	// The real files can be read: this process has used time, and not more than all.
	for i := 0; processTicks(os.Getpid(), true) == 0; i++ {
		if i > 1<<30 {
			t.Fatal("this process used no time")
		}
	}
	if ours, all := processTicks(os.Getpid(), true), busyTicks(); ours > all {
		t.Errorf("this process used %d ticks of %d", ours, all)
	}
}
