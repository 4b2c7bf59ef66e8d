package agent

import (
	"log/slog"
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
