package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skein-os/skein/agent/cluster"
)

// Watch calls fn with the state as it is, then with every new one and whenever this node begins or ceases
// to lead. Each State is consistent: it is the ledger at its Revision, whole transactions only. It
// survives the loss of endpoints, a compacted history and a change from client to voter and back; while
// no voter answers, the last State stays. It returns when the context ends, or with fn's error.
func (s *Store) Watch(ctx context.Context, fn func(st *cluster.State, leader bool) error) error {
	for {
		st, err := s.Read(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			s.cfg.Log.Warn("the ledger cannot be read, trying again", "err", err)
			if !pause(ctx, s.cfg.TryTimeout) {
				return context.Cause(ctx)
			}
			continue
		}
		leader := s.Leader()
		if err := fn(st, leader); err != nil {
			return err
		}
		err = s.follow(ctx, cluster.KeyRoot, st.Revision, func(events []*clientv3.Event) error {
			b, news := change(st), false
			for _, e := range events {
				if !touched(string(e.Kv.Key)) {
					continue
				}
				news = true
				if err := b.event(e); err != nil {
					s.cfg.Log.Error("unreadable record in the ledger is ignored", "key", string(e.Kv.Key), "err", err)
				}
			}
			if is := s.Leader(); news || is != leader {
				st, leader = b.next, is
				if b.copied[cluster.KeyNodes] {
					s.wakeKeep()
				}
				return fn(st, leader)
			}
			return nil
		})
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return err
		}
		s.cfg.Log.Info("the ledger's history since the last look is gone; reading it anew", "revision", st.Revision)
	}
}

// wakeKeep has Keep look now.
func (s *Store) wakeKeep() {
	select {
	case s.nodesChanged <- struct{}{}:
	default:
	}
}

// follow calls fn with what happens below prefix after a revision, whole transactions at a time and each
// once, and with nothing when leadership may have changed. It changes the endpoint when one falls
// silent. It returns when the context ends, when fn fails, or when the history is compacted.
func (s *Store) follow(ctx context.Context, prefix string, revision int64, fn func([]*clientv3.Event) error) error {
	for {
		conns := s.order()
		if len(conns) == 0 {
			if !pause(ctx, s.cfg.TryTimeout) {
				return context.Cause(ctx)
			}
			continue
		}
		c := conns[0]
		err := s.followAt(ctx, c, prefix, &revision, fn)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errMove):
		case errors.Is(err, errSilent):
			c.mark(false)
			s.cfg.Log.Debug("watch goes on at another endpoint", "endpoint", c.endpoint, "err", err)
			if c.local && !pause(ctx, s.cfg.Heartbeat) { // the member has no quorum, or is stopping
				return context.Cause(ctx)
			}
		default:
			return err
		}
	}
}

var (
	errSilent = errors.New("the endpoint is silent")
	errMove   = errors.New("a better endpoint is there")
)

// followAt is follow at one endpoint, until it falls silent or this node's own member comes or goes.
func (s *Store) followAt(ctx context.Context, c *conn, prefix string, revision *int64, fn func([]*clientv3.Event) error) error {
	// An endpoint that lost its quorum must end the watch: it would stay silent.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	// Watch returns when the endpoint has taken it, and one that has just died never does.
	opening := time.AfterFunc(s.cfg.WatchSilence, cancel)
	events := c.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(*revision+1))
	if !opening.Stop() {
		return errSilent
	}
	// The endpoint is asked for its progress all the time, so that a dead one is known by its silence:
	// gRPC would need 10 s to find out.
	asking.Go(func() {
		for pause(ctx, s.cfg.WatchSilence/4) && c.client.RequestProgress(ctx) == nil {
		}
	})
	silence := time.NewTimer(s.cfg.WatchSilence)
	defer silence.Stop()
	for {
		changes := s.Changes() // before looking, so that no change falls between
		if (s.voter() != nil) != c.local {
			return errMove
		}
		if err := fn(nil); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changes:
		case <-silence.C:
			return errSilent
		case r, ok := <-events:
			switch {
			case !ok:
				return errSilent
			case r.CompactRevision != 0:
				return rpctypes.ErrCompacted
			case r.Err() != nil:
				return fmt.Errorf("%w: %w", errSilent, r.Err())
			}
			c.mark(true)
			silence.Reset(s.cfg.WatchSilence)
			s.saw(r.Header.Revision)
			if len(r.Events) > 0 {
				*revision = r.Events[len(r.Events)-1].Kv.ModRevision
				if err := fn(r.Events); err != nil {
					return err
				}
			} else if r.IsProgressNotify() {
				*revision = max(*revision, r.Header.Revision)
			}
		}
	}
}
