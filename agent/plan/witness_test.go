package plan_test

import (
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/plan"
)

func witness(n *cluster.Node) { n.Witness = true }

// TestWitnessRunsNothing: neither a replica nor a global service, nor what another node leaves.
func TestWitnessRunsNothing(t *testing.T) {
	b := newBench(3)
	b.node("n3", witness)
	b.put(service("log", 0, func(s *cluster.Service) { s.Mode = cluster.ModeGlobal }))
	b.put(service("web", 3, floating("10.77.9.10")))
	d := b.step(t)
	want(t, b, "log", "1:n1, 2:n2")
	want(t, b, "web", "1:n1, 3:n1, 2:n2")
	for _, a := range d.Actions {
		if strings.Contains(a.Reason, "n3") {
			t.Errorf("that a witness runs nothing goes without saying: got %q", a.Reason)
		}
	}
	b.report("", cluster.InstanceRunning)
	if h := plan.Heirs(b.State(), "n3"); len(h) > 0 {
		t.Errorf("got %+v, want a witness that is nobody's heir", h)
	}
	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeLost })
	b.step(t)
	want(t, b, "web", "1:n2 after n1, 2:n2, 3:n2 after n1")
	b.node("n2", func(n *cluster.Node) { n.State = cluster.NodeDrained })
	b.put(service("more", 1))
	d = b.step(t)
	if got := d.Pending[len(d.Pending)-1].String(); !strings.Contains(got, "n3 is a witness: it runs no services") {
		t.Errorf("got %q, want a reason for n3", got)
	}
}

// TestNodeComesBackAsWitness: what it had goes elsewhere, and its share of a global service ends.
func TestNodeComesBackAsWitness(t *testing.T) {
	b := newBench(2)
	b.put(service("log", 0, func(s *cluster.Service) { s.Mode = cluster.ModeGlobal }))
	b.put(service("web", 2))
	b.step(t)
	b.report("", cluster.InstanceRunning)
	b.node("n2", func(n *cluster.Node) { n.BootID, n.Witness = "n2-2", true })
	b.step(t)
	want(t, b, "log", "1:n1")
	want(t, b, "web", "1:n1, 2:n1")
}
