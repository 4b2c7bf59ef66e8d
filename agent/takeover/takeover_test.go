package takeover

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

func TestProve(t *testing.T) {
	o := cluster.Owner{Node: "n1", BootID: "a"}
	lost := &cluster.Node{Name: "n1", BootID: "a", State: cluster.NodeLost}
	back := &cluster.Node{Name: "n1", BootID: "b", State: cluster.NodeJoining}
	bound := &cluster.Node{Name: "n1", BootID: "a", State: cluster.NodeLost, Watchdog: &cluster.Watchdog{Timeout: 10 * time.Second, Bound: 38 * time.Second}}
	unbound := &cluster.Node{Name: "n1", BootID: "a", State: cluster.NodeLost, Watchdog: &cluster.Watchdog{Timeout: 10 * time.Second}}
	for _, tt := range []struct {
		name         string
		node         *cluster.Node
		e            Evidence
		lease, power bool
	}{
		{name: "silence is no proof", node: lost},
		{name: "lease expired", node: lost, e: Evidence{LeaseExpired: true}, lease: true},
		{name: "rejoined", node: back, lease: true, power: true},
		{name: "heard in a new boot", node: lost, e: Evidence{NewBoot: true}, lease: true, power: true},
		{name: "read off", node: lost, e: Evidence{PoweredOff: "a"}, lease: true, power: true},
		{name: "another boot was read off", node: lost, e: Evidence{PoweredOff: "b"}},
		{name: "fencing has not succeeded", node: lost, e: Evidence{Fencing: "its controller lies"}},
		{name: "bound watchdog, not long enough", node: bound, e: Evidence{UnackedFor: 39 * time.Second}},
		{name: "bound watchdog, long enough", node: bound, e: Evidence{UnackedFor: 40 * time.Second}, lease: true, power: true},
		{name: "bound watchdog, was long enough", node: bound, e: Evidence{Reset: true}, lease: true, power: true},
		{name: "a watchdog that is not bound", node: unbound, e: Evidence{UnackedFor: time.Hour, Reset: true}},
		{name: "no watchdog", node: lost, e: Evidence{UnackedFor: time.Hour, Reset: true}},
		{name: "just removed"},
		{name: "removed, lease seen expired", e: Evidence{LeaseExpired: true}, lease: true},
		{name: "removed long ago", e: Evidence{GoneFor: GoneGrace}, lease: true, power: true},
		{name: "a record in the way of an old removal", node: lost, e: Evidence{GoneFor: time.Hour}},
	} {
		if got := Prove(cluster.SafetyLease, o, tt.node, tt.e); got.OK != tt.lease || got.Text == "" {
			t.Errorf("%s, lease: got %+v, want %v", tt.name, got, tt.lease)
		}
		if got := Prove(cluster.SafetyPower, o, tt.node, tt.e); got.OK != tt.power || got.Text == "" {
			t.Errorf("%s, power: got %+v, want %v", tt.name, got, tt.power)
		}
		if got := Prove("", o, tt.node, tt.e); got.OK != tt.power {
			t.Errorf("%s, no class named: got %+v, want %v as for power", tt.name, got, tt.power)
		}
	}
}

func TestSteps(t *testing.T) {
	fresh := New(&cluster.Instance{})
	if got := fresh.Step(); got != Cleared {
		t.Errorf("claim of a free slot: got %s, want %s", got, Cleared)
	}
	taken := &cluster.Instance{After: &cluster.Owner{Node: "n1"}}
	tk := New(taken)
	tk.Verified(true) // a verify write before the proof proves nothing
	if got := tk.Step(); got != Proving {
		t.Fatalf("got %s, want %s", got, Proving)
	}
	if !tk.MayRun(cluster.SafetyLease) || tk.MayRun(cluster.SafetyPower) {
		t.Error("while proving, lease may be made ready and power may not run")
	}
	tk.Proved(Proof{OK: false, Text: "no"})
	tk.Proved(Proof{OK: true, Text: "yes"})
	tk.Proved(Proof{OK: false, Text: "lost the view of it"})
	if got := tk.Step(); got != Verifying {
		t.Fatalf("proof must stay: got %s, want %s", got, Verifying)
	}
	refused := tk
	refused.Verified(false)
	refused.Verified(true)
	if got := refused.Step(); got != Refused || refused.MayRun(cluster.SafetyLease) {
		t.Errorf("got %s, want %s for ever and not running", got, Refused)
	}
	tk.Verified(true)
	if got := tk.Step(); got != Cleared || !tk.MayRun(cluster.SafetyPower) {
		t.Errorf("got %s, want %s", got, Cleared)
	}
}

func TestResume(t *testing.T) {
	after := &cluster.Owner{Node: "n1"}
	status := func(node string, s cluster.InstanceState) *cluster.Status {
		return &cluster.Status{Node: node, State: s}
	}
	for _, tt := range []struct {
		name   string
		safety cluster.Safety
		after  *cluster.Owner
		status *cluster.Status
		want   Step
	}{
		{"free slot", cluster.SafetyPower, nil, nil, Cleared},
		{"nothing reported", cluster.SafetyPower, after, nil, Proving},
		{"waits for proof", cluster.SafetyPower, after, status("n2", cluster.InstancePending), Proving},
		{"ran", cluster.SafetyPower, after, status("n2", cluster.InstanceRunning), Cleared},
		{"was complete", cluster.SafetyPower, after, status("n2", cluster.InstanceComplete), Cleared},
		{"ran elsewhere", cluster.SafetyPower, after, status("n1", cluster.InstanceRunning), Proving},
		{"no class named: as for power", "", after, status("n2", cluster.InstanceRunning), Cleared},
		{"a lease's instance runs before it is cleared", cluster.SafetyLease, after, status("n2", cluster.InstanceRunning), Proving},
	} {
		in := &cluster.Instance{Node: "n2", After: tt.after, Spec: cluster.Service{Safety: tt.safety}}
		tk := Resume(in, tt.status)
		if got := tk.Step(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestProofTellsTheTimeThatIsLeft(t *testing.T) {
	o := cluster.Owner{Node: "n1", BootID: "a"}
	node := &cluster.Node{Name: "n1", BootID: "a", State: cluster.NodeLost, Watchdog: &cluster.Watchdog{Timeout: 10 * time.Second, Bound: 38 * time.Second}}
	for _, tt := range []struct {
		e    Evidence
		want string
	}{
		{Evidence{UnackedFor: 28 * time.Second}, "its watchdog will have reset it in at most 15s"},
		{Evidence{UnackedFor: 39 * time.Second}, "its watchdog will have reset it in at most 5s"},
		{Evidence{UnackedFor: 28 * time.Second, Fencing: "its controller lies"}, "its controller lies; its watchdog will have reset it in at most 15s"},
	} {
		if got := Prove(cluster.SafetyPower, o, node, tt.e); got.OK || !strings.HasSuffix(got.Text, tt.want) {
			t.Errorf("%+v: got %+v, want %q", tt.e, got, tt.want)
		}
	}
}
