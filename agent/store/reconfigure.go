package store

import (
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/skein-os/skein/agent/cluster"
)

// This file is what stands in the place of etcd's StrictReconfigCheck. That check looks at connections: it
// refuses a removal if those left were not connected for the last 5 s. A voter in RAM has more to say: its
// log ends with its boot, and the ledger knows the boots. So a member is removed only if its boot has ended,
// was declared lost (then it reboots by itself) or is no node any more. Such a member will never vote
// again, so that its removal never makes the quorum harder to reach: of three of which one is dead two must
// answer, of the two that are left, two. A new member is a learner, which counts for nothing, until the
// leader itself has seen it acknowledge nine tenths of its log (isLearnerReady: not part of the strict
// check, and always on).

// membersAndState reads etcd's members and then the ledger. In that order: a state that is younger than
// the list knows the boot of each member in it, or a later one, so that a member whose boot differs from
// its node's is one of an earlier boot and never of a later.
func (s *Store) membersAndState(ctx context.Context) ([]*pb.Member, *cluster.State, error) {
	members, err := s.memberList(ctx)
	if err != nil {
		return nil, nil, err
	}
	st, err := s.Read(ctx)
	return members, st, err
}

// mayRemove is nil if the ledger allows the member by, or the coordinator, to remove the member m.
func mayRemove(st *cluster.State, m *pb.Member, by string) error {
	node, boot, named := splitMemberName(m.Name)
	switch n := st.Node(node); {
	case m.Name == by && named: // what an attempt to join left behind
		return nil
	case !named && m.IsLearner: // it never started, so it has nothing
		return nil
	case !named:
		return fmt.Errorf("member %x must not be removed: it votes and has no name, so nobody knows whether its boot has ended", m.ID)
	case n == nil, !strings.HasPrefix(n.BootID, boot), n.State == cluster.NodeLost:
		return nil
	default:
		return fmt.Errorf("member %s must not be removed: its node is %s in this very boot, so it has the log", m.Name, n.State)
	}
}

// mayJoin is nil if the ledger allows this boot of a node to become a voter. A node that it does not know
// yet is no danger: a learner of no node is removed by the coordinator.
func mayJoin(st *cluster.State, node, bootID string) error {
	n := st.Node(node)
	switch {
	case n == nil:
		return nil
	case n.BootID != bootID:
		return fmt.Errorf("this boot (%.8s) must not become a voter: node %s is in another boot (%.8s)", bootID, node, n.BootID)
	case n.State == cluster.NodeLost:
		return fmt.Errorf("this boot (%.8s) must not become a voter: it was declared lost (%s)", bootID, n.Reason)
	}
	return nil
}
