package store

import (
	"context"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// The agent of the last voter ends and comes back while the ledger has no majority. It must get as far as
// taking the evidence by which the ledger is restored, or nothing ever would.
func TestResumeWithoutMajority(t *testing.T) {
	ctx := newTestCluster(t).ctx()
	sv := newSurvivor(t, ctx, nil)
	sv.stopKeep()
	sv.s.crash()
	rctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cfg := sv.s.cfg
	s, err := Resume(rctx, cfg, nil)
	if err != nil {
		t.Fatalf("the agent of the last voter cannot come back: %v", err)
	}
	sv.s = sv.closing(s, nil)
	sv.keep(ctx)
	sv.stranded(ctx)
	if got, err := sv.s.LocalSecret(ctx, "token"); err != nil || string(got) != "secret" {
		t.Errorf("secret of the own copy: %q, %v", got, err)
	}
	sv.waits(ctx, "n2 has not been seen to restart", "n3 has not been seen to restart")
	sv.restore(ctx)
	n := sv.node(2, 1, cluster.NodeOnline)
	mustCommit(t, ctx, sv.s, cluster.Txn{Puts: []cluster.Put{{Key: n.Key(), Value: n}}})
}

// The agent of a node without a vote comes back while nobody answers: it must find out that the ledger is
// frozen, so that it can promise itself, and go on when there is an answer.
func TestResumeClientWithoutAnswer(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	endpoints := s.Endpoints()
	s.crash()
	cfg := tc.config(2, 0)
	cfg.RestoreAfter = 300 * time.Millisecond
	c := tc.closing(ResumeClient(cfg, endpoints))
	for since, _ := c.Frozen(); since == 0; since, _ = c.Frozen() {
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("it does not notice that the ledger is frozen")
		}
	}
	tc.closing(Resume(ctx, tc.config(1, 0), nil))
	for {
		if st, err := c.Read(ctx); err == nil && st.Meta.ID == tc.meta.ID {
			break
		}
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("it does not go on")
		}
	}
	for since, _ := c.Frozen(); since != 0; since, _ = c.Frozen() {
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("it still says that the ledger is frozen")
		}
	}
}
