package sim

import (
	"bytes"
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/replay"
)

// Whatever was decided in a random history is decided the same from its record, after a way through bytes,
// and the same decision has the same bytes.
func TestReplayIsIdentical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Random(rapid.Uint64Range(1, 1<<40).Draw(t, "seed"), false)
		records, err := r.sim.Decisions()
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.sim.Decisions()
		if err != nil {
			t.Fatal(err)
		}
		for i, rec := range records {
			data, err := json.Marshal(rec)
			if err != nil {
				t.Fatal(err)
			}
			if other, err := json.Marshal(again[i]); err != nil || !bytes.Equal(data, other) {
				t.Fatalf("decision %s has other bytes the second time", rec.ID)
			}
			got, err := replay.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			_, diff, err := replay.Replay(got)
			if err != nil || len(diff) > 0 {
				t.Fatalf("decision %s: %v, differs: %q", rec.ID, err, diff)
			}
			for _, a := range got.Actions {
				if a.Kind == "takeover" {
					if c := replay.Considered(got, a.Subject); len(c) == 0 {
						t.Fatalf("decision %s: nobody was considered for %s", rec.ID, a.Subject)
					}
				}
			}
		}
		if len(records) == 0 {
			t.Fatal("no decisions in a whole history")
		}
	})
}
