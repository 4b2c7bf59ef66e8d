package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

const powerClass = `services:
  db:
    image: demo/web:1
    read_only: true
    tmpfs: [/tmp]
    ports: ["80:80"]
    x-skein: {addresses: [10.77.9.20], safety: power}
`

// TestPowerClassMovesOnProof: a service that no guard confines moves when the power controller of its lost
// machine reads off, waits and says why while the controller lies, and moves on an operator's word.
func TestPowerClassMovesOnProof(t *testing.T) {
	l := newLab(t)
	l.run("lab", "up", "--image", os.Getenv("SKEIN_IMAGE_DIR"))
	l.run("image", "load", filepath.Join(os.Getenv("SKEIN_DEMO_DIR"), "web.tar"))
	file := filepath.Join(l.dir, "db.yaml")
	if err := os.WriteFile(file, []byte(powerClass), 0o600); err != nil {
		t.Fatal(err)
	}
	l.run("deploy", "-f", file, "shop")
	st := l.await("the service runs", func(st api.Status) bool { return st.Healthy && l.owner(st, "db") != "" })
	first := l.owner(st, "db")
	boot := nodeOf(st, first).BootID

	var tests []api.BMCTest
	if err := json.Unmarshal([]byte(l.run("node", "bmc", "test", first, "-o", "json")), &tests); err != nil || len(tests) != 2 {
		t.Fatalf("got %+v, %v, want two ways to the controller", tests, err)
	}
	for _, r := range tests {
		if r.Power != "on" || r.Error != "" {
			t.Errorf("the controller of a running machine: %+v", r)
		}
	}

	// It stands still, and could go on at any time: until its power is off.
	probed := l.probe("http://10.77.9.20/", 20*time.Second)
	l.run("lab", "freeze", first)
	l.await("db elsewhere", func(st api.Status) bool { o := l.owner(st, "db"); return o != "" && o != first })
	if f := l.fence(first); f.State != cluster.FenceOff || f.Level != cluster.FencePower || !f.Cut || f.BootID != boot {
		t.Errorf("the record of fencing %s: %+v", first, f)
	}
	r := probed()
	t.Logf("%s stood still, was switched off, and its service ran elsewhere: longest gap %.0f ms", first, r.LongestGapMS)
	st = l.await(first+" is switched on again and joins", func(st api.Status) bool {
		n := nodeOf(st, first)
		return st.Healthy && n != nil && n.BootID != boot && n.Voter
	})

	// A controller that lies.
	second := l.owner(st, "db")
	l.run("lab", "bmc", second, "lie")
	l.run("lab", "power", "off", second)
	l.await(second+" is lost, and it is said why db waits", func(st api.Status) bool {
		return nodeOf(st, second).State == cluster.NodeLost && strings.Contains(l.fence(second).Text, "lies")
	})
	st, err := l.status()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range st.Services {
		for _, in := range s.Instances {
			if in.Node != second && in.State == cluster.InstanceRunning {
				t.Errorf("%s runs on %s without proof that %s is off", in.ID, in.Node, second)
			}
			if in.Node != second && !strings.Contains(in.Message, "lies") {
				t.Errorf("%s does not say what it waits for: %q", in.ID, in.Message)
			}
		}
	}
	l.run("fence", "confirm", second, "--yes")
	l.await("db elsewhere, by an operator's word", func(st api.Status) bool { o := l.owner(st, "db"); return o != "" && o != second })
	events := l.run("events")
	for _, want := range []string{"is off (L2)", "is switched on again", "lies: it took the order", "by the word of operator lab (L4)"} {
		if !strings.Contains(events, want) {
			t.Errorf("events do not mention %q:\n%s", want, events)
		}
	}
	t.Logf("events:\n%s", events)
	l.checkWire("db", "10.77.9.20")
}

// fence is the newest record of fencing a node.
func (l *labTest) fence(node string) cluster.Fence {
	l.t.Helper()
	var list []api.FenceStatus
	if err := json.Unmarshal([]byte(l.run("fence", "ls", "-o", "json")), &list); err != nil {
		l.t.Fatal(err)
	}
	for _, f := range list {
		if f.Node == node && f.Last != nil {
			return *f.Last
		}
	}
	return cluster.Fence{}
}
