package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/scenario"
)

var update = flag.Bool("update", false, "write docs/faults.md anew")

// TestFaultsDocument makes docs/faults.md from a run of the scenarios: one that begins with "# fault N" is
// fault N of the catalogue. A fault without a scenario never counts as passed.
func TestFaultsDocument(t *testing.T) {
	files, err := filepath.Glob(scenarios + "*.txt")
	if err != nil {
		t.Fatal(err)
	}
	type result struct{ file, text, outage, not string }
	results := map[string]result{}
	for _, f := range files {
		script, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := scenario.Parse(string(script))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if parsed.Fault == 0 {
			continue
		}
		n := strconv.Itoa(parsed.Fault)
		if results[n].file != "" {
			t.Errorf("fault %s has two scenarios: %s and %s", n, results[n].file, f)
		}
		_, run, err := Play(string(script))
		r := result{file: f, text: "passed", outage: "none"}
		if parsed.InPart != "" {
			r.text, r.not = "passed in part", parsed.InPart
		}
		if err != nil {
			r.text = "FAILED"
			t.Errorf("%s: %v", f, err)
		}
		if longest := run.LongestOutage(); longest > 0 {
			r.outage = fmt.Sprintf("%d ms", longest.Milliseconds())
		}
		results[n] = r
	}
	catalogue, err := os.ReadFile(scenarios + "catalogue.tsv")
	if err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile(scenarios + "lab.tsv")
	if err != nil {
		t.Fatal(err)
	}
	lab, err := labResults(string(record))
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(scenarios + "elsewhere.tsv")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := shownElsewhere(string(list))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Faults\n\nMade by `go test ./agent/sim -run TestFaultsDocument -update`; do not edit. " +
		"The outcome is what each fault must have; the outage is the longest that a client of a floating address saw, " +
		"in virtual time; that of the lab is real time on emulated machines. *Not yet*: nothing shows it. A fault without a scenario is about something that the simulator does not have; the test that shows it is named. Disks are judged where their writes end: none of an older epoch after one of a newer was acknowledged, in any scenario.\n\n" +
		"| # | fault | outcome | simulator | outage | lab |\n|---|---|---|---|---|---|\n")
	lines, passed := strings.Split(strings.TrimSpace(string(catalogue)), "\n"), 0
	parts, others := 0, 0
	for _, l := range lines {
		c := strings.Split(l, "\t")
		if len(c) != 3 {
			t.Fatalf("catalogue: %q has not three columns", l)
		}
		r, there := results[c[0]]
		if !there {
			if r = (result{text: "not yet"}); elsewhere[c[0]] != "" {
				r.text = "no scenario; " + elsewhere[c[0]]
				others++
			}
		} else {
			passed++
			r.text += " (" + filepath.Base(r.file) + ")"
			if r.not != "" {
				r.text += "; not shown: " + r.not
				parts++
			}
		}
		if there && elsewhere[c[0]] != "" {
			t.Errorf("fault %s has a scenario and is in elsewhere.tsv", c[0])
		}
		delete(results, c[0])
		delete(elsewhere, c[0])
		inLab := lab[c[0]]
		if inLab == "" {
			inLab = "not run"
		}
		delete(lab, c[0])
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", c[0], c[1], c[2], r.text, r.outage, inLab)
	}
	if len(results) > 0 || len(lab) > 0 || len(elsewhere) > 0 || len(lines) != 54 {
		t.Errorf("%d faults in the catalogue, want 54; scenarios, lab results and tests of unknown faults: %v, %v, %v", len(lines), results, lab, elsewhere)
	}
	fmt.Fprintf(&b, "\n%d of %d have a scenario; %d of these show a part of the outcome. %d more are shown by a test of their own kind, in part or as a whole.\n", passed, len(lines), parts, others)
	const doc = "../../docs/faults.md"
	if *update {
		if err := os.WriteFile(doc, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(doc)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is stale (%v): run this test with -update", doc, err)
	}
}

// shownElsewhere are the faults that a test shows which is no scenario, since the simulator has nothing of what they are
// about: fault, file of the test, its name, and what it shows or does not.
func shownElsewhere(list string) (map[string]string, error) {
	out := map[string]string{}
	for i, line := range strings.Split(strings.TrimSpace(list), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		c := strings.Split(line, "\t")
		if len(c) != 4 || slices.Contains(c, "") {
			return nil, fmt.Errorf("elsewhere.tsv, line %d: %q has not the four columns fault, file, test, what", i+1, line)
		}
		source, err := os.ReadFile("../../" + c[1])
		if err != nil || !strings.Contains(string(source), "\nfunc "+c[2]+"(t *testing.T)") {
			return nil, fmt.Errorf("elsewhere.tsv, line %d: there is no test %s in %s", i+1, c[2], c[1])
		}
		if out[c[0]] != "" {
			out[c[0]] += "; "
		}
		out[c[0]] += fmt.Sprintf("%s (%s): %s", c[2], filepath.Dir(c[1]), c[3])
	}
	return out, nil
}

// labResults are what `skein lab play --record` has appended, by fault: the newest line counts.
func labResults(record string) (map[string]string, error) {
	out := map[string]string{}
	for i, line := range strings.Split(strings.TrimSpace(record), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		c := strings.Split(line, "\t")
		if len(c) != 5 || slices.Contains(c, "") {
			return nil, fmt.Errorf("lab.tsv, line %d: %q has not the five columns fault, outcome, outage, date, version", i+1, line)
		}
		out[c[0]] = fmt.Sprintf("%s, outage %s (%s, %s)", c[1], c[2], c[3], c[4])
	}
	return out, nil
}

func TestLabResults(t *testing.T) {
	got, err := labResults("# a comment\n1\tFAILED: x\tnone\t2026-11-22\tabc\n1\tpassed\t875 ms\t2026-11-23\tdef\n")
	if want := "passed, outage 875 ms (2026-11-23, def)"; err != nil || got["1"] != want || len(got) != 1 {
		t.Errorf("got %v, %v; want %q of fault 1", got, err, want)
	}
	for _, bad := range []string{"1\tpassed", "1\t\tnone\t2026\tabc"} {
		if _, err := labResults(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}
