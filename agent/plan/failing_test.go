package plan_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// failing plays a service that fails wherever it runs, for d, and tells where and when it was tried.
func failing(t *testing.T, b *bench, d time.Duration, at func(time.Duration)) (nodes []string, when []time.Duration) {
	t.Helper()
	last := ""
	b.snap.Ended = map[string]time.Duration{}
	for end := b.snap.Now + d; b.snap.Now < end; b.snap.Now += 500 * time.Millisecond {
		at(b.snap.Now)
		b.step(t)
		for _, in := range b.State().Instances {
			if in.ID != last {
				last = in.ID
				nodes, when = append(nodes, in.Node), append(when, b.snap.Now)
				b.report("web", cluster.InstanceFailed)
				b.snap.Ended[in.ID] = b.snap.Now
			}
		}
	}
	return nodes, when
}

// TestFailsEverywhere is fault 53: every node is tried once, and then there is no going round.
func TestFailsEverywhere(t *testing.T) {
	b := newBench(3)
	b.put(service("web", 1))
	nodes, when := failing(t, b, time.Hour, func(time.Duration) {})
	if first := slices.Sorted(slices.Values(nodes[:3])); !slices.Equal(first, []string{"n1", "n2", "n3"}) || when[2] > 5*time.Second {
		t.Errorf("got %v at %v first, want every node within seconds", nodes[:3], when[:3])
	}
	if len(nodes) > 20 {
		t.Errorf("it was tried %d times in an hour: %v", len(nodes), when)
	}
	for i := 4; i < len(when)-1; i++ {
		if gap, next := when[i]-when[i-1], when[i+1]-when[i]; next < gap {
			t.Errorf("tried %v after it failed, and then after %v: want growing distances", gap, next)
		}
	}
	b.snap.Now += time.Second
	p := b.plan().Pending
	if len(p) != 1 || !strings.Contains(p[0].String(), "failed on "+nodes[len(nodes)-1]+" (said so), and before that on") || !strings.Contains(p[0].String(), "n1 is where it failed") {
		t.Errorf("got %v, want the reason, node by node", p)
	}

	// A node that has not been tried is tried at once.
	b.put(cluster.Node{Name: "n9", Number: 9, BootID: "n9-1", State: cluster.NodeOnline, CPUs: 2, Memory: 4 * gib})
	b.step(t)
	want(t, b, "web", "1:n9")
	// And it stays where it runs.
	b.report("web", cluster.InstanceRunning)
	b.snap.Now += time.Hour
	if d := b.step(t); len(d.Actions) > 0 {
		t.Errorf("got %+v, want nothing moved", d.Actions)
	}
}

// TestSettledBeginsAnew: what ran well for long is tried as if it had never failed.
func TestSettledBeginsAnew(t *testing.T) {
	for _, settled := range []bool{false, true} {
		b := newBench(2)
		b.put(service("web", 1))
		failing(t, b, 10*time.Minute, func(time.Duration) {})
		in := b.State().Instances[0]
		b.put(cluster.Status{ID: in.ID, Node: in.Node, State: cluster.InstanceFailed, Settled: settled})
		b.snap.Ended[in.ID] = b.snap.Now
		b.snap.Now += 2 * time.Second
		b.step(t)
		next := b.State().Instances[0]
		if moved := next.Node != in.Node; moved != settled {
			t.Errorf("had run well %v: moved at once %v", settled, moved)
		}
		if settled && (next.Failures != 1 || !slices.Equal(next.Tried, []string{in.Node})) {
			t.Errorf("got %d failures on %v, want this one", next.Failures, next.Tried)
		}
	}
}

// TestFailureSurvivesTheNode: a node that is lost after an instance failed on it makes that no first failure.
func TestFailureSurvivesTheNode(t *testing.T) {
	b := newBench(2)
	b.put(service("web", 1))
	b.step(t)
	b.report("web", cluster.InstanceFailed)
	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeLost })
	b.step(t)
	if in := b.State().Instances[0]; in.Node != "n2" || in.Failures != 1 || in.FailedOn != "n1" {
		t.Errorf("got %+v, want it on n2, and that it failed on n1", in)
	}
}
