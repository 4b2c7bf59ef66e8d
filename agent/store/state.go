package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skein-os/skein/agent/cluster"
)

// statePrefixes are what a State is made of; meta is one key.
var statePrefixes = []string{cluster.KeyNodes, cluster.KeyServices, cluster.KeyInstances, cluster.KeyStatus, cluster.KeyImages, cluster.KeyBMCs, cluster.KeyFences, cluster.KeyFenceRate, cluster.KeyWatchdogs, cluster.KeySANs, cluster.KeyDisks, cluster.KeyVolumes, cluster.KeyKept, cluster.KeyShared, cluster.KeyReports, cluster.KeyDisk, cluster.KeyAdmission, cluster.KeyUpdates, cluster.KeyAge, cluster.KeyCerts, cluster.KeyUsers, cluster.KeyNetboot, cluster.KeyRegistryUsers, cluster.KeyRegistryHosts, cluster.KeyPorts}

// Read reads the whole state as it is now: all that was committed before the call is in it.
func (s *Store) Read(ctx context.Context) (*cluster.State, error) {
	var st *cluster.State
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		st, err = s.readFrom(ctx, c)
		return err
	}, 0)
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	return st, nil
}

// readFrom is Read at one endpoint.
func (s *Store) readFrom(ctx context.Context, c *clientv3.Client, opts ...clientv3.OpOption) (*cluster.State, error) {
	ops := []clientv3.Op{clientv3.OpGet(cluster.KeyMeta, opts...)}
	for _, p := range statePrefixes {
		ops = append(ops, clientv3.OpGet(p, append(opts[:len(opts):len(opts)], clientv3.WithPrefix())...))
	}
	r, err := c.Txn(ctx).Then(ops...).Commit() // one transaction: one revision
	if err != nil {
		return nil, err
	}
	s.saw(r.Header.Revision)
	b := change(&cluster.State{})
	for _, resp := range r.Responses {
		for _, kv := range resp.GetResponseRange().Kvs {
			if err := b.put(kv); err != nil {
				s.cfg.Log.Error("unreadable record in the ledger is ignored", "key", string(kv.Key), "err", err)
			}
		}
	}
	b.next.Revision = r.Header.Revision
	return b.next, nil
}

// builder makes the next State out of one that others may be reading: a list is copied when the first
// record of it changes, all others are shared.
type builder struct {
	next   *cluster.State
	copied map[string]bool
}

func change(st *cluster.State) *builder {
	next := *st
	return &builder{next: &next, copied: make(map[string]bool)}
}

func (b *builder) event(e *clientv3.Event) error {
	b.next.Revision = max(b.next.Revision, e.Kv.ModRevision)
	if e.Type == clientv3.EventTypeDelete {
		b.remove(string(e.Kv.Key))
		return nil
	}
	return b.put(e.Kv)
}

// touched tells that the State will differ after the event; events and secrets are not in it.
func touched(key string) bool {
	return key == cluster.KeyMeta || slices.ContainsFunc(statePrefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

func (b *builder) put(kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	switch {
	case key == cluster.KeyMeta:
		var m cluster.Meta
		if err := json.Unmarshal(kv.Value, &m); err != nil {
			return err
		}
		b.next.Meta = m
	case key == cluster.KeyDisk:
		var d cluster.ClusterDisk
		if err := json.Unmarshal(kv.Value, &d); err != nil {
			return err
		}
		d.Revision = kv.ModRevision
		b.next.LedgerDisk = &d
	case key == cluster.KeyNetboot:
		var r cluster.NetbootRecord
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			return err
		}
		r.Revision = kv.ModRevision
		b.next.Netboot = &r
	case key == cluster.KeyFenceRate:
		var r cluster.FenceRate
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			return err
		}
		r.Revision = kv.ModRevision
		b.next.FenceRate = r
	case key == cluster.KeyAdmission:
		var a cluster.Admission
		if err := json.Unmarshal(kv.Value, &a); err != nil {
			return err
		}
		a.Revision = kv.ModRevision
		b.next.Admission = &a
	case key == cluster.KeyAge:
		var a cluster.Age
		if err := json.Unmarshal(kv.Value, &a); err != nil {
			return err
		}
		a.Revision = kv.ModRevision
		b.next.Age = a
	case strings.HasPrefix(key, cluster.KeyNodes):
		var v cluster.Node
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyNodes, &b.next.Nodes, key, v, (*cluster.Node).Key)
	case strings.HasPrefix(key, cluster.KeyServices):
		var v cluster.Service
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyServices, &b.next.Services, key, v, (*cluster.Service).Key)
	case strings.HasPrefix(key, cluster.KeyInstances):
		var v cluster.Instance
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision, v.Epoch = kv.ModRevision, uint64(kv.CreateRevision)
		set(b, cluster.KeyInstances, &b.next.Instances, key, v, (*cluster.Instance).Key)
	case strings.HasPrefix(key, cluster.KeyStatus):
		var v cluster.Status
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyStatus, &b.next.Statuses, key, v, (*cluster.Status).Key)
	case strings.HasPrefix(key, cluster.KeyImages):
		var v cluster.Image
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyImages, &b.next.Images, key, v, (*cluster.Image).Key)
	case strings.HasPrefix(key, cluster.KeyBMCs):
		var v cluster.BMC
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyBMCs, &b.next.BMCs, key, v, (*cluster.BMC).Key)
	case strings.HasPrefix(key, cluster.KeyFences):
		var v cluster.Fence
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyFences, &b.next.Fences, key, v, (*cluster.Fence).Key)
	case strings.HasPrefix(key, cluster.KeyWatchdogs):
		var v cluster.WatchdogPolicy
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyWatchdogs, &b.next.Watchdogs, key, v, (*cluster.WatchdogPolicy).Key)
	case strings.HasPrefix(key, cluster.KeySANs):
		var v cluster.SAN
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeySANs, &b.next.SANs, key, v, (*cluster.SAN).Key)
	case strings.HasPrefix(key, cluster.KeyDisks):
		var v cluster.Disk
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyDisks, &b.next.Disks, key, v, (*cluster.Disk).Key)
	case strings.HasPrefix(key, cluster.KeyVolumes):
		var v cluster.VolumeRecord
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyVolumes, &b.next.Volumes, key, v, (*cluster.VolumeRecord).Key)
	case strings.HasPrefix(key, cluster.KeyKept):
		var v cluster.KeptBlob
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyKept, &b.next.Kept, key, v, (*cluster.KeptBlob).Key)
	case strings.HasPrefix(key, cluster.KeyShared):
		var v cluster.SharedRecord
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyShared, &b.next.Shared, key, v, (*cluster.SharedRecord).Key)
	case strings.HasPrefix(key, cluster.KeyReports):
		var v cluster.SharedReport
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyReports, &b.next.Reports, key, v, (*cluster.SharedReport).Key)
	case strings.HasPrefix(key, cluster.KeyUpdates):
		var v cluster.Update
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyUpdates, &b.next.Updates, key, v, (*cluster.Update).Key)
	case strings.HasPrefix(key, cluster.KeyPorts):
		var v cluster.NodePorts
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyPorts, &b.next.Ports, key, v, (*cluster.NodePorts).Key)
	case strings.HasPrefix(key, cluster.KeyCerts):
		var v cluster.NodeCerts
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyCerts, &b.next.NodeCerts, key, v, (*cluster.NodeCerts).Key)
	case strings.HasPrefix(key, cluster.KeyUsers):
		var v cluster.User
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyUsers, &b.next.Users, key, v, (*cluster.User).Key)
	case strings.HasPrefix(key, cluster.KeyRegistryUsers):
		var v cluster.RegistryUser
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyRegistryUsers, &b.next.RegistryUsers, key, v, (*cluster.RegistryUser).Key)
	case strings.HasPrefix(key, cluster.KeyRegistryHosts):
		var v cluster.RegistryHost
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		v.Revision = kv.ModRevision
		set(b, cluster.KeyRegistryHosts, &b.next.RegistryHosts, key, v, (*cluster.RegistryHost).Key)
	}
	return nil
}

func (b *builder) remove(key string) {
	switch {
	case key == cluster.KeyDisk:
		b.next.LedgerDisk = nil
	case key == cluster.KeyNetboot:
		b.next.Netboot = nil
	case key == cluster.KeyFenceRate:
		b.next.FenceRate = cluster.FenceRate{}
	case key == cluster.KeyAdmission:
		b.next.Admission = nil
	case key == cluster.KeyAge:
		b.next.Age = cluster.Age{}
	case strings.HasPrefix(key, cluster.KeyNodes):
		unset(b, cluster.KeyNodes, &b.next.Nodes, key, (*cluster.Node).Key)
	case strings.HasPrefix(key, cluster.KeyServices):
		unset(b, cluster.KeyServices, &b.next.Services, key, (*cluster.Service).Key)
	case strings.HasPrefix(key, cluster.KeyInstances):
		unset(b, cluster.KeyInstances, &b.next.Instances, key, (*cluster.Instance).Key)
	case strings.HasPrefix(key, cluster.KeyStatus):
		unset(b, cluster.KeyStatus, &b.next.Statuses, key, (*cluster.Status).Key)
	case strings.HasPrefix(key, cluster.KeyImages):
		unset(b, cluster.KeyImages, &b.next.Images, key, (*cluster.Image).Key)
	case strings.HasPrefix(key, cluster.KeyBMCs):
		unset(b, cluster.KeyBMCs, &b.next.BMCs, key, (*cluster.BMC).Key)
	case strings.HasPrefix(key, cluster.KeyFences):
		unset(b, cluster.KeyFences, &b.next.Fences, key, (*cluster.Fence).Key)
	case strings.HasPrefix(key, cluster.KeyWatchdogs):
		unset(b, cluster.KeyWatchdogs, &b.next.Watchdogs, key, (*cluster.WatchdogPolicy).Key)
	case strings.HasPrefix(key, cluster.KeySANs):
		unset(b, cluster.KeySANs, &b.next.SANs, key, (*cluster.SAN).Key)
	case strings.HasPrefix(key, cluster.KeyDisks):
		unset(b, cluster.KeyDisks, &b.next.Disks, key, (*cluster.Disk).Key)
	case strings.HasPrefix(key, cluster.KeyVolumes):
		unset(b, cluster.KeyVolumes, &b.next.Volumes, key, (*cluster.VolumeRecord).Key)
	case strings.HasPrefix(key, cluster.KeyKept):
		unset(b, cluster.KeyKept, &b.next.Kept, key, (*cluster.KeptBlob).Key)
	case strings.HasPrefix(key, cluster.KeyShared):
		unset(b, cluster.KeyShared, &b.next.Shared, key, (*cluster.SharedRecord).Key)
	case strings.HasPrefix(key, cluster.KeyReports):
		unset(b, cluster.KeyReports, &b.next.Reports, key, (*cluster.SharedReport).Key)
	case strings.HasPrefix(key, cluster.KeyUpdates):
		unset(b, cluster.KeyUpdates, &b.next.Updates, key, (*cluster.Update).Key)
	case strings.HasPrefix(key, cluster.KeyPorts):
		unset(b, cluster.KeyPorts, &b.next.Ports, key, (*cluster.NodePorts).Key)
	case strings.HasPrefix(key, cluster.KeyCerts):
		unset(b, cluster.KeyCerts, &b.next.NodeCerts, key, (*cluster.NodeCerts).Key)
	case strings.HasPrefix(key, cluster.KeyUsers):
		unset(b, cluster.KeyUsers, &b.next.Users, key, (*cluster.User).Key)
	case strings.HasPrefix(key, cluster.KeyRegistryUsers):
		unset(b, cluster.KeyRegistryUsers, &b.next.RegistryUsers, key, (*cluster.RegistryUser).Key)
	case strings.HasPrefix(key, cluster.KeyRegistryHosts):
		unset(b, cluster.KeyRegistryHosts, &b.next.RegistryHosts, key, (*cluster.RegistryHost).Key)
	}
}

func find[T any](list []T, key string, keyOf func(*T) string) (int, bool) {
	return slices.BinarySearchFunc(list, key, func(v T, key string) int { return strings.Compare(keyOf(&v), key) })
}

func own[T any](b *builder, prefix string, list *[]T) {
	if !b.copied[prefix] {
		*list, b.copied[prefix] = slices.Clone(*list), true
	}
}

func set[T any](b *builder, prefix string, list *[]T, key string, v T, keyOf func(*T) string) {
	// A record says itself what it is called. Under another key it would be found by nobody and never
	// removed, so the key it is stored under must be the one it names.
	if keyOf(&v) != key {
		return
	}
	own(b, prefix, list)
	if i, ok := find(*list, key, keyOf); ok {
		(*list)[i] = v
	} else {
		*list = slices.Insert(*list, i, v)
	}
}

func unset[T any](b *builder, prefix string, list *[]T, key string, keyOf func(*T) string) {
	if i, ok := find(*list, key, keyOf); ok {
		own(b, prefix, list)
		*list = slices.Delete(*list, i, i+1)
	}
}
