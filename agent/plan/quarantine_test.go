package plan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

func quarantine(n *cluster.Node) {
	n.Trouble = &cluster.Trouble{Ago: make([]time.Duration, 3), Term: time.Minute, Times: 1}
}

func TestQuarantineGetsNoWork(t *testing.T) {
	b := newBench(3)
	b.node("n1", quarantine)
	b.put(service("web", 4))
	d := b.step(t)
	want(t, b, "web", "1:n2, 3:n2, 2:n3, 4:n3")
	if why := d.Actions[0].Reason; !strings.Contains(why, "n1 is in quarantine for 1m0s more of calm, as it was lost 3 times within 10m0s") {
		t.Errorf("got %q, want n1's quarantine in it", why)
	}
	// What runs is left alone when another is put there, and when it ends.
	b.report("web", cluster.InstanceRunning)
	b.node("n1", func(n *cluster.Node) { n.Trouble = nil })
	b.node("n2", quarantine)
	if d := b.step(t); len(d.Actions) > 0 {
		t.Errorf("got %+v, want nothing moved", d.Actions)
	}
}

func TestCapacityBeatsQuarantine(t *testing.T) {
	b := newBench(2)
	b.node("n1", quarantine)
	b.node("n2", func(n *cluster.Node) { n.Memory = gib })
	b.put(service("db", 1, func(s *cluster.Service) { s.Reserve.Memory = 2 * gib }))
	d := b.step(t)
	want(t, b, "db", "1:n1")
	if len(d.Actions) != 1 || !strings.Contains(d.Actions[0].Reason, "n1 is in quarantine") || !strings.Contains(d.Actions[0].Reason, "no other node fits") {
		t.Errorf("got %+v, want that it goes there anyway, and why", d.Actions)
	}
	// Even that is no place for what does not fit there: the reason is what is really missing.
	b.put(service("big", 1, func(s *cluster.Service) { s.Reserve.Memory = 20 * gib }))
	p := b.step(t).Pending
	if len(p) != 1 || !strings.Contains(p[0].String(), "n1 has 2 GiB of memory free, 20 GiB are needed") {
		t.Errorf("got %v, want the memory that n1 lacks", p)
	}
}

func TestGlobalServicesRunInQuarantine(t *testing.T) {
	b := newBench(2)
	b.node("n1", quarantine)
	b.put(service("log", 0, func(s *cluster.Service) { s.Mode = cluster.ModeGlobal }))
	b.step(t)
	want(t, b, "log", "1:n1, 2:n2")
}

// A takeover is work like any other.
func TestTakeoverAvoidsQuarantine(t *testing.T) {
	b := newBench(3)
	b.put(service("web", 1))
	b.step(t)
	want(t, b, "web", "1:n1")
	b.report("web", cluster.InstanceRunning)
	b.node("n2", quarantine)
	b.node("n1", func(n *cluster.Node) { n.State = cluster.NodeLost })
	b.step(t)
	want(t, b, "web", "1:n3 after n1")
}
