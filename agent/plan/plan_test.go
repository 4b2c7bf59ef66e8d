package plan_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/sim"
	"github.com/skein-os/skein/agent/takeover"
)

const gib = 1 << 30

// bench is a ledger with shortcuts for the tests.
type bench struct {
	*sim.Ledger
	snap plan.Snapshot
}

func newBench(nodes int) *bench {
	b := &bench{Ledger: sim.NewLedger(cluster.Meta{Name: "test", Incarnation: 1})}
	for n := 1; n <= nodes; n++ {
		b.put(cluster.Node{Name: fmt.Sprintf("n%d", n), Number: uint8(n), BootID: fmt.Sprintf("n%d-1", n), State: cluster.NodeOnline, CPUs: 2, Memory: 4 * gib})
	}
	return b
}

func (b *bench) put(v any) {
	var key string
	switch v := v.(type) {
	case cluster.Node:
		key = v.Key()
	case cluster.Service:
		key = v.Key()
	case cluster.Status:
		key = v.Key()
	}
	b.Commit(cluster.Txn{Puts: []cluster.Put{{Key: key, Value: v}}})
}

func (b *bench) node(name string, change func(*cluster.Node)) {
	n := *b.State().Node(name)
	change(&n)
	b.put(n)
}

func (b *bench) plan() plan.Decision {
	b.snap.State = b.State()
	return plan.Plan(b.snap)
}

// step plans and commits.
func (b *bench) step(t interface{ Fatalf(string, ...any) }) plan.Decision {
	d := b.plan()
	for _, txn := range plan.Batch(d.Actions, 20) {
		if !b.Commit(txn) {
			t.Fatalf("refused: %+v", txn)
		}
		if err := b.Check(); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return d
}

// report sets the state of all instances of a service.
func (b *bench) report(service string, s cluster.InstanceState) {
	st := b.State()
	for i := range st.Instances {
		if in := &st.Instances[i]; in.Service == service || service == "" {
			b.put(cluster.Status{ID: in.ID, Node: in.Node, State: s, Message: "said so"})
		}
	}
}

func (b *bench) where(service string) string {
	var out []string
	st := b.State()
	for i := range st.Instances {
		if in := &st.Instances[i]; in.Service == service {
			s := fmt.Sprintf("%d:%s", in.Slot, in.Node)
			if in.After != nil {
				s += " after " + in.After.Node
			}
			if in.Stop {
				s += " stop"
			}
			out = append(out, s)
		}
	}
	return strings.Join(out, ", ")
}

func service(name string, replicas int, change ...func(*cluster.Service)) cluster.Service {
	s := cluster.Service{Stack: "demo", Name: name, Mode: cluster.ModeReplicated, Replicas: replicas, Safety: cluster.SafetyLease, Hash: "1"}
	for _, f := range change {
		f(&s)
	}
	return s
}

func floating(addr string) func(*cluster.Service) {
	return func(s *cluster.Service) { s.Floating = []netip.Addr{netip.MustParseAddr(addr)} }
}

func want(t *testing.T, b *bench, service, where string) {
	t.Helper()
	if got := b.where(service); got != where {
		t.Errorf("%s: got %q, want %q", service, got, where)
	}
}

func TestSpreadAndReasons(t *testing.T) {
	b := newBench(3)
	b.node("n2", func(n *cluster.Node) { n.Memory = 8 * gib })
	b.put(service("web", 4))
	d := b.step(t)
	want(t, b, "web", "2:n1, 1:n2, 4:n2, 3:n3") // instances are listed by node
	if len(d.Actions) != 4 || !strings.Contains(d.Actions[0].Reason, "of 3 nodes that fit, n2 runs none") {
		t.Errorf("got %+v", d.Actions)
	}
}

func TestPendingNodeByNode(t *testing.T) {
	b := newBench(4)
	b.node("n2", func(n *cluster.Node) { n.State = cluster.NodeDrained })
	b.node("n3", func(n *cluster.Node) { n.Labels = map[string]string{"disk": "ssd"}; n.Memory = 2254857830 })
	b.node("n4", func(n *cluster.Node) { n.Labels = map[string]string{"disk": "ssd"} })
	b.snap.Silent = map[string]string{"n4": "is not heard"}
	b.put(service("db", 1, func(s *cluster.Service) {
		s.Constraints, s.Reserve.Memory = []string{"node.labels.disk == ssd"}, 4*gib
	}))
	d := b.step(t)
	if len(d.Pending) != 1 {
		t.Fatalf("got %+v", d)
	}
	got := d.Pending[0].String()
	wantText := `demo/db.1: demo/db should have it, and no node fits; n1 does not match "node.labels.disk == ssd"; n2 is drained; n3 has 2.1 GiB of memory free, 4 GiB are needed; n4 is not heard`
	if got != wantText {
		t.Errorf("got  %s\nwant %s", got, wantText)
	}
}

func TestTakeover(t *testing.T) {
	b := newBench(3)
	b.put(service("web", 1, floating("10.77.9.10")))
	b.step(t)
	b.report("web", cluster.InstanceRunning)
	want(t, b, "web", "1:n1")

	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeLost })
	b.step(t)
	want(t, b, "web", "1:n2 after n1")

	// n2 goes before there is proof for n1: a claim of n3 could name only one of them.
	b.node("n2", func(n *cluster.Node) { n.State = cluster.NodeLost })
	if d := b.step(t); len(d.Pending) != 1 || !strings.Contains(d.Pending[0].Text, "lease of n1") {
		t.Errorf("got %+v", d.Pending)
	}
	want(t, b, "web", "1:n2 after n1")
	b.snap.Evidence = map[plan.Incarnation]takeover.Evidence{{Node: "n1", BootID: "n1-1"}: {LeaseExpired: true}}
	b.step(t)
	want(t, b, "web", "1:n3 after n2")

	// What the service was removed for is not forgotten while its lost owner may answer.
	b.report("web", cluster.InstanceRunning)
	b.node("n3", func(n *cluster.Node) { n.State = cluster.NodeLost })
	b.Commit(cluster.Txn{Deletes: []string{cluster.KeyServices + "demo/web"}})
	b.node("n1", func(n *cluster.Node) { n.State, n.BootID = cluster.NodeOnline, "n1-2" })
	b.put(service("new", 1, floating("10.77.9.10")))
	b.step(t)
	want(t, b, "new", "")
	b.node("n2", func(n *cluster.Node) { n.State, n.BootID = cluster.NodeOnline, "n2-2" })
	b.node("n3", func(n *cluster.Node) { n.State, n.BootID = cluster.NodeOnline, "n3-2" })
	b.step(t)
	b.step(t)
	want(t, b, "web", "")
	want(t, b, "new", "1:n1")
}

func TestDrainOneAtATime(t *testing.T) {
	b := newBench(2)
	for _, s := range []string{"a", "b"} {
		b.put(service(s, 1, func(s *cluster.Service) { s.Constraints = []string{"node.hostname != n2"} }))
	}
	b.step(t)
	b.report("", cluster.InstanceRunning)
	for _, s := range []string{"a", "b"} {
		b.put(service(s, 1)) // the same hash: a constraint that went does not replace anything
	}
	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeDraining })
	b.step(t)
	b.step(t)
	want(t, b, "a", "1:n1 stop")
	want(t, b, "b", "1:n1")
	b.report("a", cluster.InstanceStopped)
	b.step(t)
	want(t, b, "a", "1:n2")
	want(t, b, "b", "1:n1 stop")
	b.report("b", cluster.InstanceStopped)
	b.step(t)
	b.step(t)
	want(t, b, "b", "1:n2")
	if got := b.State().Node("n1").State; got != cluster.NodeDrained {
		t.Errorf("n1: got %s, want drained", got)
	}
}

func TestDrainKeepsWhatHasNoPlace(t *testing.T) {
	b := newBench(2)
	b.put(service("web", 1, func(s *cluster.Service) { s.Constraints = []string{"node.hostname == n1"} }))
	b.step(t)
	b.report("web", cluster.InstanceRunning)
	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeDraining })
	d := b.step(t)
	want(t, b, "web", "1:n1")
	if len(d.Pending) != 1 || !strings.Contains(d.Pending[0].String(), "stays there") {
		t.Errorf("got %+v", d.Pending)
	}
}

func TestUpdateOneSlotAtATime(t *testing.T) {
	b := newBench(2)
	b.put(service("web", 2))
	b.step(t)
	b.report("web", cluster.InstanceRunning)
	b.put(service("web", 2, func(s *cluster.Service) { s.Hash = "2" }))
	b.step(t)
	want(t, b, "web", "1:n1 stop, 2:n2")
	st := b.State()
	b.put(cluster.Status{ID: st.Instances[0].ID, Node: "n1", State: cluster.InstanceStopped})
	b.step(t)
	want(t, b, "web", "1:n1, 2:n2") // stays on its node; the other waits for it
	if d := b.plan(); len(d.Actions) != 0 || len(d.Pending) != 1 {
		t.Errorf("got %+v", d)
	}
	b.report("web", cluster.InstanceRunning)
	b.step(t)
	want(t, b, "web", "1:n1, 2:n2 stop")
}

func TestScaleDownAndRemove(t *testing.T) {
	b := newBench(2)
	b.put(service("web", 3))
	b.step(t)
	b.report("web", cluster.InstanceRunning)
	b.put(service("web", 1))
	b.step(t)
	want(t, b, "web", "1:n1, 3:n1 stop, 2:n2 stop")
	b.Commit(cluster.Txn{Deletes: []string{cluster.KeyServices + "demo/web"}})
	b.step(t)
	b.report("web", cluster.InstanceStopped)
	b.step(t)
	want(t, b, "web", "")
}

func TestFailureBacksOffAndMoves(t *testing.T) {
	b := newBench(2)
	b.put(service("web", 1))
	b.step(t)
	b.report("web", cluster.InstanceFailed)
	b.snap.Now, b.snap.Ended = 100*time.Second, map[string]time.Duration{b.State().Instances[0].ID: 100 * time.Second}
	d := b.step(t)
	want(t, b, "web", "1:n1")
	if d.Wake != 101*time.Second {
		t.Errorf("wake: got %v, want 101s", d.Wake)
	}
	b.snap.Now = d.Wake
	b.step(t)
	want(t, b, "web", "1:n2")
	if in := b.State().Instances[0]; in.Failures != 1 || in.FailedOn != "n1" {
		t.Errorf("got %d failures, on %q", in.Failures, in.FailedOn)
	}

	// With nowhere else to go, the same node is taken again, but not at once.
	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeDrained })
	b.report("web", cluster.InstanceFailed)
	b.snap.Now, b.snap.Ended = 195*time.Second, map[string]time.Duration{b.State().Instances[0].ID: 190 * time.Second}
	id := b.State().Instances[0].ID
	d = b.step(t)
	if d.Wake != 200*time.Second || b.State().Instances[0].ID != id {
		t.Errorf("got wake %v, %+v", d.Wake, d)
	}
	b.snap.Now = d.Wake
	b.step(t)
	if in := b.State().Instances[0]; in.ID == id || in.Node != "n2" {
		t.Errorf("got %+v", in)
	}
}

func TestJobsEnd(t *testing.T) {
	b := newBench(2)
	b.put(service("job", 1, func(s *cluster.Service) { s.Mode = cluster.ModeJob }))
	b.step(t)
	b.report("job", cluster.InstanceComplete)
	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeLost })
	if d := b.step(t); len(d.Actions)+len(d.Pending) != 0 {
		t.Errorf("a result stays: got %+v", d)
	}
}

func TestGlobal(t *testing.T) {
	b := newBench(3)
	b.node("n2", func(n *cluster.Node) { n.Labels = map[string]string{"role": "edge"} })
	b.put(service("log", 0, func(s *cluster.Service) {
		s.Mode, s.Constraints = cluster.ModeGlobal, []string{"node.labels.role != edge"}
	}))
	b.step(t)
	want(t, b, "log", "1:n1, 3:n3")
	b.report("log", cluster.InstanceRunning)
	b.node("n3", func(n *cluster.Node) { n.State = cluster.NodeLost })
	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeDraining })
	b.step(t)
	want(t, b, "log", "1:n1 stop, 3:n3")
	b.node("n3", func(n *cluster.Node) { n.State, n.BootID = cluster.NodeOnline, "n3-2" })
	b.step(t)
	want(t, b, "log", "1:n1 stop, 3:n3")
	if st := b.State(); st.Instances[1].BootID != "n3-2" || st.Instances[1].After != nil {
		t.Errorf("got %+v", st.Instances[1])
	}
}

func TestPortsOfOneNode(t *testing.T) {
	b := newBench(2)
	published := func(s *cluster.Service) {
		s.Ports = []cluster.Port{{Target: 80, Published: 8080, Protocol: "tcp"}}
	}
	b.put(service("web", 3, published))
	b.step(t)
	want(t, b, "web", "1:n1, 3:n1, 2:n2") // the nodes' port leads to all of them
	b.put(service("xeb", 1, published))
	d := b.step(t)
	if len(d.Pending) != 1 || !strings.Contains(d.Pending[0].String(), "n1 has port 8080/tcp taken by demo/web") {
		t.Errorf("got %+v", d.Pending)
	}
}

func TestConstraints(t *testing.T) {
	for in, ok := range map[string]bool{
		"node.hostname == n1": true, "node.labels.disk!=ssd": true, "node.labels.a==": true,
		"node.role == manager": false, "node.labels. == x": false, "n1": false, "": false, "== n1": false,
	} {
		if err := plan.CheckConstraint(in); (err == nil) != ok {
			t.Errorf("%q: got %v, want ok %v", in, err, ok)
		}
	}
}

func FuzzConstraint(f *testing.F) {
	f.Add("node.labels.disk == ssd")
	f.Add("node.hostname!=n1")
	f.Fuzz(func(t *testing.T, c string) {
		if plan.CheckConstraint(c) == nil && !strings.Contains(c, "node.") {
			t.Errorf("%q was understood", c)
		}
	})
}

// TestEndedHoldsNoAddress: an instance that failed and whose node was then lost does not get back the address
// that another service was given meanwhile.
func TestEndedHoldsNoAddress(t *testing.T) {
	b := newBench(2)
	floating := func(s *cluster.Service) { s.Floating = []netip.Addr{netip.MustParseAddr("10.77.9.10")} }
	b.put(service("b", 1, floating))
	b.step(t)
	b.put(service("a", 1, floating))
	b.step(t)
	first := b.State().Instances[0]
	if len(b.State().Instances) != 1 {
		t.Fatalf("got %d instances, want that of b alone: the address is taken", len(b.State().Instances))
	}
	b.put(cluster.Status{ID: first.ID, Node: first.Node, State: cluster.InstanceFailed})
	b.step(t)
	b.node(first.Node, func(n *cluster.Node) { n.State = cluster.NodeLost })
	for range 5 {
		b.step(t)
	}
	holders := 0
	for _, in := range b.State().Instances {
		if st := b.State().Status(in.ID); st == nil || !st.State.Ended() {
			holders++
		}
	}
	if holders != 1 {
		t.Errorf("got %d claims of one address, want 1: %+v", holders, b.State().Instances)
	}
}

// TestAlways plays random histories and looks at each step for what must always be so.
func TestAlways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench(rapid.IntRange(1, 5).Draw(t, "nodes"))
		nodes := len(b.State().Nodes)
		boots := nodes
		evidence := map[plan.Incarnation]takeover.Evidence{}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			b.snap.Now += time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second
			n := fmt.Sprintf("n%d", rapid.IntRange(1, nodes).Draw(t, "node"))
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "service")
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1:
				s := service(name, rapid.IntRange(0, 4).Draw(t, "replicas"), func(s *cluster.Service) {
					s.Hash = rapid.SampledFrom([]string{"1", "2"}).Draw(t, "hash")
					s.Mode = rapid.SampledFrom([]cluster.Mode{cluster.ModeReplicated, cluster.ModeGlobal, cluster.ModeJob}).Draw(t, "mode")
					s.Safety = rapid.SampledFrom([]cluster.Safety{cluster.SafetyLease, cluster.SafetyPower}).Draw(t, "safety")
					s.Reserve.Memory = int64(rapid.IntRange(0, 3).Draw(t, "GiB")) * gib
					s.Reserve.CPUs = float64(rapid.IntRange(0, 2).Draw(t, "CPUs"))
					if rapid.Bool().Draw(t, "floats") {
						s.Floating = []netip.Addr{netip.MustParseAddr("10.77.9.10")}
					}
				})
				b.put(s)
			case 2:
				b.Commit(cluster.Txn{Deletes: []string{cluster.KeyServices + "demo/" + name}})
			case 3:
				b.node(n, func(n *cluster.Node) { n.State = cluster.NodeLost })
			case 4:
				node := b.State().Node(n)
				if node.State == cluster.NodeLost {
					evidence[plan.Incarnation{Node: n, BootID: node.BootID}] = takeover.Evidence{LeaseExpired: true}
				}
			case 5:
				boots++
				b.node(n, func(n *cluster.Node) {
					n.State, n.BootID = cluster.NodeOnline, fmt.Sprint(n.Name, "-", boots)
				})
			case 6:
				b.node(n, func(n *cluster.Node) {
					if n.State == cluster.NodeOnline {
						n.State = cluster.NodeDraining
					}
				})
			case 7:
				st := b.State()
				for i := range st.Instances {
					in := &st.Instances[i]
					if old := st.Status(in.ID); old != nil && old.State.Ended() || !rapid.Bool().Draw(t, "report") {
						continue
					}
					s := rapid.SampledFrom([]cluster.InstanceState{cluster.InstanceRunning, cluster.InstanceFailed, cluster.InstanceRestarting}).Draw(t, "state")
					if in.Stop {
						s = cluster.InstanceStopped
					}
					b.put(cluster.Status{ID: in.ID, Node: in.Node, State: s})
				}
			}
			b.snap.Evidence = evidence
			if a, c := b.plan(), b.plan(); !reflect.DeepEqual(a, c) {
				t.Fatalf("the same snapshot gave two plans:\n%+v\n%+v", a, c)
			}
			rounds := 0
			for ; ; rounds++ {
				before := b.State()
				d := b.step(t)
				if len(d.Actions) == 0 {
					break
				}
				if rounds == 4 {
					t.Fatalf("no rest after %d rounds: %+v", rounds, d.Actions)
				}
				checkStep(t, before, b.State(), evidence)
			}
		}
	})
}

// checkStep compares the ledger before and after a plan.
func checkStep(t *rapid.T, before, after *cluster.State, evidence map[plan.Incarnation]takeover.Evidence) {
	old := map[string]*cluster.Instance{}
	for i := range before.Instances {
		old[before.Instances[i].ID] = &before.Instances[i]
	}
	now := map[string]*cluster.Instance{}
	memory, cpus := map[string]int64{}, map[string]float64{}
	addrs := map[netip.Addr]string{}
	for i := range after.Instances {
		in := &after.Instances[i]
		now[in.SlotKey()] = in
		st := after.Status(in.ID)
		n := after.Node(in.Node)
		if old[in.ID] == nil && (n.State != cluster.NodeOnline || n.BootID != in.BootID) {
			t.Fatalf("%s was given to %s, which is %s in boot %s", in.ID, in.Node, n.State, n.BootID)
		}
		ended := st != nil && st.State.Ended()
		if n.BootID == in.BootID && !ended {
			memory[in.Node] += in.Spec.Reserve.Memory
			cpus[in.Node] += in.Spec.Reserve.CPUs
		}
		if plan.HoldsFloating(in) && !ended {
			for _, a := range in.Spec.Floating {
				if by := addrs[a]; by != "" {
					t.Fatalf("%v is held by %s and %s", a, by, in.ID)
				}
				addrs[a] = in.ID
			}
		}
	}
	for _, n := range after.Nodes {
		if memory[n.Name] > n.Memory || cpus[n.Name] > n.CPUs {
			t.Fatalf("%s has %d bytes and %g processors, %d and %g are reserved", n.Name, n.Memory, n.CPUs, memory[n.Name], cpus[n.Name])
		}
	}
	// No lost owner without proof is forgotten.
	for _, in := range old {
		var waits []cluster.Owner
		st := before.Status(in.ID)
		owner := cluster.Owner{Node: in.Node, BootID: in.BootID, Epoch: in.Epoch}
		if st == nil || !st.State.Ended() {
			waits = append(waits, owner)
		}
		if in.After != nil {
			waits = append(waits, *in.After)
		}
		next := now[in.SlotKey()]
		if next != nil && next.ID == in.ID {
			continue
		}
		for _, o := range waits {
			e := evidence[plan.Incarnation{Node: o.Node, BootID: o.BootID}]
			if takeover.Prove(in.Spec.Safety, o, before.Node(o.Node), e).OK {
				continue
			}
			if next == nil || next.After == nil || *next.After != o {
				t.Fatalf("claim %s went, and its owner %+v was forgotten: %+v", in.ID, o, next)
			}
		}
	}
}

// TestHeirs: what each node has ready is what it gets when another is lost.
func TestHeirs(t *testing.T) {
	b := newBench(4)
	for i, replicas := range []int{1, 2, 3, 1} {
		b.put(cluster.Service{Stack: "demo", Name: fmt.Sprintf("s%d", i), Mode: cluster.ModeReplicated, Replicas: replicas, Safety: cluster.SafetyLease,
			Reserve: cluster.Resources{Memory: int64(i) * gib / 8}, Hash: fmt.Sprint(i)})
	}
	for range 10 {
		b.step(t)
	}
	heirsAreReady(t, b.State())
	// Also if one of them leaves quarantine at the last moment.
	quarantined := *b.State()
	quarantined.Nodes = slices.Clone(quarantined.Nodes)
	quarantined.Nodes[1].Trouble = (*cluster.Trouble)(nil).Lost().Lost().Lost()
	heirsAreReady(t, &quarantined, b.State())
}

// heirsAreReady loses each node in turn, and wants everything that then moves to be among the heirs of the state
// before; of the state after it if there is one.
func heirsAreReady(t *testing.T, before *cluster.State, later ...*cluster.State) {
	t.Helper()
	slot := func(in *cluster.Instance) string { return fmt.Sprintf("%s.%d on %s", in.Service, in.Slot, in.Node) }
	ready := map[string]bool{}
	for _, n := range before.Nodes {
		for _, in := range plan.Heirs(before, n.Name) {
			if in.ID != "" || in.Spec.Hash == "" {
				t.Errorf("got heir %+v, want no ID and the specification", in)
			}
			if ready[slot(&in)] {
				t.Errorf("%s is there twice", slot(&in))
			}
			ready[slot(&in)] = true
		}
	}
	if len(later) > 0 {
		before = later[0]
	}
	moved := 0
	for i, lost := range before.Nodes {
		after := *before
		after.Nodes = slices.Clone(before.Nodes)
		after.Nodes[i].State = cluster.NodeLost
		snap := plan.Snapshot{State: &after, Now: time.Hour, Silent: map[string]string{lost.Name: "is not heard"}}
		for _, a := range plan.Plan(snap).Actions {
			for _, put := range a.Txn.Puts {
				if in, ok := put.Value.(cluster.Instance); ok && a.Kind == plan.Takeover {
					moved++
					if !ready[slot(&in)] {
						t.Errorf("%s is lost: %s was not ready", lost.Name, slot(&in))
					}
				}
			}
		}
	}
	if moved != 7 {
		t.Errorf("got %d takeovers, want one for each of 7 instances", moved)
	}
}
