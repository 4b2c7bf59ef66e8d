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

// The agent ends when the database is restored and does not say so yet. The next one finishes it: otherwise
// nobody could tell that what others saw of the old ledger is void.
func TestRestoreCutShort(t *testing.T) {
	ctx := newTestCluster(t).ctx()
	sv := newSurvivor(t, ctx, nil)
	sv.stopKeep()
	sv.ask(2, bootID(2, 1))
	sv.ask(3, bootID(3, 1))
	v := sv.s.voter()
	applied := v.applied()
	j, err := sv.s.judge(ctx, v)
	if err != nil || !j.restore {
		t.Fatalf("not restored: %v, %v", j.waits, err)
	}
	sv.s.setVoter(nil)
	for _, l := range v.etcd.Clients {
		l.Close()
	}
	v.kill()
	ended, end := context.WithCancel(ctx)
	end()
	if v, err := sv.s.restore(ended, applied, j); err == nil || v != nil {
		t.Fatalf("an agent that has ended restored the ledger: %v, %v", v, err)
	}
	if !sv.s.unannounced() {
		t.Fatal("the old database is still there: the test shows nothing")
	}
	sv.s.crash()
	s := sv.closing(Resume(ctx, sv.s.cfg, nil))
	st, err := s.Read(ctx)
	if err != nil || st.Meta.Incarnation != sv.meta.Incarnation+1 || st.Meta.RestoredFrom != j.From || st.Revision <= j.From+revisionBump {
		t.Fatalf("got %+v at %d, %v; want incarnation %d, restored from %d", st.Meta, st.Revision, err, sv.meta.Incarnation+1, j.From)
	}
	for _, n := range st.Nodes {
		if n.Name != "n1" && n.State != cluster.NodeJoining {
			t.Errorf("%s is %s in boot %s, want it joining in a new one", n.Name, n.State, n.BootID)
		}
	}
	if s.unannounced() {
		t.Error("it would be announced once more")
	}
	if _, ok, err := s.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: "/skein/x", Value: 1}}}); !ok || err != nil {
		t.Errorf("commit: %v, %v", ok, err)
	}
}

// Nobody reads a restored ledger before it says that it is one: a revision of it under the old incarnation
// would look like one of those that are void, and cost the reader its services.
func TestRestoredLedgerIsNotSeenBeforeItSaysSo(t *testing.T) {
	ctx := newTestCluster(t).ctx()
	sv := newSurvivor(t, ctx, nil)
	cfg := sv.config(4, 0)
	cfg.TryTimeout = 50 * time.Millisecond
	c := sv.closing(ResumeClient(cfg, sv.s.Endpoints()))
	sv.ask(2, bootID(2, 1))
	sv.ask(3, bootID(3, 1))
	for {
		rctx, cancel := context.WithTimeout(ctx, time.Second)
		st, err := c.Read(rctx)
		cancel()
		switch {
		case ctx.Err() != nil:
			t.Fatal("not restored")
		case err != nil:
		case st.Meta.Incarnation == sv.meta.Incarnation && st.Revision > st.Meta.RestoredFrom+revisionBump:
			t.Fatalf("revision %d was seen in incarnation %d", st.Revision, st.Meta.Incarnation)
		case st.Meta.Incarnation > sv.meta.Incarnation:
			return
		}
	}
}

// A node that acted on what this copy does not have may run what the restored ledger gives to others: nothing
// is restored before it has restarted, and it is told what the copy has.
func TestRestoreWaitsForWhoKnowsMore(t *testing.T) {
	ctx := newTestCluster(t).ctx()
	sv := newSurvivor(t, ctx, nil)
	ask := func(seen func(cluster.Pledge) int64) {
		p, _ := sv.s.Stranded()
		p.Seen = seen(p)
		sv.s.Asked("n2", machine(sv.nodes[1]), bootID(2, 1), p)
	}
	ask(func(cluster.Pledge) int64 { return sv.rev + 100 })
	sv.ask(3, bootID(3, 1))
	sv.waits(ctx, "n2 has acted on revision")
	p, ok := sv.s.Stranded()
	if !ok || p.Copy < sv.rev || p.Copy >= sv.rev+100 {
		t.Fatalf("got %+v, %v; want it to tell what its copy has, at least %d", p, ok, sv.rev)
	}
	ask(func(p cluster.Pledge) int64 { return p.Copy })
	for {
		if st, err := sv.s.Read(ctx); err == nil && st.Meta.Incarnation == sv.meta.Incarnation+1 {
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			_, waits := sv.s.Frozen()
			t.Fatalf("not restored: waits for %v", waits)
		}
	}
}
