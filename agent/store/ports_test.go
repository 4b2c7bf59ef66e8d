package store

import (
	"encoding/json"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/skein-os/skein/agent/cluster"
)

// TestPortsRecords: what nodes tell of their ports comes and goes in the State, and of an earlier boot it is not found.
func TestPortsRecords(t *testing.T) {
	b := change(&cluster.State{Nodes: []cluster.Node{{Name: "n1", BootID: "a"}, {Name: "n2", BootID: "b"}}})
	put := func(r cluster.NodePorts, revision int64) {
		t.Helper()
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.put(&mvccpb.KeyValue{Key: []byte(r.Key()), Value: data, ModRevision: revision}); err != nil {
			t.Fatal(err)
		}
	}
	n1 := cluster.NodePorts{Node: "n1", BootID: "a", Ports: []cluster.EthernetPort{{Name: "eth0", Master: "bond0"}, {Name: "eth1"}}}
	put(cluster.NodePorts{Node: "n2", BootID: "before"}, 5)
	put(n1, 6)
	got := b.next.PortsOf("n1")
	if got == nil || got.Revision != 6 || got.Port("eth1") == nil || len(got.On("bond0")) != 1 || len(got.On("eth1")) != 1 || got.Port("eth2") != nil {
		t.Errorf("got %+v", got)
	}
	if got := b.next.PortsOf("n2"); got != nil {
		t.Errorf("got %+v of another boot", got)
	}
	if !touched(n1.Key()) {
		t.Error("a record of ports does not change the State")
	}
	b.remove(n1.Key())
	if got := b.next.PortsOf("n1"); got != nil || len(b.next.Ports) != 1 {
		t.Errorf("got %+v after it was removed", b.next.Ports)
	}
}
