package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/scenario"
	"github.com/skein-os/skein/agent/workload"
)

// TestComposeOfScenario: what a scenario deploys is a service that the cluster takes as it was meant.
func TestComposeOfScenario(t *testing.T) {
	script, err := scenario.Parse("nodes 3\ndeploy web address 10.77.9.10\ndeploy log global\ndeploy db safety power memory 2\ndeploy api replicas 3 spec 2\ndeploy api replicas 3")
	if err != nil {
		t.Fatal(err)
	}
	var got []cluster.Service
	for _, st := range script.Steps {
		list, warnings, err := workload.Parse(t.Context(), "scenario", []byte(composeOf(st.Do.(scenario.Deploy))), scenarioStack, nil)
		if err != nil || len(list) != 1 || len(warnings) > 0 {
			t.Fatalf("%s: got %d services, %v, %v", st.Do, len(list), warnings, err)
		}
		got = append(got, list[0])
	}
	web, log, db, api := got[0], got[1], got[2], got[3]
	if web.Name != "web" || web.Replicas != 1 || len(web.Floating) != 1 || web.Floating[0].String() != "10.77.9.10" || web.Safety != cluster.SafetyLease {
		t.Errorf("web: got %+v", web)
	}
	if log.Mode != cluster.ModeGlobal || len(log.Floating) > 0 || len(log.Ports) > 0 {
		t.Errorf("log: got %+v", log)
	}
	if db.Safety != cluster.SafetyPower || db.Reserve.Memory != 2<<30 {
		t.Errorf("db: got %+v", db)
	}
	if api.Replicas != 3 || api.Hash == got[4].Hash {
		t.Errorf("api: got %d replicas, and another specification changes nothing: %v", api.Replicas, api.Hash == got[4].Hash)
	}
}

// TestLabRefuses: what machines cannot show is refused, what they can is not.
func TestLabRefuses(t *testing.T) {
	s := &labStage{}
	for text, can := range map[string]bool{
		"power off n1": true, "freeze n1 running": true, "link n1 all down in": true, "partition n1 | n2": true, "loss 30 jitter 50ms": true,
		"reboot n1": true, "reboot n1 fast": false, "cut n1 n2": false, "corrupt 10": false, "agent stop n1": false, "clock n1 +1h": false,
	} {
		script, err := scenario.Parse("nodes 3\n" + text)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Can(script.Steps[0].Do); (err == nil) != can {
			t.Errorf("%s: got %v, want it possible: %v", text, err, can)
		}
	}
}

func TestRecordOfPlay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lab.tsv")
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	for _, c := range []struct {
		p      played
		script scenario.Script
		slack  float64
	}{
		{played{Passed: true, Outage: 875}, scenario.Script{Fault: 1}, 1},
		{played{Passed: true}, scenario.Script{Fault: 14, InPart: "storage"}, 2},
		{played{Run: &scenario.Run{Failure: "got\t[n1]|\nn2"}}, scenario.Script{Fault: 2}, 1},
	} {
		if err := c.p.record(playOptions{record: file, slack: c.slack}, &c.script, at); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"1\tpassed\t875 ms\t2026-11-23\t" + version,
		"14\tpassed in part, bounds times 2\tunder 400 ms\t2026-11-23\t" + version,
		"2\tFAILED: got [n1]/ n2\tunder 400 ms\t2026-11-23\t" + version, "",
	}, "\n")
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestDocumentedPlays: the commands of docs/lab.md that play scenarios exist, and so do their files.
func TestDocumentedPlays(t *testing.T) {
	doc, err := os.ReadFile("../../docs/lab.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, line := range strings.Split(string(doc), "\n") {
		args, is := strings.CutPrefix(line, "skein lab play ")
		if !is {
			continue
		}
		seen++
		cmd := labPlayCommand()
		if err := cmd.ParseFlags(strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		for _, f := range cmd.Flags().Args() {
			text, err := os.ReadFile(filepath.Join("..", "..", f))
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
			if _, err := scenario.Parse(string(text)); err != nil {
				t.Errorf("%s: %s: %v", line, f, err)
			}
		}
	}
	if seen < 3 {
		t.Errorf("got %d examples, want 3 or more", seen)
	}
}

// TestJudged: a play that ended before the fault says nothing of it.
func TestJudged(t *testing.T) {
	deployed := []scenario.Mark{{Kind: scenario.Did, Text: "deploy web"}, {Kind: scenario.Waited, Text: "settle"}}
	cut := append(deployed[:2:2], scenario.Mark{Kind: scenario.Did, Text: "power off n1"})
	for _, c := range []struct {
		p    played
		want bool
	}{
		{played{Run: &scenario.Run{Marks: deployed}}, false},
		{played{Run: &scenario.Run{Marks: cut}}, true},
		{played{Passed: true, Run: &scenario.Run{Marks: deployed}}, true},
	} {
		if got := c.p.judged(); got != c.want {
			t.Errorf("%v: got %v, want %v", c.p.Run.Marks, got, c.want)
		}
	}
}
