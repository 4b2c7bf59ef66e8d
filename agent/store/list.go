package store

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Entry is one key of the ledger as it is stored.
type Entry struct {
	Key  string
	Data []byte
}

// List reads all keys below a prefix, in their order.
func (s *Store) List(ctx context.Context, prefix string) ([]Entry, error) {
	var r *clientv3.GetResponse
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		r, err = c.Get(ctx, prefix, clientv3.WithPrefix())
		return err
	}, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", prefix, err)
	}
	s.saw(r.Header.Revision)
	out := make([]Entry, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		out = append(out, Entry{string(kv.Key), kv.Value})
	}
	return out, nil
}
