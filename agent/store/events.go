package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skein-os/skein/agent/cluster"
)

// seqBits of Event.Seq number the events of one transaction; the rest is the ledger's revision.
const seqBits = 10

// eventKey is a key that no other event has. It sorts by the revision that its writer had seen, which is
// before the one it gets; the exact order is that of Seq.
func (s *Store) eventKey() string {
	return fmt.Sprintf("%s%020d.%s.%08d", cluster.KeyEvents, s.seen.Load(), s.cfg.memberName(), s.counter.Add(1))
}

// Events calls fn with the events after a sequence number, oldest first, and, if follow, with those that
// come until the context ends or fn fails.
func (s *Store) Events(ctx context.Context, after uint64, follow bool, fn func(cluster.Event) error) error {
	emit := func(kvs []*mvccpb.KeyValue) error {
		slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int {
			return cmp.Or(cmp.Compare(a.CreateRevision, b.CreateRevision), strings.Compare(string(a.Key), string(b.Key)))
		})
		var rev int64
		var index uint64
		for _, kv := range kvs {
			if kv.CreateRevision != rev {
				rev, index = kv.CreateRevision, 0
			}
			seq := uint64(rev)<<seqBits | index
			index++
			if seq <= after {
				continue
			}
			var e cluster.Event
			if err := json.Unmarshal(kv.Value, &e); err != nil {
				s.cfg.Log.Error("unreadable event is ignored", "key", string(kv.Key), "err", err)
				continue
			}
			e.Seq, after = seq, seq
			if err := fn(e); err != nil {
				return err
			}
		}
		return nil
	}
	if since, waits := s.Frozen(); since > 0 {
		return s.frozenEvents(ctx, since, waits, emit, follow, fn)
	}
	for {
		var r *clientv3.GetResponse
		err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
			r, err = c.Get(ctx, cluster.KeyEvents, clientv3.WithPrefix())
			return err
		}, 0)
		if err != nil {
			return fmt.Errorf("read the events: %w", err)
		}
		s.saw(r.Header.Revision)
		if err := emit(r.Kvs); err != nil || !follow {
			return err
		}
		err = s.follow(ctx, cluster.KeyEvents, r.Header.Revision, func(events []*clientv3.Event) error {
			var kvs []*mvccpb.KeyValue
			for _, e := range events {
				if e.Type == clientv3.EventTypePut {
					kvs = append(kvs, e.Kv)
				}
			}
			return emit(kvs)
		})
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return err
		}
	}
}

// frozenEvents are those of this member's own copy, while the ledger has no majority, and then one that is in
// no ledger and says so. Nothing can follow.
func (s *Store) frozenEvents(ctx context.Context, since time.Duration, waits []string, emit func([]*mvccpb.KeyValue) error, follow bool, fn func(cluster.Event) error) error {
	v := s.voter()
	if v == nil {
		return fmt.Errorf("read the events: the ledger has lost its majority for %s, and this node has no copy of it; ask another node", since.Round(time.Second))
	}
	r, err := v.client.Get(ctx, cluster.KeyEvents, clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		return fmt.Errorf("read the events of the own copy: %w", err)
	}
	if err := emit(r.Kvs); err != nil {
		return err
	}
	if err := fn(cluster.Event{Time: time.Now(), Node: s.cfg.Name, Kind: cluster.EventCluster, Subject: s.cfg.Name,
		Text: "the ledger has lost its majority: these events are from the copy of " + s.cfg.Name, Why: strings.Join(waits, "; ")}); err != nil || !follow {
		return err
	}
	return errors.New("events cannot be followed while the ledger has no majority")
}

// trimEvents deletes the oldest events beyond those to be kept, some at a time.
func (s *Store) trimEvents(ctx context.Context) error {
	const slack, batch = 50, 500
	var r *clientv3.GetResponse
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Get(ctx, cluster.KeyEvents, clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err
	}, 0)
	if err != nil || r.Count <= int64(s.cfg.KeptEvents+slack) {
		return err
	}
	excess := min(r.Count-int64(s.cfg.KeptEvents), batch)
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Get(ctx, cluster.KeyEvents, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
			clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend), clientv3.WithLimit(excess))
		return err
	}, 0)
	if err != nil {
		return err
	}
	var t cluster.Txn
	for _, kv := range r.Kvs {
		t.Deletes = append(t.Deletes, string(kv.Key))
	}
	if len(t.Deletes) == 0 {
		return nil
	}
	_, _, err = s.Commit(ctx, t)
	return err
}
