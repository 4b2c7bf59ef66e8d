package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// Rise is the ledger that a copy becomes when it is restored: of the next incarnation, and at a revision that is
// higher than any that somebody can have seen of the one before. The copy on the disk has it from the beginning, so
// that a second attempt rises once more. Records keep their revisions: epochs are made of them.
func Rise(l *clusterdisk.Ledger, incarnation uint64) *clusterdisk.Ledger {
	return &clusterdisk.Ledger{Incarnation: max(l.Incarnation, incarnation) + 1, Revision: l.Revision + revisionBump, Entries: l.Entries}
}

// StateOf reads the cluster's state out of a copy, as Read does at a voter.
func StateOf(l *clusterdisk.Ledger) (*cluster.State, error) {
	b := change(&cluster.State{})
	for _, e := range l.Entries {
		if !touched(string(e.Key)) {
			continue
		}
		if err := b.put(&mvccpb.KeyValue{Key: e.Key, Value: e.Value, CreateRevision: e.Created, ModRevision: e.Changed, Version: e.Times}); err != nil {
			return nil, fmt.Errorf("record %s of the copy: %w", e.Key, err)
		}
	}
	if b.next.Meta.ID == "" {
		return nil, errors.New("the copy of the ledger does not say of which cluster it is")
	}
	b.next.Revision = l.Revision
	return b.next, nil
}

// Restoration says how a ledger came back from the cluster disk.
type Restoration struct {
	From  int64             // revision of the copy
	Boots map[string]string // in which the nodes are now, this one's too
	Why   string            // for the event: who is here, or who ordered it and what may be lost
	// Mirror is the slot that the copy was taken to. It has the ledger before the first commit is acknowledged.
	Mirror MirrorConfig
}

// RestoreCopy makes this node the first voter of a ledger that was on the cluster disk: l is of the new incarnation
// (Rise). To be called by who has taken the disk. The others join it as after any reboot.
func RestoreCopy(ctx context.Context, cfg Config, l *clusterdisk.Ledger, r Restoration) (*Store, error) {
	s, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	st, err := StateOf(l)
	if err != nil {
		return nil, fmt.Errorf("restore the ledger from the cluster disk: %w", err)
	}
	s.mirror = newMirror(r.Mirror)
	v, err := s.restoreCopy(ctx, l, st.Meta, r)
	if err != nil {
		return nil, fmt.Errorf("restore the ledger from the cluster disk: %w", err)
	}
	s.setVoter(v)
	s.wg.Go(func() { s.runMirror(s.ctx, s.mirror) })
	s.run()
	return s, nil
}

func (s *Store) restoreCopy(ctx context.Context, l *clusterdisk.Ledger, meta cluster.Meta, r Restoration) (*voter, error) {
	if err := wipe(s.cfg.DataDir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return nil, err
	}
	db := filepath.Join(s.cfg.DataDir, "copy.db")
	latest, err := s.writeDatabase(db, l)
	if err != nil {
		return nil, err
	}
	pu := s.cfg.peerURL()
	next := filepath.Join(s.cfg.DataDir, "restored")
	err = snapshot.NewV3(zapLogger(s.cfg.Log)).Restore(snapshot.RestoreConfig{
		SnapshotPath: db, SkipHashCheck: true, // it was checked by its seal, and written just now
		Name: s.cfg.memberName(), OutputDataDir: next, PeerURLs: []string{pu.String()},
		InitialCluster:      s.cfg.memberName() + "=" + pu.String(),
		InitialClusterToken: fmt.Sprintf("%s.%d.%s", meta.ID, l.Incarnation, s.cfg.BootID),
		RevisionBump:        uint64(l.Revision - latest), MarkCompacted: true,
	})
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(restoration{Incarnation: l.Incarnation, From: r.From, Boots: r.Boots, Disk: r.Why})
	if err == nil {
		err = os.WriteFile(filepath.Join(next, "member", restorationFile), data, 0o600)
	}
	if err == nil {
		err = os.Rename(filepath.Join(next, "member"), filepath.Join(s.cfg.DataDir, "member"))
	}
	if err == nil {
		err = errors.Join(os.RemoveAll(next), os.Remove(db))
	}
	if err != nil {
		return nil, err
	}
	return s.finishRestore(ctx)
}

// writeDatabase writes the copy as etcd keeps it: a record for each key, under the revision that wrote it. It
// returns the newest of them.
func (s *Store) writeDatabase(path string, l *clusterdisk.Ledger) (latest int64, err error) {
	entries := slices.Clone(l.Entries)
	slices.SortStableFunc(entries, func(a, b clusterdisk.Entry) int { return cmp.Compare(a.Changed, b.Changed) })
	be := backend.NewDefaultBackend(zapLogger(s.cfg.Log), path)
	defer func() { err = errors.Join(err, be.Close()) }()
	tx := be.BatchTx()
	tx.LockOutsideApply()
	defer tx.Unlock()
	tx.UnsafeCreateBucket(schema.Key)
	schema.UnsafeCreateMetaBucket(tx)
	sub := int64(0)
	for _, e := range entries {
		if e.Changed < 1 || e.Changed > l.Revision || e.Created < 1 || e.Created > e.Changed || e.Times < 1 {
			return 0, fmt.Errorf("record %s of the copy has the revisions %d and %d", e.Key, e.Created, e.Changed)
		}
		if sub++; e.Changed != latest {
			latest, sub = e.Changed, 0
		}
		data, err := proto.Marshal(&mvccpb.KeyValue{Key: e.Key, Value: e.Value, CreateRevision: e.Created, ModRevision: e.Changed, Version: e.Times})
		if err != nil {
			return 0, fmt.Errorf("record %s of the copy: %w", e.Key, err)
		}
		tx.UnsafePut(schema.Key, mvcc.RevToBytes(mvcc.Revision{Main: e.Changed, Sub: sub}, mvcc.NewRevBytes()), data)
	}
	if l.Revision <= latest {
		return 0, fmt.Errorf("revision %d of the restored ledger is not after %d, the copy's newest", l.Revision, latest)
	}
	return latest, nil
}
