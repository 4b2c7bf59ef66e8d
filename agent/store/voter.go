package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"google.golang.org/grpc"

	"github.com/skein-os/skein/agent/cluster"
)

// What is a package variable in etcd, with no place in its configuration.
var tuneOnce sync.Once

func tune() {
	tuneOnce.Do(func() {
		// Two segments are allocated in advance; at etcd's 64 MB they would fill the memory of a small
		// node.
		wal.SegmentSizeBytes = 4 << 20
	})
}

// voter is this node's etcd member while it has one.
type voter struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	id     uint64
}

// markerFile in the data directory names the member that the data belong to: a member of another boot
// must never be started again with a log that may be incomplete.
const markerFile = "member-name"

// startVoter starts this node's member and waits until it is part of the cluster. A data directory of
// the same member is continued, unless fresh.
func startVoter(ctx context.Context, c *Config, clusterToken, state string, initial []string, fresh bool) (*voter, error) {
	v, err := openVoter(c, clusterToken, state, initial, fresh)
	if err != nil {
		return nil, err
	}
	if err := v.await(ctx); err != nil {
		return nil, err
	}
	return v, nil
}

// openVoter is startVoter that does not wait: without a majority the wait would have no end.
func openVoter(c *Config, clusterToken, state string, initial []string, fresh bool) (*voter, error) {
	tune()
	if fresh {
		if err := wipe(c.DataDir); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory of etcd: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.DataDir, markerFile), []byte(c.memberName()), 0o600); err != nil {
		return nil, fmt.Errorf("mark the data directory of etcd: %w", err)
	}
	tls := transport.TLSInfo{
		CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile,
		ClientCertAuth: true, ServerName: ServerName,
		// Operators have certificates of the same CA, without this name: the ledger is not for them.
		AllowedHostnames: []string{ServerName},
		// Otherwise etcd looks up the names in the caller's certificate in the DNS, which may not be there.
		SkipClientSANVerify: true,
	}
	e := embed.NewConfig()
	e.Name = c.memberName()
	e.Dir = c.DataDir
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(c.Log))
	e.ClientTLSInfo, e.PeerTLSInfo = tls, tls
	if c.RevokedFile != "" {
		if err := ensureRevoked(c.RevokedFile); err != nil {
			return nil, err
		}
		e.PeerTLSInfo.CRLFile = c.RevokedFile
	}
	e.TlsMinVersion = "TLS1.3"
	e.ListenClientUrls, e.AdvertiseClientUrls = []url.URL{c.clientURL()}, []url.URL{c.clientURL()}
	if c.private {
		e.ListenClientUrls = []url.URL{endpointURL(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)} // etcd wants one
	}
	e.ListenPeerUrls, e.AdvertisePeerUrls = []url.URL{c.peerURL()}, []url.URL{c.peerURL()}
	e.ClusterState = state
	e.InitialCluster = strings.Join(initial, ",")
	e.InitialClusterToken = clusterToken
	e.TickMs = uint(c.Heartbeat.Milliseconds())
	e.ElectionMs = uint(c.Election.Milliseconds())
	e.PreVote = true
	// etcd's own check refuses every change of members for 5 s after a connection came or went, which is
	// just when a voter has to be replaced: each of these seconds is one in which the loss of another
	// voter stops the ledger. What it guards against, reconfigure.go does: nobody is removed who may still
	// have the log, and who is added is a learner, that etcd promotes only when it has caught up.
	e.StrictReconfigCheck = false
	e.MaxLearners = 4
	e.MaxTxnOps = 1024
	e.UnsafeNoFsync = true // the log is in memory: there is no disk to wait for
	e.QuotaBackendBytes = c.Quota
	e.SnapshotCount = 2000
	e.SnapshotCatchUpEntries = 1000
	e.MaxWalFiles, e.MaxSnapFiles = 2, 2
	e.AutoCompactionMode = embed.CompactorModeRevision
	e.AutoCompactionRetention = "1000"
	e.EnableGRPCGateway = false
	e.GRPCKeepAliveMinTime = time.Second
	if c.Guard != nil { // first: nothing is done for who is refused
		e.GRPCAdditionalServerOptions = append(e.GRPCAdditionalServerOptions, grpc.ChainUnaryInterceptor(guardUnary(c.Guard)), grpc.ChainStreamInterceptor(guardStream(c.Guard)))
	}
	if c.server != nil {
		e.GRPCAdditionalServerOptions = append(e.GRPCAdditionalServerOptions, grpc.ChainUnaryInterceptor(c.server))
	}
	// Emulated machines take longer than etcd's 100 ms over almost everything: that is not news.
	e.WarningApplyDuration = time.Second
	e.WarningUnaryRequestDuration = 2 * time.Second

	etcd, err := embed.StartEtcd(e)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	return &voter{etcd: etcd, id: uint64(etcd.Server.MemberID()), client: v3client.New(etcd.Server)}, nil
}

// await waits until the member is part of the cluster. After an error it is stopped.
func (v *voter) await(ctx context.Context) error {
	select {
	case <-v.etcd.Server.ReadyNotify():
		return nil
	case <-v.etcd.Server.StopNotify():
		v.etcd.Close()
		return errors.New("start etcd: it stopped before it was ready; was the member removed meanwhile?")
	case <-ctx.Done():
		v.kill()
		return fmt.Errorf("start etcd: not ready: %w", context.Cause(ctx))
	}
}

// awaitFor is await that is content after d if the member only lacks a majority.
func (v *voter) awaitFor(ctx context.Context, d time.Duration) error {
	short, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	select {
	case <-v.etcd.Server.ReadyNotify():
		return nil
	case <-v.etcd.Server.StopNotify():
		return v.await(ctx)
	case <-short.Done():
		if ctx.Err() != nil {
			return v.await(ctx)
		}
		return nil
	}
}

func wipe(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("wipe the data directory of etcd: %w", err)
	}
	for _, e := range entries { // the directory itself may be a mount
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("wipe the data directory of etcd: %w", err)
		}
	}
	return nil
}

func (v *voter) leader() bool { return uint64(v.etcd.Server.Leader()) == v.id }

// kill ends the member as a crash would: it tells nobody.
func (v *voter) kill() {
	v.etcd.Server.HardStop()
	v.etcd.Close()
}

// Bootstrap makes this node the first voter of a new cluster and writes what the cluster begins with:
// its Meta and, in the same transaction, first (the first node, the secrets). To be called once in a
// cluster's life: two of them are two clusters.
func Bootstrap(ctx context.Context, cfg Config, meta cluster.Meta, first cluster.Txn) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	pu := s.cfg.peerURL()
	v, err := startVoter(ctx, &s.cfg, meta.ID, embed.ClusterStateFlagNew, []string{s.cfg.memberName() + "=" + pu.String()}, true)
	if err != nil {
		return nil, fmt.Errorf("bootstrap cluster %s: %w", meta.Name, err)
	}
	s.setVoter(v)
	s.run()
	first.Conditions = append(first.Conditions[:len(first.Conditions):len(first.Conditions)], cluster.Condition{Key: cluster.KeyMeta})
	first.Puts = append(first.Puts[:len(first.Puts):len(first.Puts)], cluster.Put{Key: cluster.KeyMeta, Value: meta})
	_, ok, err := s.Commit(ctx, first)
	if err == nil && !ok {
		err = errors.New("the new ledger is not empty")
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("bootstrap cluster %s: %w", meta.Name, err)
	}
	return s, nil
}

// Resumable tells that this boot's member has its log in the data directory: the agent was restarted.
func Resumable(cfg Config) bool {
	name, err := os.ReadFile(filepath.Join(cfg.DataDir, markerFile))
	return err == nil && string(name) == cfg.memberName() && wal.Exist(filepath.Join(cfg.DataDir, "member", "wal"))
}

// Resume continues the member of this boot after the agent was restarted. Endpoints of the other voters
// help if the member was removed meanwhile: then the node goes on as a client. It does not wait longer than
// Config.RestoreAfter for a majority: there may never be one again, and then this member has to take the
// evidence by which the ledger is restored.
func Resume(ctx context.Context, cfg Config, endpoints []string) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	if !Resumable(s.cfg) {
		return nil, fmt.Errorf("resume: %s holds no log of member %s", s.cfg.DataDir, s.cfg.memberName())
	}
	s.setEndpoints(endpoints)
	var v *voter
	if s.unannounced() {
		v, err = s.finishRestore(ctx)
	} else if v, err = s.openOwn(); err == nil {
		err = v.awaitFor(ctx, s.cfg.RestoreAfter)
	}
	switch {
	case err == nil:
		s.setVoter(v)
	case ctx.Err() != nil || len(endpoints) == 0 || s.unannounced(): // then nobody else has the ledger
		s.closeConns()
		return nil, fmt.Errorf("resume: %w", err)
	default:
		s.cfg.Log.Warn("this node's etcd member cannot go on; the node is a client now", "err", err)
	}
	s.run()
	return s, nil
}

// ResumeClient is OpenClient after the agent was restarted, which needs no answer: the ledger may have lost its
// majority, and then this node has to promise itself to the voter that is left.
func ResumeClient(cfg Config, endpoints []string) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	s.setEndpoints(endpoints)
	s.run()
	return s, nil
}

// JoinVoter joins the ledger of a running cluster as a voter, through any of its members.
func JoinVoter(ctx context.Context, cfg Config, endpoints []string) (*Store, error) {
	s, err := OpenClient(ctx, cfg, endpoints)
	if err != nil {
		return nil, err
	}
	if err := s.PromoteSelf(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// PromoteSelf turns a client into a voter, at run time: remove the member of an earlier boot, add a
// learner, start it, wait until it has caught up, promote it. It tries until it succeeds or the context
// ends; the store answers as a client meanwhile.
func (s *Store) PromoteSelf(ctx context.Context) error {
	s.promoting.Lock()
	defer s.promoting.Unlock()
	if s.voter() != nil {
		return nil
	}
	s.ending.Wait()
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	s.mu.Lock()
	s.abandon = abandon
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.abandon = nil
		s.mu.Unlock()
	}()
	var last error
	for {
		v, err := s.becomeMember(ctx)
		if err == nil {
			s.setVoter(v)
			return nil
		}
		if err := s.pledged(); err != nil {
			return fmt.Errorf("become a voter: %w", err)
		}
		if ctx.Err() == nil {
			last = err
			s.cfg.Log.Info("not a voter yet, trying again", "err", err)
		}
		if !pause(ctx, 200*time.Millisecond) {
			return fmt.Errorf("become a voter: %w", errors.Join(context.Cause(ctx), last))
		}
	}
}

// becomeMember is one attempt of PromoteSelf. An attempt that fails leaves a learner behind, which the
// next one, or Keep, removes.
func (s *Store) becomeMember(ctx context.Context) (*voter, error) {
	pu := s.cfg.peerURL()
	if err := s.pledged(); err != nil {
		return nil, err
	}
	members, st, err := s.membersAndState(ctx)
	if err != nil {
		return nil, err
	}
	if err := mayJoin(st, s.cfg.Name, s.cfg.BootID); err != nil {
		return nil, err
	}
	// Remove before adding: four members of which one is dead tolerate no more failures than three, and
	// a slip in the new one's configuration would cost the quorum.
	for _, m := range members {
		node, _, named := splitMemberName(m.Name)
		if named && node == s.cfg.Name || len(m.PeerURLs) > 0 && m.PeerURLs[0] == pu.String() {
			if err := mayRemove(st, m, s.cfg.memberName()); err != nil {
				return nil, err
			}
			if err := s.memberRemove(ctx, m.ID); err != nil {
				return nil, fmt.Errorf("remove the member of an earlier boot (%s): %w", m.Name, err)
			}
		}
	}
	all, id, err := s.addLearner(ctx, pu.String(), members)
	if err != nil {
		return nil, err
	}
	var initial []string
	for _, m := range all {
		name := m.Name
		if m.ID == id {
			name = s.cfg.memberName()
		} else if name == "" {
			name = fmt.Sprintf("unstarted-%x", m.ID)
		}
		for _, u := range m.PeerURLs {
			initial = append(initial, name+"="+u)
		}
	}
	v, err := startVoter(ctx, &s.cfg, "", embed.ClusterStateFlagExisting, initial, true)
	if err != nil {
		return nil, err
	}
	for {
		err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.MemberPromote(ctx, v.id)
			return err
		}, changeTry)
		if err == nil || isPromoted(err) {
			return v, nil
		}
		// The answer may never come if those who promoted it are gone.
		if m := v.etcd.Server.Cluster().Member(v.etcd.Server.MemberID()); m != nil && !m.IsLearner {
			return v, nil
		}
		if err := s.pledged(); err != nil {
			v.kill()
			return nil, err
		}
		select {
		case <-v.etcd.Server.StopNotify():
			v.etcd.Close()
			return nil, fmt.Errorf("the learner was removed while it caught up: %w", err)
		default:
		}
		if !pause(ctx, 50*time.Millisecond) {
			v.kill()
			return nil, fmt.Errorf("promote the learner: %w", err)
		}
	}
}

// addLearner adds a learner at the URL and returns all members and its id. If an attempt was applied and its
// answer lost, that learner is the one that was not there before: to add another would be refused, and to
// start over takes long where answers are lost.
func (s *Store) addLearner(ctx context.Context, url string, before []*pb.Member) ([]*pb.Member, uint64, error) {
	var added *clientv3.MemberAddResponse
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		added, err = c.MemberAddAsLearner(ctx, []string{url})
		return err
	}, changeTry)
	if err == nil {
		return added.Members, added.Member.ID, nil
	}
	if errors.Is(err, rpctypes.ErrPeerURLExist) || errors.Is(err, rpctypes.ErrMemberExist) {
		all, lerr := s.memberList(ctx)
		for _, m := range all {
			known := slices.ContainsFunc(before, func(b *pb.Member) bool { return b.ID == m.ID })
			if !known && m.Name == "" && m.IsLearner && slices.Contains(m.PeerURLs, url) {
				return all, m.ID, nil
			}
		}
		err = errors.Join(err, lerr)
	}
	return nil, 0, fmt.Errorf("add a learner: %w", err)
}

// MoveLeader hands etcd's leadership to another voter, so that a planned stop costs no election. Nil
// if this node does not lead.
func (s *Store) MoveLeader(ctx context.Context) error {
	v := s.voter()
	if v == nil || !v.leader() {
		return nil
	}
	var errs []error
	for _, m := range v.etcd.Server.Cluster().Members() {
		if uint64(m.ID) == v.id || m.IsLearner || !m.IsStarted() {
			continue
		}
		tctx, cancel := context.WithTimeout(ctx, 4*s.cfg.Election)
		err := v.etcd.Server.MoveLeader(tctx, v.id, uint64(m.ID))
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("to %s: %w", m.Name, err))
	}
	if errs == nil {
		return errors.New("move etcd's leader: there is no other voter")
	}
	return fmt.Errorf("move etcd's leader: %w", errors.Join(errs...))
}

// Leave takes this node's member out of the cluster for good, leadership first. The store goes on as a
// client. The last voter cannot leave.
func (s *Store) Leave(ctx context.Context) error {
	s.promoting.Lock()
	defer s.promoting.Unlock()
	v := s.voter()
	if v == nil {
		return nil
	}
	if err := s.MoveLeader(ctx); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	s.setVoter(nil) // ask the others: an answer from here may not come any more
	if err := s.memberRemove(ctx, v.id); err != nil {
		s.setVoter(v)
		return fmt.Errorf("leave: %w", err)
	}
	s.ending.Go(v.kill)
	return nil
}
