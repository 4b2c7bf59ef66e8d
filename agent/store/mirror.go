package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// This file keeps a copy of the ledger on the cluster disk. Each voter copies what its own member has applied to its
// own slot, and tells nobody that a transaction is done before it is there: neither its own process nor a client
// over the network. So whatever anybody was told is in a slot. A watch may show a transaction earlier; who acts on
// it has to commit something before anything lasts (package takeover), and that waits for the disk.

// Slot is where a voter keeps its copy: a clusterdisk.Slot.
type Slot interface {
	// Rebase replaces the copy; Append adds to it. When they return nil, it is there for good.
	Rebase(*clusterdisk.Ledger) error
	Append([]clusterdisk.Change) error
	// Confirm has the disk's header name the copy's incarnation. lead tells that this node may write it; else
	// the coordinator does, and until then it is an error.
	Confirm(lead bool) error
	// Sign writes a sign of life.
	Sign() error
}

// MirrorConfig says how the ledger is kept on the cluster disk.
type MirrorConfig struct {
	Slot Slot
	// DetachAfter is for how long transactions wait for a disk that does not take them. After that this voter
	// answers without it, no voter is added or removed any more, and what is committed meanwhile is lost if all
	// voters lose power. Zero: they wait for ever, as two nodes with the disk as arbiter have to.
	DetachAfter time.Duration
	// Fenced is called once when the disk refuses this node's writes: another node has taken it. From then on
	// no transaction is acknowledged here.
	Fenced func(error)
}

// DefaultDetachAfter is longer than a disk with two controllers needs to change from one to the other.
const DefaultDetachAfter = 15 * time.Second

// signEvery is between two signs of life.
const signEvery = time.Second

// MirrorStatus is how the copy on the cluster disk is.
type MirrorStatus struct {
	Attached bool
	Revision int64         // newest on the disk; 0: none yet
	Behind   time.Duration // for how long transactions have been waiting for the disk
	Detached bool          // transactions do not wait for it any more
	Fenced   bool
	Err      error // the last failure, nil if there is none now
}

type mirror struct {
	cfg MirrorConfig

	mu       sync.Mutex
	revision int64
	changed  chan struct{} // closed at the next change
	late     time.Time     // since when somebody waits and nothing gets on
	detached bool
	fenced   error
	err      error
}

func newMirror(cfg MirrorConfig) *mirror {
	return &mirror{cfg: cfg, changed: make(chan struct{})}
}

// wake is called with mu held.
func (m *mirror) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// wrote notes that all up to a revision is on the disk. A new base may be of another member, and lower.
func (m *mirror) wrote(revision int64) (attached bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	attached = m.detached
	m.revision, m.late, m.detached, m.err = revision, time.Time{}, false, nil
	m.wake()
	return attached
}

func (m *mirror) failed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	if errors.Is(err, clusterdisk.ErrFenced) && m.fenced == nil {
		m.fenced, m.detached = err, false
	}
	m.wake()
}

// await waits until a revision is on the disk, or is not waited for any more.
func (m *mirror) await(ctx context.Context, revision int64) error {
	for {
		m.mu.Lock()
		if m.fenced != nil {
			err := m.fenced
			m.mu.Unlock()
			return err
		}
		if m.revision >= revision || m.detached {
			m.mu.Unlock()
			return nil
		}
		if m.late.IsZero() {
			m.late = time.Now()
		}
		var giveUp <-chan time.Time
		var t *time.Timer
		if d := m.cfg.DetachAfter; d > 0 {
			t = time.NewTimer(time.Until(m.late.Add(d)))
			giveUp = t.C
		}
		changed := m.changed
		m.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-giveUp:
			m.mu.Lock()
			if m.fenced == nil && !m.late.IsZero() && time.Since(m.late) >= m.cfg.DetachAfter {
				m.detached = true
				m.wake()
			}
			m.mu.Unlock()
		case <-ctx.Done():
			err = fmt.Errorf("wait for the cluster disk: %w", context.Cause(ctx))
		}
		if t != nil {
			t.Stop()
		}
		if err != nil {
			return err
		}
	}
}

func (m *mirror) status() MirrorStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := MirrorStatus{Attached: m.cfg.Slot != nil, Revision: m.revision, Detached: m.detached, Fenced: m.fenced != nil, Err: m.err}
	if !m.late.IsZero() {
		st.Behind = time.Since(m.late)
	}
	return st
}

// Expect says that this cluster has a cluster disk: from now on this node, if it votes, acknowledges nothing that
// is not there, though it has no slot yet. It may be called again.
func (s *Store) Expect(detachAfter time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mirror == nil {
		s.mirror = newMirror(MirrorConfig{DetachAfter: detachAfter})
	}
}

// Attach begins to keep the ledger on the cluster disk: from now on commits wait for it.
func (s *Store) Attach(cfg MirrorConfig) error {
	s.Expect(cfg.DetachAfter)
	m := s.disk()
	m.mu.Lock()
	if m.cfg.Slot != nil {
		m.mu.Unlock()
		return errors.New("the ledger is on a cluster disk already")
	}
	m.cfg = cfg
	m.mu.Unlock()
	s.wg.Go(func() { s.runMirror(s.ctx, m) })
	return nil
}

// Mirror tells how the copy on the cluster disk is.
func (s *Store) Mirror() MirrorStatus {
	if m := s.disk(); m != nil {
		return m.status()
	}
	return MirrorStatus{}
}

func (s *Store) disk() *mirror {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mirror
}

// durable waits until a revision that this node's member has applied is on the cluster disk, if there is one.
func (s *Store) durable(ctx context.Context, revision int64) error {
	if m := s.disk(); m != nil {
		return m.await(ctx, revision)
	}
	return nil
}

// steady is an error while voters must stay who they are: the disk names those of whom a majority has to be seen
// in new boots before the ledger is restored from it.
func (s *Store) steady() error {
	m := s.disk()
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.fenced != nil:
		return m.fenced
	case m.detached || m.revision == 0:
		return fmt.Errorf("the voters stay as they are until the ledger is on the cluster disk again (last failure: %v)", m.err)
	}
	return nil
}

// atServer has clients of this node's member wait for the disk.
func (s *Store) atServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	switch req.(type) {
	case *pb.MemberAddRequest, *pb.MemberRemoveRequest, *pb.MemberPromoteRequest:
		if err := s.steady(); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	resp, err := next(ctx, req)
	if err != nil {
		return resp, err
	}
	revision := int64(0)
	switch r := resp.(type) {
	case *pb.TxnResponse:
		if writes(req) {
			revision = r.Header.Revision // also if it was refused: an earlier attempt may have been it
		}
	case *pb.PutResponse:
		revision = r.Header.Revision
	case *pb.DeleteRangeResponse:
		revision = r.Header.Revision
	}
	if revision > 0 {
		if err := s.durable(ctx, revision); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	return resp, nil
}

// writes tells whether a transaction could change something.
func writes(req any) bool {
	t, is := req.(*pb.TxnRequest)
	if !is {
		return false
	}
	for _, ops := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range ops {
			if op.GetRequestRange() == nil {
				return true
			}
		}
	}
	return false
}

// runMirror copies while this node has a member, until the store ends or the disk refuses.
func (s *Store) runMirror(ctx context.Context, m *mirror) {
	for ctx.Err() == nil {
		changes := s.Changes()
		v := s.voter()
		if v == nil {
			m.mu.Lock()
			m.revision = 0 // the next member has another log
			m.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-changes:
			}
			continue
		}
		err := s.mirrorVoter(ctx, m, v)
		if err == nil || ctx.Err() != nil || s.voter() != v {
			continue
		}
		m.failed(err)
		if errors.Is(err, clusterdisk.ErrFenced) {
			s.cfg.Log.Error("this node was shut off from the cluster disk and acknowledges nothing any more", "err", err)
			if m.cfg.Fenced != nil {
				m.cfg.Fenced(err)
			}
			return
		}
		s.cfg.Log.Error("the ledger is not on the cluster disk: a loss of power of all nodes would lose what is committed now", "err", err, "waits", m.cfg.DetachAfter)
		pause(ctx, s.cfg.KeepEvery)
	}
}

// mirrorVoter copies what one member applies, until the member ends or the disk fails.
func (s *Store) mirrorVoter(ctx context.Context, m *mirror, v *voter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at, err := s.rebase(ctx, m, v)
	if err != nil {
		return err
	}
	sign := time.NewTicker(signEvery)
	defer sign.Stop()
	events := v.client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(at+1))
	for {
		changes := s.Changes()
		if s.voter() != v {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-sign.C:
			if err := m.cfg.Slot.Sign(); err != nil {
				return err
			}
		case r, ok := <-events:
			if !ok || r.CompactRevision != 0 || r.Err() != nil {
				return fmt.Errorf("follow the own member: the watch ended (%v)", r.Err())
			}
			list := changesOf(nil, r.Events)
			for more := true; more; { // what has come meanwhile goes into the same write
				select {
				case r, ok := <-events:
					if more = ok && r.Err() == nil; more {
						list = changesOf(list, r.Events)
					}
				default:
					more = false
				}
			}
			for len(list) > 0 && list[0].Revision <= at {
				list = list[1:]
			}
			if len(list) == 0 {
				continue
			}
			err := m.cfg.Slot.Append(list)
			if errors.Is(err, clusterdisk.ErrFull) {
				if at, err = s.rebase(ctx, m, v); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			at = list[len(list)-1].Revision
			m.wrote(at)
		}
	}
}

// rebase writes a whole copy of what the member has.
func (s *Store) rebase(ctx context.Context, m *mirror, v *voter) (revision int64, err error) {
	l, err := v.copyOf(ctx)
	if err != nil {
		return 0, err
	}
	if err := m.cfg.Slot.Rebase(l); err != nil {
		return 0, err
	}
	if err := m.cfg.Slot.Confirm(v.leader()); err != nil {
		return 0, err
	}
	if m.wrote(l.Revision) {
		s.cfg.Log.Info("the ledger is on the cluster disk again", "revision", l.Revision)
	}
	return l.Revision, nil
}

// Copy is all that this node's member has applied.
func (s *Store) Copy(ctx context.Context) (*clusterdisk.Ledger, error) {
	v := s.voter()
	if v == nil {
		return nil, errors.New("this node has no copy of the ledger")
	}
	return v.copyOf(ctx)
}

// copyOf is all that the member has applied.
func (v *voter) copyOf(ctx context.Context) (*clusterdisk.Ledger, error) {
	r, err := v.client.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("read the own copy of the ledger: %w", err)
	}
	l := &clusterdisk.Ledger{Revision: r.Header.Revision}
	for _, kv := range r.Kvs {
		l.Entries = append(l.Entries, entryOf(kv))
	}
	var meta cluster.Meta
	if err := json.Unmarshal(l.Get(cluster.KeyMeta), &meta); err != nil {
		return nil, fmt.Errorf("the own copy of the ledger says nothing of its cluster: %w", err)
	}
	l.Incarnation = meta.Incarnation
	return l, nil
}

func entryOf(kv *mvccpb.KeyValue) clusterdisk.Entry {
	return clusterdisk.Entry{Key: kv.Key, Value: kv.Value, Created: kv.CreateRevision, Changed: kv.ModRevision, Times: kv.Version}
}

// changesOf adds events, which are whole transactions in order, to a list.
func changesOf(list []clusterdisk.Change, events []*clientv3.Event) []clusterdisk.Change {
	for _, e := range events {
		if n := len(list); n == 0 || list[n-1].Revision != e.Kv.ModRevision {
			list = append(list, clusterdisk.Change{Revision: e.Kv.ModRevision})
		}
		c := &list[len(list)-1]
		if e.Type == clientv3.EventTypeDelete {
			c.Deletes = append(c.Deletes, e.Kv.Key)
		} else {
			c.Puts = append(c.Puts, entryOf(e.Kv))
		}
	}
	return list
}
