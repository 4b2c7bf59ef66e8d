package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skein-os/skein/agent/cluster"
)

// laneCount is how many commits of one node may be under way at once.
const laneCount = 8

// laneRoot is outside cluster.KeyRoot, so that lanes wake no watcher.
const laneRoot = "/lane/"

// lane makes a transaction happen once however often it is sent: each attempt is conditional on the
// lane's revision and moves it on. Used by one commit at a time.
type lane struct {
	key      string
	revision int64 // as last known; corrected by the first refusal
}

func laneKey(c *Config, i int) string { return fmt.Sprintf("%s%s/%d", laneRoot, c.memberName(), i) }

// Commit applies a transaction: everything of it if all conditions hold (ok), else nothing. It returns
// the ledger's revision that holds it. An error means that the outcome is unknown: the caller reads the
// ledger to find out.
//
// Events become records of their own in the same transaction, with a key that no other event has: the
// last revision this store had seen, the member and a counter. Their order is that of the ledger's
// revisions, which is what Seq is made of when they are read.
func (s *Store) Commit(ctx context.Context, t cluster.Txn) (rev int64, ok bool, err error) {
	var cmps []clientv3.Cmp
	for _, c := range t.Conditions {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision))
	}
	var ops []clientv3.Op
	for _, p := range t.Puts {
		data, err := json.Marshal(p.Value)
		if err != nil {
			return 0, false, fmt.Errorf("commit %s: %w", p.Key, err)
		}
		ops = append(ops, clientv3.OpPut(p.Key, string(data)))
	}
	for _, k := range t.Deletes {
		ops = append(ops, clientv3.OpDelete(k))
	}
	for _, e := range t.Events {
		e.Seq = 0 // known when it is read
		data, err := json.Marshal(e)
		if err != nil {
			return 0, false, fmt.Errorf("commit event: %w", err)
		}
		ops = append(ops, clientv3.OpPut(s.eventKey(), string(data)))
	}
	if len(ops) == 0 {
		return 0, false, errors.New("commit: the transaction changes nothing")
	}

	var l *lane
	select {
	case l = <-s.lanes:
		defer func() { s.lanes <- l }()
	case <-ctx.Done():
		return 0, false, fmt.Errorf("commit: %w", context.Cause(ctx))
	}
	id := rand.Text()
	ops = append(ops, clientv3.OpPut(l.key, id))
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) error {
		for {
			all := append(cmps[:len(cmps):len(cmps)], clientv3.Compare(clientv3.ModRevision(l.key), "=", l.revision))
			r, err := c.Txn(ctx).If(all...).Then(ops...).Else(clientv3.OpGet(l.key)).Commit()
			if err != nil {
				return err
			}
			if ctx.Value(atOwn{}) != nil { // others are held up at their server
				if err := s.durable(ctx, r.Header.Revision); err != nil {
					return err
				}
			}
			s.saw(r.Header.Revision)
			if r.Succeeded {
				rev, ok, l.revision = r.Header.Revision, true, r.Header.Revision
				return nil
			}
			var at int64
			if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
				at = kvs[0].ModRevision
				if string(kvs[0].Value) == id { // an earlier attempt whose answer was lost
					rev, ok, l.revision = at, true, at
					return nil
				}
			}
			if at == l.revision {
				rev, ok = r.Header.Revision, false
				return nil
			}
			// The lane was moved by an earlier commit of ours whose outcome was not known.
			l.revision = at
		}
	}, 0)
	if err != nil {
		return 0, false, fmt.Errorf("commit: %w", err)
	}
	return rev, ok, nil
}

func (s *Store) saw(rev int64) {
	for {
		old := s.seen.Load()
		if rev <= old || s.seen.CompareAndSwap(old, rev) {
			return
		}
	}
}

// Get reads one record as it is now. Revision 0: there is none.
func (s *Store) Get(ctx context.Context, key string, into any) (revision int64, err error) {
	var r *clientv3.GetResponse
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Get(ctx, key)
		return err
	}, 0)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	s.saw(r.Header.Revision)
	if len(r.Kvs) == 0 {
		return 0, nil
	}
	if err := json.Unmarshal(r.Kvs[0].Value, into); err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return r.Kvs[0].ModRevision, nil
}

// ErrNoSecret: the ledger has no secret of that name.
var ErrNoSecret = errors.New("no such secret in the ledger")

// Secret reads a secret: the CA's key, the join token.
func (s *Store) Secret(ctx context.Context, name string) ([]byte, error) {
	var data []byte
	rev, err := s.Get(ctx, cluster.KeySecrets+name, &data)
	if err == nil && rev == 0 {
		err = fmt.Errorf("secret %s: %w", name, ErrNoSecret)
	}
	return data, err
}

// SecretPut is the write of a secret, to be part of a transaction.
func SecretPut(name string, data []byte) cluster.Put {
	return cluster.Put{Key: cluster.KeySecrets + name, Value: data}
}

// PutSecret writes a secret, replacing an older one of the name.
func (s *Store) PutSecret(ctx context.Context, name string, data []byte) error {
	_, _, err := s.Commit(ctx, cluster.Txn{Puts: []cluster.Put{SecretPut(name, data)}})
	return err
}
