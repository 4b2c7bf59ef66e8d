package store

import (
	"errors"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/skein-os/skein/agent/cluster"
)

func TestMayRemove(t *testing.T) {
	st := &cluster.State{Nodes: []cluster.Node{
		{Name: "n1", BootID: "11111111-a", State: cluster.NodeOnline},
		{Name: "n2", BootID: "22222222-b", State: cluster.NodeLost},
		{Name: "n3", BootID: "33333333-c", State: cluster.NodeDraining},
	}}
	const by = "n3.33333333"
	for _, tc := range []struct {
		name   string
		member *pb.Member
		refuse string // in the error; empty: may be removed
	}{
		{"in its present boot", &pb.Member{Name: "n1.11111111"}, "has the log"},
		{"a learner in its present boot", &pb.Member{Name: "n1.11111111", IsLearner: true}, "has the log"},
		{"in an earlier boot", &pb.Member{Name: "n1.01010101"}, ""},
		{"lost", &pb.Member{Name: "n2.22222222"}, ""},
		{"of no node", &pb.Member{Name: "n9.99999999"}, ""},
		{"its own", &pb.Member{Name: by}, ""},
		{"its own, of an earlier boot", &pb.Member{Name: "n3.00000000"}, ""},
		{"a learner that never started", &pb.Member{IsLearner: true}, ""},
		{"a voter without a name", &pb.Member{ID: 7}, "nobody knows"},
	} {
		err := mayRemove(st, tc.member, by)
		switch {
		case tc.refuse == "" && err != nil:
			t.Errorf("%s: got %v, want allowed", tc.name, err)
		case tc.refuse != "" && (err == nil || !strings.Contains(err.Error(), tc.refuse)):
			t.Errorf("%s: got %v, want refused with %q", tc.name, err, tc.refuse)
		}
	}
}

func TestMayJoin(t *testing.T) {
	st := &cluster.State{Nodes: []cluster.Node{
		{Name: "n1", BootID: "11111111-a", State: cluster.NodeOnline},
		{Name: "n2", BootID: "22222222-b", State: cluster.NodeLost, Reason: "silent"},
	}}
	for _, tc := range []struct {
		name, boot, refuse string
	}{
		{"n1", "11111111-a", ""},
		{"n1", "01010101-a", "is in another boot"},
		{"n2", "22222222-b", "declared lost"},
		{"n3", "33333333-c", ""},
	} {
		err := mayJoin(st, tc.name, tc.boot)
		if (err == nil) != (tc.refuse == "") || err != nil && !strings.Contains(err.Error(), tc.refuse) {
			t.Errorf("%s in boot %s: got %v, want %q", tc.name, tc.boot, err, tc.refuse)
		}
	}
}

// A boot that is over must not push out the one that followed it.
func TestOldBootDoesNotBecomeVoter(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	mustCommit(t, ctx, s, put(tc.node(2, 1, cluster.NodeOnline), 0))
	now := tc.closing(JoinVoter(ctx, tc.config(2, 1), s.Endpoints()))
	old := tc.closing(OpenClient(ctx, tc.config(2, 0), s.Endpoints()))
	if _, err := old.becomeMember(ctx); err == nil || !strings.Contains(err.Error(), "another boot") {
		t.Errorf("the earlier boot becomes a member: got %v, want refused", err)
	}
	if names, err := now.Members(ctx); err != nil || len(names) != 2 {
		t.Errorf("members: %v, %v; want n1 and the new boot of n2", names, err)
	}
}

// What is left of etcd's own checks: a learner that has not caught up is not promoted.
func TestEmptyLearnerIsNotPromoted(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	c := s.voter().client
	added, err := c.MemberAddAsLearner(ctx, []string{"https://127.0.0.9:9"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.MemberPromote(ctx, added.Member.ID); !errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
		t.Errorf("promote a learner that has nothing: got %v, want %v", err, rpctypes.ErrMemberLearnerNotReady)
	}
}

// The window in which the loss of one more voter stops the ledger must not be etcd's to choose: the next
// member is let in although the connections are new.
func TestVotersFollowEachOtherAtOnce(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	a := tc.bootstrap(ctx)
	begin := time.Now()
	tc.closing(JoinVoter(ctx, tc.config(2, 0), a.Endpoints()))
	tc.closing(JoinVoter(ctx, tc.config(3, 0), a.Endpoints()))
	b := tc.closing(JoinVoter(ctx, tc.config(2, 1), a.Endpoints())) // n2 rebooted; its old member answers still
	t.Logf("three members, one after the other: %s", time.Since(begin))
	if names, err := b.Members(ctx); err != nil || len(names) != 3 {
		t.Errorf("members: %v, %v; want three", names, err)
	}
}

// The answer to adding a learner was lost: what was added is taken, not added again.
func TestAddLearnerWhoseAnswerWasLost(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	const url = "https://127.0.0.9:9"
	before, err := s.memberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := s.voter().client.MemberAddAsLearner(ctx, []string{url})
	if err != nil {
		t.Fatal(err)
	}
	all, id, err := s.addLearner(ctx, url, before)
	if err != nil || id != lost.Member.ID || len(all) != 2 {
		t.Errorf("got member %x of %v, %v; want %x", id, all, err, lost.Member.ID)
	}
	// One that was there before may have had a log: it is not taken.
	if _, _, err := s.addLearner(ctx, url, all); !errors.Is(err, rpctypes.ErrPeerURLExist) && !errors.Is(err, rpctypes.ErrMemberExist) {
		t.Errorf("one that was there before: got %v, want refused", err)
	}
}
