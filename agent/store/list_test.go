package store

import (
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/replay"
)

func TestList(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	if strings.HasPrefix(replay.KeyDecisions, cluster.KeyRoot) {
		t.Errorf("decisions are below %s: each would wake every node", cluster.KeyRoot)
	}
	for _, key := range []string{"2", "1", "3"} {
		mustCommit(t, ctx, s, cluster.Txn{Puts: []cluster.Put{{Key: replay.KeyDecisions + key, Value: "d" + key}}})
	}
	mustCommit(t, ctx, s, cluster.Txn{Deletes: []string{replay.KeyDecisions + "3"}})
	got, err := s.List(ctx, replay.KeyDecisions)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Key != replay.KeyDecisions+"1" || string(got[1].Data) != `"d2"` {
		t.Errorf("got %q", got)
	}
}
