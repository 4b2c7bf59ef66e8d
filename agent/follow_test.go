package agent

import (
	"log/slog"
	"os"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

// A promise is given once, to one member, and only when asking again did not help.
func TestChoose(t *testing.T) {
	a := &Agent{opts: Options{RunDir: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	n1 := cluster.Pledge{ClusterID: "c", Node: "n1", BootID: "boot-1"}
	n3 := cluster.Pledge{ClusterID: "c", Node: "n3", BootID: "boot-3"}
	step := func(what string, alone []cluster.Pledge, want *cluster.Pledge) {
		t.Helper()
		given, err := a.promised()
		if err != nil {
			t.Fatal(err)
		}
		if err := a.choose(given, alone); err != nil {
			t.Fatal(err)
		}
		got, err := a.promised()
		if err != nil {
			t.Fatal(err)
		}
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: promised %+v, want %+v", what, got, want)
		}
	}
	step("the first answer", []cluster.Pledge{n3, n1}, nil)
	step("somebody was busy", nil, nil)
	step("the first answer again", []cluster.Pledge{n3, n1}, nil)
	step("the second", []cluster.Pledge{n3, n1}, &n1)
	step("only the other answers", []cluster.Pledge{n3}, &n1)
	again := n1
	again.BootID = "boot-1b"
	step("it restarted, and is alone again", []cluster.Pledge{again, n3}, &again)
	if err := a.released(); err != nil {
		t.Fatal(err)
	}
	step("released", nil, nil)
}

// What a boot has acted on counts only in the incarnation of the ledger that it was of, and for the next agent.
func TestSeen(t *testing.T) {
	a := &Agent{opts: Options{RunDir: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	want := func(incarnation uint64, revision int64) {
		t.Helper()
		if got, err := a.lastSeen(incarnation); err != nil || got != revision {
			t.Errorf("incarnation %d: got %d, %v, want %d", incarnation, got, err, revision)
		}
	}
	want(0, 0)
	for _, rev := range []int64{1_000_000_007, 9} {
		if err := a.noteSeen(&cluster.State{Revision: rev, Meta: cluster.Meta{Incarnation: 2}}); err != nil {
			t.Fatal(err)
		}
	}
	a = &Agent{opts: a.opts, log: a.log}
	want(2, 9)
	want(3, 0)
	if err := os.WriteFile(a.path(seenFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.lastSeen(2); err == nil {
		t.Error("got no error of a file that cannot be read")
	}
}

func TestPromiseIsOver(t *testing.T) {
	given := &cluster.Pledge{Node: "n1", BootID: "boot-2", Incarnation: 1}
	node := func(boot string) []cluster.Node { return []cluster.Node{{Name: "n1", BootID: boot}} }
	for _, tt := range []struct {
		name string
		st   cluster.State
		want bool
	}{
		{"as it was", cluster.State{Revision: 9, Nodes: node("boot-2"), Meta: cluster.Meta{Incarnation: 1}}, false},
		{"restored", cluster.State{Revision: 9, Nodes: node("boot-2"), Meta: cluster.Meta{Incarnation: 2}}, true},
		{"the member rebooted", cluster.State{Revision: 9, Nodes: node("boot-3"), Meta: cluster.Meta{Incarnation: 1}}, true},
		{"the member is not known", cluster.State{Revision: 9, Meta: cluster.Meta{Incarnation: 1}}, false},
		{"remembered", cluster.State{Nodes: node("boot-1"), Meta: cluster.Meta{Incarnation: 1}}, false},
	} {
		if got := over(given, &tt.st); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
