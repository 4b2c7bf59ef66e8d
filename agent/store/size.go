package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// This file keeps the ledger below its size. etcd looks every five minutes for history to forget, gives the
// room back to nobody, and a copy that reaches the quota in between raises an alarm under which no
// transaction is taken any more, not even one that deletes, until somebody lifts it.

// keptRevisions are as many as watchers may be behind without reading everything anew, while there is room.
const keptRevisions = 100

// shrinkAgain is after how many looks the copy of a ledger that stays full is tried again.
const shrinkAgain = 5

// keepSmall forgets history and gives room back when this voter's copy takes more than half of its quota, and
// lifts the alarm of a full ledger when the copy is small again. Each voter sees to its own copy; forgetting
// and lifting is for the leader. One that lifts the alarm too early, since another copy is still big, gets it
// raised again by the next write there.
func (s *Store) keepSmall(ctx context.Context) error {
	v := s.voter()
	if v == nil || v.etcd.Server.Leader() == 0 {
		return nil
	}
	half := s.cfg.Quota / 2
	backend := v.etcd.Server.Backend()
	full := v.full()
	if !full && backend.Size() <= half {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	if s.Leader() {
		if err := v.forget(ctx, full); err != nil {
			return fmt.Errorf("forget the ledger's history: %w", err)
		}
	}
	// What is in use is known too late while nothing is written, so the copy of a full ledger is tried anyway.
	due := backend.SizeInUse() < backend.Size()*3/4 || full && time.Since(s.shrunk) >= shrinkAgain*s.cfg.KeepEvery
	if backend.Size() > half && due {
		s.shrunk = time.Now()
		// A member that is being stopped has no database any more.
		if !s.promoting.TryLock() {
			return nil
		}
		began, before := time.Now(), backend.Size()
		err := errors.New("this node's member has ended")
		if s.voter() == v {
			err = backend.Defrag()
		}
		s.promoting.Unlock()
		if err != nil {
			return fmt.Errorf("give back what the ledger's history took: %w", err)
		}
		s.cfg.Log.Info("the ledger's copy is smaller now", "bytes", backend.Size(), "before", before, "took", time.Since(began).Round(time.Millisecond))
	}
	if !full || !s.Leader() {
		return nil
	}
	if backend.Size() > half+half/2 {
		return fmt.Errorf("the ledger is full and takes no commits: %d bytes are in use, of %d", backend.SizeInUse(), s.cfg.Quota)
	}
	for _, a := range v.etcd.Server.Alarms() {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := v.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return fmt.Errorf("lift the alarm of a full ledger: %w", err)
		}
	}
	s.cfg.Log.Warn("the ledger was full, and takes commits again", "bytes", backend.Size(), "of", s.cfg.Quota)
	return nil
}

// full tells whether some copy has reached its quota: nothing is committed then.
func (v *voter) full() bool {
	for _, a := range v.etcd.Server.Alarms() {
		if a.Alarm == etcdserverpb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

// forget has all members forget old revisions; of a full ledger all but the newest.
func (v *voter) forget(ctx context.Context, all bool) error {
	rev := v.etcd.Server.KV().Rev()
	if !all {
		rev -= keptRevisions
	}
	if rev <= v.etcd.Server.KV().FirstRev() {
		return nil
	}
	_, err := v.client.Compact(ctx, rev, clientv3.WithCompactPhysical())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil
	}
	return err
}
