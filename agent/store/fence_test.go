package store

import (
	"encoding/json"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/skein-os/skein/agent/cluster"
)

// TestFenceRecords: power controllers and records of fencing come and go in the State, and passwords never do.
func TestFenceRecords(t *testing.T) {
	b := change(&cluster.State{})
	put := func(key string, v any, revision int64) {
		t.Helper()
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.put(&mvccpb.KeyValue{Key: []byte(key), Value: data, ModRevision: revision}); err != nil {
			t.Fatal(err)
		}
	}
	bmc, fence := cluster.BMC{Node: "n2", User: "admin"}, cluster.Fence{Node: "n2", BootID: "b", State: cluster.FenceOff}
	put(bmc.Key(), bmc, 5)
	put(fence.Key(), fence, 6)
	put(cluster.KeySecrets+cluster.BMCSecret("n2"), []byte("topsecret"), 7)
	if got := b.next.BMC("n2"); got == nil || got.Revision != 5 || got.User != "admin" {
		t.Errorf("got %+v", got)
	}
	if got := b.next.Fence("n2"); got == nil || got.Revision != 6 || got.BootID != "b" {
		t.Errorf("got %+v", got)
	}
	if touched(cluster.KeySecrets + cluster.BMCSecret("n2")) {
		t.Error("a password is part of the State")
	}
	b.remove(bmc.Key())
	b.remove(fence.Key())
	if b.next.BMC("n2") != nil || b.next.Fence("n2") != nil {
		t.Errorf("got %+v after both were removed", b.next)
	}
}
