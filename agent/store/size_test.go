package store

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Three voters are written full, faster than etcd's own compaction looks at them. The ledger must take commits
// again by itself, and have lost nothing of what is in it.
func TestFullLedgerGoesOn(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	var stores []*Store
	for n := 1; n <= 3; n++ {
		cfg := tc.config(n, 0)
		cfg.Quota = 8 << 20
		if n == 1 {
			stores = append(stores, tc.closing(Bootstrap(ctx, cfg, tc.meta, cluster.Txn{})))
		} else {
			stores = append(stores, tc.closing(JoinVoter(ctx, cfg, stores[0].Endpoints())))
		}
	}
	kept := cluster.Image{Ref: "demo/web:1", Size: 7}
	first := cluster.Txn{Puts: []cluster.Put{{Key: kept.Key(), Value: kept}}}
	for n := 1; n <= 3; n++ {
		node := tc.node(n, 0, cluster.NodeOnline)
		node.Voter = true
		first.Puts = append(first.Puts, cluster.Put{Key: node.Key(), Value: node})
	}
	mustCommit(t, ctx, stores[0], first)
	full := func() error {
		for i := range 200 {
			value := bytes.Repeat([]byte{byte(i)}, 200<<10)
			if _, _, err := stores[1].Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: "/big", Value: value}}}); err != nil {
				return err
			}
		}
		return nil
	}
	if full() == nil {
		t.Fatal("the ledger was not full: the test shows nothing")
	}
	kctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for _, s := range stores {
		wg.Go(func() { s.Keep(kctx) })
	}
	// On each of them: one that is still too big raises the alarm again.
	began := time.Now()
	for i, s := range stores {
		for n := 0; n < 20; {
			cctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, ok, err := s.Commit(cctx, cluster.Txn{Puts: []cluster.Put{{Key: fmt.Sprintf("/small/%d", i), Value: n}}})
			cancel()
			if ctx.Err() != nil {
				t.Fatalf("n%d: a full ledger stays full: %v", i+1, err)
			}
			if ok && err == nil {
				n++
			} else {
				n = 0
				pause(ctx, 50*time.Millisecond)
			}
		}
	}
	t.Logf("it took commits again after %s", time.Since(began))
	if st, err := stores[2].Read(ctx); err != nil || len(st.Images) != 1 || st.Images[0].Size != 7 {
		t.Errorf("got %+v, %v, want what was in it", st.Images, err)
	}
}

// A cluster of one whose only node was removed keeps its ledger: etcd ends the process rather than be without a
// voter, and again each time that it reads its log.
func TestKeepLeavesTheLastVoter(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx) // without a record of its node
	leaderOf(t, ctx, []*Store{s})
	if err := s.keepOnce(ctx); err == nil || !strings.Contains(err.Error(), "the last voter") {
		t.Errorf("got %v, want it to say that the last voter stays", err)
	}
	if names, err := s.Members(ctx); err != nil || len(names) != 1 {
		t.Errorf("members: %v, %v", names, err)
	}
}
