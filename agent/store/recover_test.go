package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skein-os/skein/agent/cluster"
)

// survivor is a cluster of three voters of which only the first is left, with its Keep running.
type survivor struct {
	*testCluster
	s     *Store
	nodes []cluster.Node
	rev   int64 // of the last commit of all three

	stopKeep func()
}

func machine(n cluster.Node) string { return "machine-" + n.Name }

func newSurvivor(t *testing.T, ctx context.Context, alone func(*Store)) *survivor {
	t.Helper()
	sv := &survivor{testCluster: newTestCluster(t)}
	var first cluster.Txn
	for i := 1; i <= 3; i++ {
		n := sv.node(i, 0, cluster.NodeOnline)
		n.Voter, n.MachineID = true, machine(n)
		sv.nodes = append(sv.nodes, n)
		first.Puts = append(first.Puts, cluster.Put{Key: n.Key(), Value: n})
	}
	first.Puts = append(first.Puts, SecretPut("token", []byte("secret")))
	cfg := sv.config(1, 0)
	cfg.RestoreAfter = 500 * time.Millisecond
	sv.s = sv.closing(Bootstrap(ctx, cfg, sv.meta, first))
	others := []*Store{
		sv.closing(JoinVoter(ctx, sv.config(2, 0), sv.s.Endpoints())),
		sv.closing(JoinVoter(ctx, sv.config(3, 0), sv.s.Endpoints())),
	}
	img := cluster.Image{Ref: "demo/web:1", Size: 7}
	sv.rev = mustCommit(t, ctx, others[0], cluster.Txn{Puts: []cluster.Put{{Key: img.Key(), Value: img}}})
	for _, o := range others {
		o.crash()
	}
	if alone != nil {
		alone(sv.s)
	}
	sv.keep(ctx)
	sv.stranded(ctx)
	return sv
}

func (sv *survivor) keep(ctx context.Context) {
	kctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	sv.stopKeep = func() { stop(); wg.Wait() }
	sv.t.Cleanup(sv.stopKeep)
	wg.Go(func() { sv.s.Keep(kctx) })
}

func (sv *survivor) stranded(ctx context.Context) {
	sv.t.Helper()
	for {
		if _, ok := sv.s.Stranded(); ok {
			return
		}
		if !pause(ctx, 10*time.Millisecond) {
			sv.t.Fatal("the survivor does not notice that it is alone")
		}
	}
}

// ask is a request to join of a node in a new boot, with a promise.
func (sv *survivor) ask(node int, boot string) {
	p, _ := sv.s.Stranded()
	sv.s.Asked(sv.nodes[node-1].Name, machine(sv.nodes[node-1]), boot, p)
}

func (sv *survivor) waits(ctx context.Context, want ...string) {
	sv.t.Helper()
	for {
		_, got := sv.s.Frozen()
		if len(got) == len(want) && !slices.ContainsFunc(want, func(w string) bool {
			return !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) })
		}) {
			return
		}
		if !pause(ctx, 20*time.Millisecond) {
			sv.t.Fatalf("the frozen ledger waits for %q, want %q", got, want)
		}
	}
}

// Two of three voters lose power at once and come back with nothing.
func TestRestoreLostMajority(t *testing.T) {
	ctx := newTestCluster(t).ctx()
	sv := newSurvivor(t, ctx, nil)
	sv.waits(ctx, "n2 has not been seen to restart", "n3 has not been seen to restart")

	// Frozen, it answers from its own copy, and says that it does.
	var texts []string
	if err := sv.s.Events(ctx, 0, false, func(e cluster.Event) error { texts = append(texts, e.Text); return nil }); err != nil || len(texts) == 0 || !strings.Contains(texts[len(texts)-1], "lost its majority") {
		t.Errorf("events of a frozen ledger: %q, %v", texts, err)
	}
	if got, err := sv.s.LocalSecret(ctx, "token"); err != nil || string(got) != "secret" {
		t.Errorf("secret of the own copy: %q, %v", got, err)
	}

	// A watch that is open over all this goes on, with everything that is new and nothing twice.
	wctx, stop := context.WithCancel(ctx)
	restored := make(chan *cluster.State, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		_ = sv.s.Watch(wctx, func(st *cluster.State, _ bool) error {
			if st.Meta.Incarnation == sv.meta.Incarnation+1 {
				select {
				case restored <- st:
				default:
				}
			}
			return nil
		})
	})

	sv.ask(2, bootID(2, 1))
	sv.waits(ctx, "n3 has not been seen to restart")
	begin := time.Now()
	sv.ask(3, bootID(3, 1))
	var st *cluster.State
	select {
	case st = <-restored:
		t.Logf("restored, and seen by a watch, after %s", time.Since(begin))
	case <-ctx.Done():
		_, waits := sv.s.Frozen()
		t.Fatalf("not restored; waits for %v", waits)
	}
	if st.Revision <= sv.rev+revisionBump-1 {
		t.Errorf("revision %d, want more than %d: a client may have seen some that are lost", st.Revision, sv.rev+revisionBump)
	}
	if len(st.Images) != 1 || st.Images[0].Size != 7 || st.Images[0].Revision != sv.rev {
		t.Errorf("images: %+v; want the one committed by all, at revision %d", st.Images, sv.rev)
	}
	if got := sv.s.Incarnation(); got != st.Meta.Incarnation {
		t.Errorf("the store says incarnation %d, the ledger %d", got, st.Meta.Incarnation)
	}
	if st.Meta.RestoredFrom < sv.rev {
		t.Errorf("restored from revision %d, want at least %d", st.Meta.RestoredFrom, sv.rev)
	}
	for _, n := range st.Nodes {
		if n.Name != "n1" && (n.State != cluster.NodeJoining || !strings.HasSuffix(strings.SplitN(n.BootID, "-", 2)[0], "0001") || n.MemberID != 0) {
			t.Errorf("%s is %s in boot %s", n.Name, n.State, n.BootID)
		}
	}
	if names, err := sv.s.Members(ctx); err != nil || !slices.Equal(names, []string{sv.s.cfg.memberName()}) {
		t.Errorf("members: %v, %v; want n1 alone", names, err)
	}

	// The machines that restarted are admitted and become voters as after any reboot.
	for i := 2; i <= 3; i++ {
		n := sv.node(i, 1, cluster.NodeOnline)
		mustCommit(t, ctx, sv.s, cluster.Txn{Puts: []cluster.Put{{Key: n.Key(), Value: n}}})
		back := sv.closing(JoinVoter(ctx, sv.config(i, 1), sv.s.Endpoints()))
		if st, err := back.Read(ctx); err != nil || len(st.Images) != 1 {
			t.Errorf("%s reads %+v, %v", n.Name, st, err)
		}
	}
	if _, ok := sv.s.Stranded(); ok {
		t.Error("it is still stranded")
	}
}

// What this member has in its log, and does not know to be committed, is in the restored ledger: its leader
// may have counted it and told a client that it is done.
func TestRestoreKeepsWhatWasAcknowledged(t *testing.T) {
	ctx := newTestCluster(t).ctx()
	late := cluster.Image{Ref: "demo/late:1"}
	sv := newSurvivor(t, ctx, func(s *Store) { // it leads for an election timeout more
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if _, err := s.voter().client.Put(short, late.Key(), `{"ref":"demo/late:1"}`); err == nil {
			t.Fatal("a commit without a majority")
		}
	})
	if st, err := sv.s.readFrom(ctx, sv.s.voter().client, clientv3.WithSerializable()); err != nil || len(st.Images) != 1 {
		t.Fatalf("images before: %+v, %v; want one", st.Images, err)
	}
	sv.restore(ctx)
	st, err := sv.s.Read(ctx)
	if err != nil || len(st.Images) != 2 || st.Images[0].Ref != late.Ref || st.Images[0].Revision != st.Meta.RestoredFrom {
		t.Errorf("images after: %+v, %v; want %s too, as the last before the restoration (%d)", st.Images, err, late.Ref, st.Meta.RestoredFrom)
	}
}

// restore has both other machines ask, and waits until the ledger answers.
func (sv *survivor) restore(ctx context.Context) {
	sv.t.Helper()
	sv.ask(2, bootID(2, 1))
	sv.ask(3, bootID(3, 1))
	for {
		if st, err := sv.s.Read(ctx); err == nil && st.Meta.Incarnation == sv.meta.Incarnation+1 {
			return
		}
		if !pause(ctx, 20*time.Millisecond) {
			_, waits := sv.s.Frozen()
			sv.t.Fatalf("not restored: waits for %v", waits)
		}
	}
}

// A member of the old ledger that was alive after all is refused by the restored one, and nothing of it
// comes in.
func TestRestoredLedgerRefusesOldMembers(t *testing.T) {
	ctx := newTestCluster(t).ctx()
	sv := newSurvivor(t, ctx, nil)
	sv.restore(ctx)
	// The evidence lied: n2 is there in its old boot, with its log. Alone it has no majority, and the
	// restored ledger gives it none.
	cfg, err := sv.config(2, 0).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	old, err := openVoter(&cfg, "", "existing", []string{cfg.memberName() + "=https://" + cfg.Addr.String() + ":22380"}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer old.kill()
	deadline := time.Now().Add(6 * sv.s.cfg.Election)
	n := sv.node(1, 0, cluster.NodeOnline)
	for time.Now().Before(deadline) {
		mustCommit(t, ctx, sv.s, cluster.Txn{Puts: []cluster.Put{{Key: n.Key(), Value: n}}})
		if old.etcd.Server.Leader() != 0 {
			t.Fatal("an old member found a leader")
		}
	}
	if id := old.etcd.Server.Cluster().ID(); id == sv.s.voter().etcd.Server.Cluster().ID() {
		t.Errorf("the restored ledger has the id %s of the old one", id)
	}
	if names, err := sv.s.Members(ctx); err != nil || len(names) != 1 {
		t.Errorf("members: %v, %v", names, err)
	}
}

// Who promised to follow another ledger does not become a voter, and an attempt that is under way ends.
func TestPromise(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	c := tc.closing(OpenClient(ctx, tc.config(2, 0), s.Endpoints()))
	if err := s.Promise(&cluster.Pledge{Node: "n2"}); err == nil {
		t.Error("a voter promised its vote away")
	}
	if err := c.Promise(&cluster.Pledge{Node: "n9"}); err != nil {
		t.Fatal(err)
	}
	if err := c.PromoteSelf(ctx); !errors.Is(err, errPledged) {
		t.Errorf("became a voter: %v", err)
	}
	if err := c.Promise(nil); err != nil {
		t.Fatal(err)
	}
	// An attempt that waits for a leader that will never come ends too.
	lone := tc.closing(OpenClient(ctx, tc.config(3, 0), s.Endpoints()))
	ended := make(chan error, 1)
	lone.setEndpoints([]string{"https://127.0.0.9:9"})
	go func() { ended <- lone.PromoteSelf(ctx) }()
	for {
		lone.mu.Lock()
		trying := lone.abandon != nil
		lone.mu.Unlock()
		if trying {
			break
		}
		if !pause(ctx, time.Millisecond) {
			t.Fatal("no attempt")
		}
	}
	if err := lone.Promise(&cluster.Pledge{Node: "n9"}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errPledged) {
		t.Errorf("the attempt ended with %v, want %v", err, errPledged)
	}
	if err := c.PromoteSelf(ctx); err != nil {
		t.Errorf("free again: %v", err)
	}
}
