package node

import (
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

// A node that acted on what the restored ledger does not have must not go on with it.
func TestRestoredLedger(t *testing.T) {
	for _, tc := range []struct {
		name   string
		from   int64 // what the ledger was restored from; the node has seen 100
		doomed bool
	}{
		{"all that it saw is there", 100, false},
		{"more is there than it saw", 107, false},
		{"it saw what is lost", 99, true},
	} {
		s, st := newStage(t, 3)
		s.brain.Ledger(next(st, func(st *cluster.State) {
			st.Revision = 1_000_000_100
			st.Meta.Incarnation, st.Meta.RestoredFrom = 1, tc.from
		}), false)
		if (s.doomed != "") != tc.doomed {
			t.Errorf("%s: condemned %q, want %v", tc.name, s.doomed, tc.doomed)
		}
	}
}
