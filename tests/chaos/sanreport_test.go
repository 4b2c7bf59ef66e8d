package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skein-os/skein/tests/bank"
)

func TestSANReport(t *testing.T) {
	dir := t.TempDir()
	for _, r := range []sanResult{
		{Kind: ownerCut, Moved: true, GapMs: 4000}, {Kind: ownerCut, Moved: true, GapMs: 6000}, {Kind: portalCut, GapMs: 3000},
		{Kind: portalCut, Seed: 7, Step: 3, Failure: "no transaction was acknowledged"},
	} {
		if err := appendResult(filepath.Join(dir, "san.jsonl"), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := appendResult(filepath.Join(dir, "san-summary.jsonl"), sanSummary{Commit: "abc", Judged: 90, TwoWriters: 1,
		Audit: &bank.Audit{Acknowledged: 100, Unknown: 5, Missing: []string{"x"}}}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "san.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"kind":"cut of`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	page := filepath.Join(dir, "page.md")
	if err := writeSANReport(page, []string{dir}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| faults | 4 |", "| of these missing in the end | **1** |", "GOOD | **1** of 90 commands", "| owner: power cut | 2 | 2 | 4.0 s | 6.0 s | 6.0 s | 0 |",
		"| a portal cut and back | 2 | 0 | 3.0 s | 3.0 s | 3.0 s | 1 |", "seed 7, step 3: no transaction was acknowledged", "Commits: abc.",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the page has no %q:\n%s", want, data)
		}
	}
	if err := writeSANReport(page, []string{t.TempDir()}); err == nil {
		t.Error("no results: got no error")
	}
}
