package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skein-os/skein/agent/cluster"
)

// Keep keeps the ledger in order until the context ends. It runs on every node. On the coordinator it
// keeps the right number of voters: it removes the members of lost, removed and rebooted nodes, marks
// nodes to become voters (Node.Voter) and trims the events. On a node that is marked it makes the node a
// voter (PromoteSelf). It looks every KeepEvery, and at once when a Watch of this store shows that a node
// has changed: until a lost voter is replaced, the loss of another one stops the ledger.
func (s *Store) Keep(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.keep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("the ledger's voters are not as they should be", "err", err)
		}
		t := time.NewTimer(s.cfg.KeepEvery)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-s.nodesChanged:
		}
		t.Stop()
	}
}

func (s *Store) keep(ctx context.Context) error {
	if err := s.keepSmall(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error("the ledger's size is not as it should be", "err", err)
	}
	if s.Voter() && !s.Leader() {
		return s.recover(ctx)
	}
	if s.pledged() != nil {
		return nil // the ledger it follows says when
	}
	if s.Leader() {
		// If there is no answer for so long, the majority is gone, and there is something else to do.
		ctx, cancel := context.WithTimeout(ctx, s.cfg.RestoreAfter)
		defer cancel()
		return s.keepOnce(ctx)
	}
	st, err := s.Read(ctx)
	if err != nil {
		return err
	}
	marked := func(n *cluster.Node) bool {
		return n != nil && n.Voter && n.BootID == s.cfg.BootID && n.State != cluster.NodeLost
	}
	if marked(st.Node(s.cfg.Name)) {
		return s.PromoteSelf(ctx)
	}
	// The mark is watched for instead of looked for now and then.
	var seen bool
	key := cluster.KeyNodes + s.cfg.Name
	wctx, cancel := context.WithTimeout(ctx, 10*s.cfg.KeepEvery)
	defer cancel()
	err = s.follow(wctx, key, st.Revision, func(events []*clientv3.Event) error {
		for _, e := range events {
			var n cluster.Node
			if string(e.Kv.Key) == key && json.Unmarshal(e.Kv.Value, &n) == nil && marked(&n) {
				seen = true
				return errMarked
			}
		}
		return nil
	})
	switch {
	case seen:
		return s.PromoteSelf(ctx)
	case wctx.Err() != nil: // look again
		return nil
	}
	return err
}

var errMarked = errors.New("this node was chosen to become a voter")

func (s *Store) keepOnce(ctx context.Context) error {
	members, st, err := s.membersAndState(ctx)
	if err != nil {
		return err
	}
	d := keepVoters(st, members, s.cfg.Voters)
	voters := 0
	for _, m := range members {
		if !m.IsLearner {
			voters++
		}
	}
	if len(d.remove) > 0 {
		if err := s.steady(); err != nil {
			return err
		}
	}
	for _, m := range d.remove {
		if !m.member.IsLearner {
			if voters == 1 {
				return fmt.Errorf("member %q is the last voter and must not be removed, although %s", m.member.Name, m.why)
			}
			voters--
		}
		if err := mayRemove(st, m.member, s.cfg.memberName()); err != nil {
			return err
		}
		s.cfg.Log.Info("removing an etcd member", "member", m.member.Name, "why", m.why)
		if err := s.memberRemove(ctx, m.member.ID); err != nil {
			return fmt.Errorf("remove member %q (%s): %w", m.member.Name, m.why, err)
		}
	}
	for _, n := range d.nodes {
		t := cluster.Txn{
			Conditions: []cluster.Condition{{Key: n.node.Key(), Revision: n.node.Revision}},
			Puts:       []cluster.Put{{Key: n.node.Key(), Value: n.node}},
		}
		if n.event != "" {
			t.Events = []cluster.Event{{Time: time.Now(), Node: s.cfg.Name, Kind: cluster.EventNode, Subject: n.node.Name, Text: n.event, Why: n.why}}
		}
		if _, _, err := s.Commit(ctx, t); err != nil { // refused: the node changed meanwhile; the next look sees it
			return err
		}
	}
	if err := s.trimEvents(ctx); err != nil {
		return err
	}
	return s.trimLanes(ctx, members, st)
}

// decision is what keepVoters wants done.
type decision struct {
	remove []removal
	nodes  []nodeChange
}

type removal struct {
	member *pb.Member
	why    string
}

type nodeChange struct {
	node       cluster.Node // as it should be; Revision as it was read
	event, why string
}

// keepVoters decides, from the nodes and etcd's members alone. A lost node's member is removed only when
// another node can take its place: until then it costs nothing, and the quorum is the same. The number
// of voters never shrinks by itself: two that freeze when one is lost are better than one that forgets
// everything.
func keepVoters(st *cluster.State, members []*pb.Member, want int) decision {
	var d decision
	if len(st.Nodes) < want {
		want = 1 // a second voter of two would only be a second that must not fail
	}
	nodeAt := make(map[string]*cluster.Node)
	for i := range st.Nodes {
		nodeAt[st.Meta.Network.NodeAddr(st.Nodes[i].Number).String()] = &st.Nodes[i]
	}
	alive := func(n *cluster.Node) bool { return n != nil && n.State != cluster.NodeLost }

	var lost []*pb.Member
	memberOf := make(map[string]*pb.Member) // of the current boot, by node
	for _, m := range members {
		node, boot, named := splitMemberName(m.Name)
		if !named { // a learner that has not started
			if n := nodeAt[peerHost(m)]; !alive(n) {
				d.remove = append(d.remove, removal{m, "it never started and its node is gone"})
			}
			continue
		}
		n := st.Node(node)
		switch {
		case n == nil:
			d.remove = append(d.remove, removal{m, "its node was removed from the cluster"})
		case !strings.HasPrefix(n.BootID, boot):
			d.remove = append(d.remove, removal{m, "its node rebooted and has forgotten its log"})
		case !alive(n) && m.IsLearner:
			d.remove = append(d.remove, removal{m, "its node is lost"})
		case !alive(n):
			lost = append(lost, m)
		default:
			memberOf[node] = m
		}
	}

	// Voters now or soon: members of live nodes and nodes that are marked.
	count := 0
	var candidates []*cluster.Node
	for i := range st.Nodes {
		n := &st.Nodes[i]
		switch {
		case !alive(n):
		case memberOf[n.Name] != nil || n.Voter:
			count++
		case n.State != cluster.NodeDraining:
			candidates = append(candidates, n)
		}
	}
	rank := map[cluster.NodeState]int{cluster.NodeOnline: 0, cluster.NodeJoining: 1, cluster.NodeDrained: 2}
	slices.SortStableFunc(candidates, func(a, b *cluster.Node) int {
		if a.Witness != b.Witness { // that is what it is there for
			if a.Witness {
				return -1
			}
			return 1
		}
		return rank[a.State] - rank[b.State]
	})
	chosen := make(map[string]bool)
	for _, n := range candidates {
		if count >= want {
			break
		}
		chosen[n.Name] = true
		count++
	}
	for _, m := range lost {
		if count >= want {
			d.remove = append(d.remove, removal{m, "its node is lost and another takes its place"})
		}
	}

	for i := range st.Nodes {
		n := st.Nodes[i]
		c := nodeChange{node: n}
		m := memberOf[n.Name]
		switch {
		case m != nil && !m.IsLearner:
			c.node.Voter, c.node.MemberID = true, m.ID
			c.event, c.why = "is a voter now", "its copy of the ledger is complete"
		case chosen[n.Name]:
			c.node.Voter = true
			c.event, c.why = "was chosen to become a voter", fmt.Sprintf("the ledger should have %d voters", want)
		case !alive(&n):
			c.node.Voter, c.node.MemberID = false, 0
		case m == nil:
			c.node.MemberID = 0
		}
		if c.node.Voter != n.Voter || c.node.MemberID != n.MemberID {
			d.nodes = append(d.nodes, c)
		}
	}
	return d
}

func peerHost(m *pb.Member) string {
	if len(m.PeerURLs) == 0 {
		return ""
	}
	u, err := url.Parse(m.PeerURLs[0])
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// trimLanes deletes the lanes of boots that are over.
func (s *Store) trimLanes(ctx context.Context, members []*pb.Member, st *cluster.State) error {
	var r *clientv3.GetResponse
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Get(ctx, laneRoot, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		return err
	}, 0)
	if err != nil {
		return err
	}
	used := make(map[string]bool)
	for _, m := range members {
		used[m.Name] = true
	}
	for _, n := range st.Nodes {
		used[MemberName(n.Name, n.BootID)] = true
	}
	var t cluster.Txn
	for _, kv := range r.Kvs {
		name, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), laneRoot), "/")
		if !used[name] && name != s.cfg.memberName() {
			t.Deletes = append(t.Deletes, string(kv.Key))
		}
	}
	if len(t.Deletes) == 0 {
		return nil
	}
	_, _, err = s.Commit(ctx, t)
	return err
}
