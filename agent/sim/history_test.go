package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// TestHistoryPlaysAgain: what was noted of a random history gives the same one.
func TestHistoryPlaysAgain(t *testing.T) {
	for seed := range uint64(60) {
		was := Random(seed, false)
		again := was.History.play(false, nil)
		if (was.Err == nil) != (again.Err == nil) || was.Virtual != again.Virtual || was.Takeovers != again.Takeovers || was.Acked != again.Acked {
			t.Errorf("seed %d: got %v, %v, %d takeovers, %d writes; want %v, %v, %d, %d", seed,
				again.Err, again.Virtual, again.Takeovers, again.Acked, was.Err, was.Virtual, was.Takeovers, was.Acked)
		}
	}
}

// TestShrink: histories in which a broken rule shows are made as simple as can be, and show it still.
func TestShrink(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		most   int // steps that are left
	}{
		{"a guard that does not end", func(c *Config) { c.guardForever = true }, 3},
		{"a lease of three seconds at one node", func(c *Config) { c.leaseOf = map[string]time.Duration{"n1": 3 * time.Second} }, 4},
		{"a disk that preempts and does not abort", func(c *Config) { c.noAbort = true }, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.most > 4 {
				t.Skip("takes some seconds")
			}
			t.Parallel()
			fails := func(h History) bool { return len(h.play(false, c.change).sim.Violations) > 0 }
			for seed := range uint64(3000) {
				r := random(seed, false, c.change)
				if len(r.sim.Violations) == 0 || len(r.History.Steps) < 6 {
					continue
				}
				if !fails(r.History) {
					t.Fatalf("seed %d: %v, and played again it does not fail", seed, r.Err)
				}
				small, tries := Shrink(r.History, fails)
				if !fails(small) || len(small.Steps) > c.most {
					t.Errorf("seed %d: %d of %d steps are left after %d tries, want %d at most that fail still:\n%s", seed, len(small.Steps), len(r.History.Steps), tries, c.most, small)
				}
				for i := range small.Steps {
					less := small
					less.Steps = slices.Delete(slices.Clone(small.Steps), i, i+1)
					if fails(less) {
						t.Errorf("seed %d: it fails without step %d, too:\n%s", seed, i+1, small)
					}
				}
				t.Logf("seed %d: %d of %d steps are left after %d tries:\n%s", seed, len(small.Steps), len(r.History.Steps), tries, small)
				return
			}
			t.Error("3000 histories, none with six steps shows the broken rule")
		})
	}
}

// playFile plays a history of a file, as TestRandom has printed it.
func playFile(name string) (Result, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return Result{}, err
	}
	var h History
	if err := json.Unmarshal(data, &h); err != nil {
		return Result{}, fmt.Errorf("%s: %w: it wants the last line of what TestRandom printed of a history", name, err)
	}
	if h.Nodes < 1 || h.Nodes > 16 || h.Volumes < 0 || h.Volumes > 2 {
		return Result{}, fmt.Errorf("%s: %d nodes and %d volumes: there are 1 to 16, and 0 to 2", name, h.Nodes, h.Volumes)
	}
	return h.play(true, nil), nil
}

func TestPlayFile(t *testing.T) {
	h := Random(5, false).History
	name := t.TempDir() + "/history.json"
	data, err := json.Marshal(h)
	if err == nil {
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r, err := playFile(name); err != nil || r.Err != nil || r.Virtual != Random(5, false).Virtual {
		t.Errorf("got %v, %v", r.Err, err)
	}
	if err := os.WriteFile(name, []byte(`{"nodes": 3, "steps": [{"do": "deploy", "args": ["web"]}, {"do": "dance"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := playFile(name); err != nil {
		t.Errorf("steps that there are not are left out: got %v", err)
	}
	if err := os.WriteFile(name, []byte("seed 5"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := playFile(name); err == nil {
		t.Error("no history: got no error")
	}
}
