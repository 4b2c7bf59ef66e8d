package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

func put(n cluster.Node, rev int64) cluster.Txn {
	return cluster.Txn{
		Conditions: []cluster.Condition{{Key: n.Key(), Revision: rev}},
		Puts:       []cluster.Put{{Key: n.Key(), Value: n}},
	}
}

func TestCommitIsCompareAndSwap(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	n := tc.node(1, 0, cluster.NodeJoining)
	rev := mustCommit(t, ctx, s, put(n, 0))
	if _, ok, err := s.Commit(ctx, put(n, 0)); ok || err != nil {
		t.Errorf("second creation: got ok %v, err %v, want refused", ok, err)
	}
	n.State = cluster.NodeOnline
	rev2 := mustCommit(t, ctx, s, put(n, rev))
	if rev2 <= rev {
		t.Errorf("revision after %d is %d", rev, rev2)
	}
	if _, ok, err := s.Commit(ctx, put(n, rev)); ok || err != nil {
		t.Errorf("swap of an old revision: got ok %v, err %v, want refused", ok, err)
	}
	st, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if st.Meta.ID != tc.meta.ID || len(st.Nodes) != 1 || st.Nodes[0].Revision != rev2 || st.Nodes[0].State != cluster.NodeOnline {
		t.Errorf("state: %+v", st)
	}
	if _, _, err := s.Commit(ctx, cluster.Txn{}); err == nil {
		t.Error("an empty transaction was committed")
	}
	// Concurrent increments of one record: each swap that was reported done must be there.
	var wg sync.WaitGroup
	done := make([]int, 12)
	for i := range done {
		wg.Go(func() {
			for range 5 {
				st, err := s.Read(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				n := st.Nodes[0]
				n.Memory++
				if _, ok, err := s.Commit(ctx, put(n, n.Revision)); err != nil {
					t.Error(err)
				} else if ok {
					done[i]++
				}
			}
		})
	}
	wg.Wait()
	want := int64(0)
	for _, d := range done {
		want += int64(d)
	}
	if st, err = s.Read(ctx); err != nil || st.Nodes[0].Memory != want {
		t.Errorf("after %d swaps: got %d, err %v", want, st.Nodes[0].Memory, err)
	}
}

func TestSecrets(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	if _, err := s.Secret(ctx, "ca.key"); !errors.Is(err, ErrNoSecret) {
		t.Errorf("missing secret: got %v", err)
	}
	if err := s.PutSecret(ctx, "ca.key", []byte("\x00key")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Secret(ctx, "ca.key"); err != nil || string(got) != "\x00key" {
		t.Errorf("secret: got %q, %v", got, err)
	}
}

func TestInstanceEpochIsRevisionOfItsClaim(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	in := cluster.Instance{ID: "demo.web.1.a", Node: "n1", Epoch: 99}
	claim := cluster.Txn{Conditions: []cluster.Condition{{Key: in.Key()}}, Puts: []cluster.Put{{Key: in.Key(), Value: in}}}
	epoch := mustCommit(t, ctx, s, claim)
	in.Stop = true
	rev := mustCommit(t, ctx, s, cluster.Txn{Puts: []cluster.Put{{Key: in.Key(), Value: in}}})
	st, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Instances[0]; got.Epoch != uint64(epoch) || got.Revision != rev {
		t.Errorf("got epoch %d revision %d, want %d and %d", got.Epoch, got.Revision, epoch, rev)
	}
}

func TestEventsAreOrderedFollowedAndTrimmed(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	cfg := tc.config(1, 0)
	cfg.KeptEvents = 20
	s := tc.closing(Bootstrap(ctx, cfg, tc.meta, cluster.Txn{Events: []cluster.Event{{Text: "formed"}}}))
	event := func(texts ...string) {
		var txn cluster.Txn
		for _, x := range texts {
			txn.Events = append(txn.Events, cluster.Event{Text: x})
		}
		mustCommit(t, ctx, s, txn)
	}
	event("a", "b", "c")
	fctx, stop := context.WithCancel(ctx)
	defer stop()
	got := make(chan cluster.Event, 500)
	done := make(chan error, 1)
	go func() {
		done <- s.Events(fctx, 0, true, func(e cluster.Event) error { got <- e; return nil })
	}()
	var seq uint64
	next := func(want string) {
		t.Helper()
		select {
		case e := <-got:
			if e.Text != want || e.Seq <= seq {
				t.Fatalf("got event %q seq %d after %d, want %q", e.Text, e.Seq, seq, want)
			}
			seq = e.Seq
		case <-ctx.Done():
			t.Fatalf("event %q did not come", want)
		}
	}
	for _, w := range []string{"formed", "a", "b", "c"} {
		next(w)
	}
	after := seq
	event("d", "e")
	next("d")
	next("e")
	var later []string
	if err := s.Events(ctx, after, false, func(e cluster.Event) error { later = append(later, e.Text); return nil }); err != nil || !slices.Equal(later, []string{"d", "e"}) {
		t.Errorf("events after %d: got %v, err %v", after, later, err)
	}
	for i := range 80 {
		event(fmt.Sprint(i))
		next(fmt.Sprint(i))
	}
	if err := s.trimEvents(ctx); err != nil {
		t.Fatal(err)
	}
	var kept []string
	if err := s.Events(ctx, 0, false, func(e cluster.Event) error { kept = append(kept, e.Text); return nil }); err != nil || len(kept) != 20 || kept[19] != "79" {
		t.Errorf("after trimming: %d events %v, err %v", len(kept), kept, err)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("follower ended with %v", err)
	}
}

func TestThreeVotersLoseTheirLeader(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	stores := tc.three(ctx)
	client := tc.closing(OpenClient(ctx, tc.config(4, 0), stores[0].Endpoints()))
	n := tc.node(1, 0, cluster.NodeOnline)
	rev := mustCommit(t, ctx, stores[0], put(n, 0))
	li := leaderOf(t, ctx, stores)
	if err := stores[li].MoveLeader(ctx); err != nil {
		t.Errorf("move the leader: %v", err)
	}
	for stores[li].Leader() {
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("leadership did not move")
		}
	}
	li = leaderOf(t, ctx, stores)
	for _, s := range append(slices.Clone(stores), client) {
		for s.Coordinator() != stores[li].cfg.Name {
			if !pause(ctx, 10*time.Millisecond) {
				t.Fatalf("%s thinks %q coordinates, want %s", s.cfg.Name, s.Coordinator(), stores[li].cfg.Name)
			}
		}
	}
	begin := time.Now()
	stores[li].crash()
	rest := slices.Delete(slices.Clone(stores), li, li+1)
	for i, s := range []*Store{client, rest[0], rest[1]} {
		n.Memory++
		rev = mustCommit(t, ctx, s, put(n, rev))
		if i == 0 {
			t.Logf("first commit of a client after the leader's loss: %s", time.Since(begin))
		}
	}
	if stores[li].Leader() {
		t.Error("a closed store says it leads")
	}

	// The node comes back in a new boot, with nothing: it replaces its old member.
	var number int
	fmt.Sscanf(stores[li].cfg.Name, "n%d", &number)
	back := tc.closing(JoinVoter(ctx, tc.config(number, 1), client.Endpoints()))
	names, err := back.Members(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 3 || !slices.Contains(names, back.cfg.memberName()) || slices.Contains(names, stores[li].cfg.memberName()) {
		t.Errorf("members after the return of %s: %v", stores[li].cfg.Name, names)
	}
	st, err := back.Read(ctx)
	if err != nil || st.Nodes[0].Revision != rev {
		t.Errorf("state at the returned node: %+v, %v", st, err)
	}
}

// A client that used an endpoint which then dies goes on at another one.
func TestClientSurvivesLossOfItsEndpoint(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	stores := tc.three(ctx)
	client := tc.closing(OpenClient(ctx, tc.config(4, 0), stores[0].Endpoints()))
	n := tc.node(1, 0, cluster.NodeOnline)
	rev := mustCommit(t, ctx, client, put(n, 0))

	wctx, stop := context.WithCancel(ctx)
	defer stop()
	states := make(chan *cluster.State, 100)
	watched := make(chan error, 1)
	go func() {
		watched <- client.Watch(wctx, func(st *cluster.State, leader bool) error {
			if leader {
				t.Error("a client leads")
			}
			states <- st
			return nil
		})
	}()
	await := func(rev int64) {
		t.Helper()
		for {
			select {
			case st := <-states:
				if st.Revision >= rev {
					return
				}
			case <-ctx.Done():
				t.Fatalf("revision %d did not arrive", rev)
			}
		}
	}
	await(rev)
	used := client.order()[0].endpoint
	i := slices.IndexFunc(stores, func(s *Store) bool { u := s.cfg.clientURL(); return u.String() == used })
	begin := time.Now()
	stores[i].crash()
	n.Memory++
	rev = mustCommit(t, ctx, client, put(n, rev))
	t.Logf("commit after the loss of the endpoint: %s", time.Since(begin))
	await(rev)
	t.Logf("seen by its watch: %s", time.Since(begin))
	stop()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}

// Every state that a watch shows must be one that a transaction made: here, both records always agree.
func TestWatchShowsWholeTransactions(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	client := tc.closing(OpenClient(ctx, tc.config(2, 0), s.Endpoints()))
	a, b := tc.node(1, 0, cluster.NodeOnline), tc.node(2, 0, cluster.NodeOnline)
	img := cluster.Image{Ref: "demo/web:1"}
	const rounds = 60
	errDone := errors.New("done")
	var wg sync.WaitGroup
	for _, w := range []*Store{s, client} {
		wg.Go(func() {
			last, seen := int64(0), 0
			var kept []*cluster.State
			err := w.Watch(ctx, func(st *cluster.State, _ bool) error {
				if st.Revision < last {
					t.Errorf("revision went from %d to %d", last, st.Revision)
				}
				last = st.Revision
				seen++
				kept = append(kept, st)
				switch len(st.Nodes) {
				case 0:
				case 2:
					if st.Nodes[0].Memory != st.Nodes[1].Memory || (len(st.Images) == 1) != (st.Nodes[0].Memory%2 == 1) {
						t.Errorf("half a transaction: %+v", st)
					}
					if st.Nodes[0].Memory == rounds {
						return errDone
					}
				default:
					t.Errorf("half a transaction: %+v", st)
				}
				return nil
			})
			if !errors.Is(err, errDone) {
				t.Errorf("watch ended with %v", err)
			}
			for _, st := range kept { // a state that was shown is never changed
				if len(st.Nodes) == 2 && st.Nodes[0].Memory != st.Nodes[1].Memory {
					t.Errorf("a shown state was changed: %+v", st)
				}
			}
		})
	}
	for i := int64(1); i <= rounds; i++ {
		a.Memory, b.Memory = i, i
		txn := cluster.Txn{Puts: []cluster.Put{{Key: a.Key(), Value: a}, {Key: b.Key(), Value: b}}}
		if i%2 == 1 {
			txn.Puts = append(txn.Puts, cluster.Put{Key: img.Key(), Value: img})
		} else {
			txn.Deletes = []string{img.Key()}
		}
		mustCommit(t, ctx, s, txn)
	}
	wg.Wait()
}

// The agent is restarted, the machine is not: the member goes on with its log.
func TestResume(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	cfg := tc.config(1, 0)
	if Resumable(cfg) {
		t.Error("an empty directory is resumable")
	}
	s := tc.closing(Bootstrap(ctx, cfg, tc.meta, cluster.Txn{}))
	id := s.MemberID()
	s.Close()
	if other := tc.config(1, 1); Resumable(Config{Name: other.Name, BootID: other.BootID, DataDir: cfg.DataDir}) {
		t.Error("the log of another boot is resumable")
	}
	if !Resumable(cfg) {
		t.Fatal("the log is not resumable")
	}
	s = tc.closing(Resume(ctx, cfg, nil))
	if got := s.MemberID(); got != id {
		t.Errorf("member is %x now, was %x", got, id)
	}
	if st, err := s.Read(ctx); err != nil || st.Meta.ID != tc.meta.ID {
		t.Errorf("state: %+v, %v", st, err)
	}
}

// Four nodes; the ledger gets its three voters, and a fourth takes the place of one that is lost.
func TestKeepReplacesALostVoter(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	first := tc.node(1, 0, cluster.NodeOnline)
	first.Voter = true
	s := tc.closing(Bootstrap(ctx, tc.config(1, 0), tc.meta, cluster.Txn{Puts: []cluster.Put{{Key: first.Key(), Value: first}}}))
	stores := []*Store{s}
	var txn cluster.Txn
	for n := 2; n <= 4; n++ {
		stores = append(stores, tc.closing(OpenClient(ctx, tc.config(n, 0), s.Endpoints())))
		node := tc.node(n, 0, cluster.NodeOnline)
		txn.Puts = append(txn.Puts, cluster.Put{Key: node.Key(), Value: node})
	}
	mustCommit(t, ctx, s, txn)
	kctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	kept := make([]context.CancelFunc, len(stores))
	for i, st := range stores {
		c, cancel := context.WithCancel(kctx)
		kept[i] = cancel
		wg.Go(func() { st.Keep(c) })
	}
	voters := func(want ...string) {
		t.Helper()
		var got []string
		for {
			got = nil
			st, err := stores[3].Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range st.Nodes {
				if n.Voter && n.MemberID != 0 {
					got = append(got, n.Name)
				}
			}
			if slices.Equal(got, want) {
				return
			}
			if !pause(ctx, 50*time.Millisecond) {
				t.Fatalf("voters are %v, want %v", got, want)
			}
		}
	}
	voters("n1", "n2", "n3")
	if stores[3].Voter() {
		t.Error("n4 is a voter too early")
	}
	for len(stores[3].Endpoints()) < 3 { // it looks for them once a second
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatalf("n4 knows the voters at %v, want three", stores[3].Endpoints())
		}
	}
	kept[0]()
	stores[0].crash()
	st, err := stores[3].Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lost := *st.Node("n1")
	lost.State = cluster.NodeLost
	mustCommit(t, ctx, stores[3], put(lost, lost.Revision))
	voters("n2", "n3", "n4")
	if !stores[3].Voter() {
		t.Error("n4 is no voter")
	}
	names, err := stores[3].Members(ctx)
	if err != nil || len(names) != 3 || names[0] != "n2.00020000" {
		t.Errorf("members: %v, %v", names, err)
	}
	// Leaving hands over: the rest goes on.
	if err := stores[3].Leave(ctx); err != nil {
		t.Fatal(err)
	}
	if stores[3].Voter() {
		t.Error("n4 is a voter after it left")
	}
	if _, err := stores[3].Read(ctx); err != nil {
		t.Errorf("read as a client after leaving: %v", err)
	}
}

// A ledger without quorum answers with an error in time, and writes nothing later.
func TestLostQuorumIsAnError(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	stores := tc.three(ctx)
	stores[1].crash()
	stores[2].crash()
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, ok, err := stores[0].Commit(short, put(tc.node(1, 0, cluster.NodeOnline), 0)); err == nil {
		t.Errorf("commit without quorum: got ok %v, want an error", ok)
	}
	for stores[0].Leader() {
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("a voter without quorum goes on leading")
		}
	}
}
