package explain_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/explain"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/sim"
	"github.com/skein-os/skein/agent/whatif"
)

var update = flag.Bool("update", false, "write the golden answers anew")

// cases are moments of the scenarios in tests/scenarios: the scenario is played through the Nth line that says
// Until, then the questions are asked.
var cases = []struct {
	scenario string
	until    string
	nth      int
	why      []string
	whatIf   string
}{
	{"power-cut", "settle", 2, []string{"web", "demo/report", "n3"}, "off coordinator"},
	{"power-cut-coordinator", "wait 5s", 1, []string{"web"}, "drain n3"},
	{"power-class", "wait 10s", 1, []string{"db", "n1"}, "on n1"},
	{"drain", "wait 10s", 1, []string{"web", "n3"}, "off n1"},
	{"drain", "settle", 1, []string{"log"}, "drain n3"},
	{"no-quorum", "wait 5s", 1, []string{"web"}, "off n1"},
	{"isolated-owner", "wait 5s", 1, []string{"web", "n3"}, ""},
	{"cascade", "settle", 2, []string{"web"}, "off n3"},
	{"partition-heals", "settle", 1, []string{"web"}, "off n2,n4"},
	{"update", "settle", 2, []string{"web"}, "off n1"},
	{"one-link", "settle", 1, []string{"web"}, "off n1,n2"},
}

// play plays a scenario through a line.
func play(t *testing.T, scenario, until string, nth int) *sim.Sim {
	t.Helper()
	data, err := os.ReadFile("../../tests/scenarios/" + scenario + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	for i, l := range lines {
		if strings.TrimSpace(l) == until {
			if nth--; nth == 0 {
				s, _, err := sim.Play(strings.Join(lines[:i+1], "\n"))
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
		}
	}
	t.Fatalf("%s has no such line %q", scenario, until)
	return nil
}

// patterns are figures: they vary with every change of the simulator's dice; their truth is tested by themselves.
var patterns = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\d\d:\d\d:\d\d\.\d{3}`), "TIME"},
	{regexp.MustCompile(`decision \d+\.\d+`), "decision ID"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(ms| s|s)\b`), "SPAN"},
}

func plain(sentences []string) string {
	out := strings.Join(sentences, "\n")
	for _, p := range patterns {
		out = p.re.ReplaceAllString(out, p.to)
	}
	return out + "\n"
}

func input(t *testing.T, s *sim.Sim) explain.Input {
	t.Helper()
	decisions, err := s.Decisions()
	if err != nil {
		t.Fatal(err)
	}
	return explain.Input{Snapshot: s.Heard(), Events: s.Ledger.Events, Decisions: decisions}
}

func TestCases(t *testing.T) {
	var got strings.Builder
	for _, c := range cases {
		s := play(t, c.scenario, c.until, c.nth)
		fmt.Fprintf(&got, "=== %s, after %q\n", c.scenario, c.until)
		in := input(t, s)
		where := s.Where()
		for _, subject := range c.why {
			a, err := explain.Why(in, subject)
			if err != nil {
				t.Fatalf("%s: why %s: %v", c.scenario, subject, err)
			}
			for _, slot := range a.Slots {
				if slot.State == "running" && in.Snapshot.Silent[slot.Node] == "" && where[slot.Name] != slot.Node {
					t.Errorf("%s: why %s says that %s runs on %s; in truth on %q", c.scenario, subject, slot.Name, slot.Node, where[slot.Name])
				}
				for i := 1; i < len(slot.Steps); i++ {
					if slot.Steps[i].Time.Before(slot.Steps[i-1].Time) {
						t.Errorf("%s: why %s: step %q is before %q", c.scenario, subject, slot.Steps[i].Text, slot.Steps[i-1].Text)
					}
				}
			}
			fmt.Fprintf(&got, "--- why %s\n%s", subject, plain(a.Sentences))
		}
		if c.whatIf != "" {
			fmt.Fprintf(&got, "--- what if %s\n%s", c.whatIf, plain(whatIf(t, s, c.scenario, c.whatIf)))
		}
	}
	golden := filepath.Join("testdata", "cases.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the answers have changed; read them, and if they are right: go test ./agent/explain -update\ngot:\n%s\nwant:\n%s", got.String(), want)
	}
}

// whatIf asks, and then really does it to the cluster that was asked about: the prediction must come true.
func whatIf(t *testing.T, s *sim.Sim, scenario, question string) []string {
	t.Helper()
	c := whatif.Cluster{State: s.Ledger.State(), Coordinator: s.Coordinator(), Silent: s.Heard().Silent}
	f, err := whatif.Parse(question, c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := whatif.Ask(c, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range f.Nodes {
		switch f.Verb {
		case "off":
			s.PowerOff(n)
		case "on":
			s.PowerOn(n)
		case "drain":
			if err := s.Drain(n); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Run(5 * time.Second) // a machine that is powered on is silent at first
	s.Rest(3*time.Second, time.Minute)
	if got := s.Where(); !maps.Equal(got, r.After) {
		t.Errorf("%s: what if %s: predicted %v, and it became %v", scenario, question, r.After, got)
	}
	if _, _, ok := s.Quorum(); ok != r.Majority {
		t.Errorf("%s: what if %s: predicted majority %v, and it became %v", scenario, question, r.Majority, ok)
	}
	return r.Sentences
}

func TestFigures(t *testing.T) {
	s := play(t, "power-cut", "settle", 2)
	a, err := explain.Why(input(t, s), "web")
	if err != nil {
		t.Fatal(err)
	}
	steps := a.Slots[0].Steps
	if len(steps) < 3 {
		t.Fatalf("got %d steps of a takeover: %v", len(steps), steps)
	}
	// The default silence is 400 ms of virtual time; ticks and a datagram's way come on top.
	if d := steps[1].Time.Sub(steps[0].Time); d < 400*time.Millisecond || d > 700*time.Millisecond {
		t.Errorf("silence before the loss: got %v", d)
	}
	if d := steps[len(steps)-1].Time.Sub(steps[0].Time); d < 700*time.Millisecond || d > 2*time.Second {
		t.Errorf("from the last sign to the last step: got %v", d)
	}
	if !slices.ContainsFunc(a.Slots[0].Considered, func(c plan.Candidate) bool { return c.Refused == "is lost" }) {
		t.Errorf("the lost node was not considered: %+v", a.Slots[0].Considered)
	}
}

func TestUnknown(t *testing.T) {
	s := play(t, "power-cut", "settle", 1)
	if _, err := explain.Why(input(t, s), "wobble"); err == nil {
		t.Error("an unknown subject has an answer")
	}
	c := whatif.Cluster{State: s.Ledger.State(), Coordinator: s.Coordinator()}
	for _, q := range []string{"", "off", "wobble n1", "off n9", "on n1", "off n1 n9"} {
		if _, err := whatif.Parse(q, c); err == nil {
			t.Errorf("%q is understood", q)
		}
	}
}
