package sim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/scenario"
)

const scenarios = "../../tests/scenarios/"

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob(scenarios + "*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			s, run, err := Play(string(text))
			if s == nil {
				t.Fatalf("%s: %v", f, err)
			}
			if err != nil {
				t.Errorf("%s: %v\ntimeline: %s\n%s", f, err, keep(t, run, name), strings.Join(s.Log, "\n"))
			}
		})
	}
}

// keep draws the timeline of a run that failed into $SKEIN_TIMELINES, or the folder for temporary files, and
// tells where it is.
func keep(t *testing.T, run *scenario.Run, name string) string {
	t.Helper()
	folder := os.Getenv("SKEIN_TIMELINES")
	if folder == "" {
		folder = filepath.Join(os.TempDir(), "skein-timelines")
	}
	path, err := run.Keep(folder, name)
	if err != nil {
		t.Error(err)
	}
	return path
}

// TestTimelineIsKept: a run that fails leaves a picture that shows where.
func TestTimelineIsKept(t *testing.T) {
	t.Setenv("SKEIN_TIMELINES", filepath.Join(t.TempDir(), "made"))
	_, run, err := Play("nodes 3\ndeploy web address 10.77.9.10\nsettle\npower off web\nwait 3s\nexpect web nowhere")
	if err == nil {
		t.Fatal("got no failure")
	}
	data, err := os.ReadFile(keep(t, run, "power-cut"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"power off n", "FAILED", "is lost", `class="outage"`, `class="owned"`, `class="machine"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the picture has no %q", want)
		}
	}
}

// TestScenarioFails: what does not come true is an error that says what was got instead.
func TestScenarioFails(t *testing.T) {
	for script, want := range map[string]string{
		"wait 1s":                      "first step",
		"nodes 3\nexpect node n1 lost": "line 2, expect node n1 lost: got joining of n1",
		"nodes 3\ndeploy a\nsettle\nexpect a nowhere":   "got [n",
		"nodes 3\ndeploy a\npower off a":                "no service that runs",
		"nodes 3\ndeploy a\nexpect a on n1":             "got nowhere",
		"nodes 3\nthaw that":                            "no node was meant before",
		"nodes 3\nexpect event wobbles":                 "not among",
		"nodes 3\nwait 1s\nexpect no event coordinator": "it is the coordinator itself",
		"nodes 3\nexpect takeovers 1":                   "got 0",
		"nodes 3\ndeploy a\nexpect pending a cheese":    "got []",
		"nodes 1\npower off n1\npower on n1\nsettle":    "after 30 s",
		"nodes 3\ndeploy a address 10.77.9.10\nsettle\npower off a\nwait 3s\nexpect outage a < 10ms": "got ",
		"nodes 3\ncoordinator n1\npower off n2\npower off n3\nwait 3s\ncoordinator n2":               "reaches a majority",
	} {
		if _, _, err := Play(script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", script, err, want)
		}
	}
}

// TestCorruptedDatagramsAreSeen: the check that a flipped bit is refused can fail.
func TestCorruptedDatagramsAreSeen(t *testing.T) {
	st := NewStage(scenario.Cluster{Nodes: 2})
	st.sim.Corrupt(0.5)
	st.sim.Run(2 * time.Second)
	if st.sim.Refused == 0 || len(st.Broken()) > 0 {
		t.Errorf("got %d datagrams refused, %v; want some, and none taken", st.sim.Refused, st.Broken())
	}
	st.sim.cfg.blind = true
	st.sim.Run(2 * time.Second)
	if len(st.Broken()) == 0 {
		t.Error("datagrams count as flipped and are taken: want that seen")
	}
}

// TestDocumentedScenario plays the example of docs/lab.md.
func TestDocumentedScenario(t *testing.T) {
	doc, err := os.ReadFile("../../docs/lab.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(doc), "```scenario\n")
	text, _, closed := strings.Cut(after, "```")
	if !found || !closed {
		t.Fatal("docs/lab.md has no example of a scenario")
	}
	if _, _, err := Play(text); err != nil {
		t.Error(err)
	}
}
