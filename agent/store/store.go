package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skein-os/skein/agent/cluster"
)

// Store is one node's access to the ledger.
type Store struct {
	cfg   Config
	dial  dialer
	lanes chan *lane
	// seen is the highest ledger revision that any answer named; event numbers start from it.
	seen    atomic.Int64
	counter atomic.Uint64 // of events of this process

	nodesChanged chan struct{} // wakes Keep; holds one wake-up
	shrunk       time.Time     // when keepSmall last gave room back; only Keep touches it

	promoting sync.Mutex     // one change of this node's membership at a time
	ending    sync.WaitGroup // members that are being stopped: they hold their ports until then

	mu          sync.Mutex
	local       *voter
	conns       []*conn // the other voters
	leading     bool
	coordinator string
	changed     chan struct{} // closed when leading or local changes

	lost       time.Time // since when there is no leader, zero while there is one
	asked      map[string]asked
	frozenMeta cluster.Meta // of the own copy, when it was last judged
	frozenRev  int64        // its revision then
	exact      bool         // nothing in the log is left to be applied, since there is no leader
	waits      []string     // what a ledger without a majority waits for
	recovering bool
	restored   uint64 // incarnation of the ledger that was restored here
	pledge     *cluster.Pledge
	abandon    context.CancelFunc // ends an attempt to become a voter, nil if there is none
	mirror     *mirror            // of the ledger on the cluster disk, nil if there is none

	ctx    context.Context // ends with the store
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newStore(cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, asked: map[string]asked{}, changed: make(chan struct{}), nodesChanged: make(chan struct{}, 1), lanes: make(chan *lane, laneCount)}
	s.cfg.server = s.atServer
	if s.dial, err = newDialer(&s.cfg); err != nil {
		return nil, err
	}
	for i := range laneCount {
		s.lanes <- &lane{key: laneKey(&s.cfg, i)}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// OpenClient opens the ledger of a running cluster as a client of its voters. It succeeds only when one
// of them has answered.
func OpenClient(ctx context.Context, cfg Config, endpoints []string) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	if len(endpoints) == 0 {
		return nil, errors.New("open the ledger: no endpoints of voters are known")
	}
	s.setEndpoints(endpoints)
	if err := s.refresh(ctx); err != nil {
		s.cancel()
		s.closeConns()
		return nil, fmt.Errorf("open the ledger at %s: %w", strings.Join(endpoints, ", "), err)
	}
	s.run()
	return s, nil
}

// run starts the goroutine that watches leadership and the list of voters.
func (s *Store) run() {
	s.wg.Go(s.observe)
}

// Close ends the store, and its member as if it had crashed: the others keep it on their list, and a
// voter's log stays in the data directory for Resume. To go for good, Leave first. It takes some seconds
// if clients have watches open here: etcd waits for them before it gives them up.
func (s *Store) Close() {
	s.cancel()
	s.wg.Wait()
	s.promoting.Lock()
	defer s.promoting.Unlock()
	if v := s.voter(); v != nil {
		s.setVoter(nil)
		v.kill()
	}
	s.ending.Wait()
	s.closeConns()
}

// Voter tells that this node has a voting member now.
func (s *Store) Voter() bool { return s.voter() != nil }

// MemberID is the id of this node's etcd member, 0 for a client.
func (s *Store) MemberID() uint64 {
	if v := s.voter(); v != nil {
		return v.id
	}
	return 0
}

func (s *Store) voter() *voter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.local
}

func (s *Store) setVoter(v *voter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local = v
	s.leading = v != nil && v.leader()
	s.announce()
}

// announce wakes everyone who waits for a change of leadership or membership. Called with mu held.
func (s *Store) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Leader tells that this process's member leads etcd now: this node is the coordinator. It may be wrong
// for an election timeout after a partition; whatever is decided on it must be committed by
// compare-and-swap.
func (s *Store) Leader() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leading
}

// Coordinator is the name of the node whose member leads, empty if none is known. On a client it is up
// to a second old.
func (s *Store) Coordinator() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.coordinator
}

// Changes is closed at the next change of Leader, Coordinator or Voter; ask again for the one after it.
func (s *Store) Changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// observe follows leadership and the list of voters until the store is closed.
func (s *Store) observe() {
	var refreshed time.Time
	tick := time.NewTicker(s.cfg.Heartbeat)
	defer tick.Stop()
	for {
		var elected, stopped <-chan struct{}
		v := s.voter()
		if v != nil {
			// Taken before looking, so that no change falls between.
			elected, stopped = v.etcd.Server.LeaderChangedNotify(), v.etcd.Server.StopNotify()
		}
		s.look(v)
		if time.Since(refreshed) >= time.Second {
			refreshed = time.Now()
			ctx, cancel := context.WithTimeout(s.ctx, s.cfg.TryTimeout)
			err := s.refresh(ctx)
			if err != nil && s.ctx.Err() == nil {
				s.cfg.Log.Debug("the list of voters cannot be refreshed", "err", err)
			}
			cancel()
			if err != nil {
				s.answered(false)
			}
		}
		select {
		case <-s.ctx.Done():
			return
		case <-elected:
		case <-stopped:
			s.demoted(v)
		case <-tick.C: // etcd does not notify of a leader lost, only of one found
		}
	}
}

// look compares leadership with what was known.
func (s *Store) look(v *voter) {
	if v == nil {
		return
	}
	leading, coordinator := v.leader(), ""
	if m := v.etcd.Server.Cluster().Member(v.etcd.Server.Leader()); m != nil {
		coordinator, _, _ = splitMemberName(m.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local == v {
		s.noteLeader(v.etcd.Server.Leader() != 0)
	}
	if s.local == v && (leading != s.leading || coordinator != s.coordinator) {
		s.leading, s.coordinator = leading, coordinator
		s.announce()
	}
}

// answered is what a client knows of the leader: whether one was behind the last answer.
func (s *Store) answered(ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local != nil {
		return
	}
	s.noteLeader(ok)
	if !ok && time.Since(s.lost) >= s.cfg.RestoreAfter && s.coordinator != "" {
		s.coordinator = ""
		s.announce()
	}
}

// demoted is called when the member stopped by itself: the others removed it.
func (s *Store) demoted(v *voter) {
	s.mu.Lock()
	mine := s.local == v
	if mine {
		s.local, s.leading = nil, false
		s.announce()
	}
	s.mu.Unlock()
	if mine {
		s.cfg.Log.Warn("this node's etcd member was removed by the others; the node is a client now", "member", s.cfg.memberName())
		s.ending.Go(v.etcd.Close)
	}
}

// refresh learns who the voters are and, on a client, who leads.
func (s *Store) refresh(ctx context.Context) error {
	members, err := s.memberList(ctx)
	if err != nil {
		return err
	}
	self := s.cfg.clientURL()
	var endpoints []string
	names := make(map[uint64]string)
	for _, m := range members {
		names[m.ID], _, _ = splitMemberName(m.Name)
		if m.IsLearner || len(m.ClientURLs) == 0 || m.ClientURLs[0] == self.String() {
			continue
		}
		endpoints = append(endpoints, m.ClientURLs[0])
	}
	if len(endpoints) > 0 {
		s.setEndpoints(endpoints)
	}
	if s.voter() != nil {
		return nil
	}
	var leader string
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Status(ctx, c.Endpoints()[0])
		if err == nil {
			leader = names[r.Leader]
		}
		return err
	}, 0)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local == nil && s.coordinator != leader {
		s.coordinator = leader
		s.announce()
	}
	return nil
}

func (s *Store) memberList(ctx context.Context) ([]*pb.Member, error) {
	var members []*pb.Member
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.MemberList(ctx)
		if err == nil {
			members = r.Members
		}
		return err
	}, 0)
	if err != nil {
		return nil, fmt.Errorf("list etcd's members: %w", err)
	}
	return members, nil
}

// memberRemove removes a member; it is not an error if it has gone already.
func (s *Store) memberRemove(ctx context.Context, id uint64) error {
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.MemberRemove(ctx, id)
		return err
	}, changeTry)
	if isMemberGone(err) {
		return nil
	}
	return err
}

// Members lists the names of the members ("n1.4f2a91c3"), sorted; learners and unstarted ones too.
func (s *Store) Members(ctx context.Context) ([]string, error) {
	members, err := s.memberList(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names, nil
}

// Endpoints are the URLs of the voters, this node's included: for a node that joins.
func (s *Store) Endpoints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	if s.local != nil {
		u := s.cfg.clientURL()
		list = append(list, u.String())
	}
	for _, c := range s.conns {
		list = append(list, c.endpoint)
	}
	return list
}

// pause waits for d; false if the context ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
