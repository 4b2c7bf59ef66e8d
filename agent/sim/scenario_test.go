package sim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Play(string(script))
			if err != nil {
				t.Errorf("%s: %v\n%s", f, err, strings.Join(s.Log, "\n"))
			}
		})
	}
}

func TestScenarioErrors(t *testing.T) {
	for script, want := range map[string]string{
		"wait 1s":                      "first step",
		"nodes 3\nwobble n1":           "line 2, wobble n1: unknown step",
		"nodes 3\npower off n9":        `"n9" is no node`,
		"nodes 3\nexpect node n1 lost": "got",
		"nodes 0":                      "1 to 50",
		"nodes 3\ndeploy a replicas x": "invalid syntax",
		"nodes 3\nfreeze n1":           "unknown step",
	} {
		if _, err := Play(script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", script, err, want)
		}
	}
}
