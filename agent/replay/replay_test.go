package replay

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/plan"
)

func decided() node.Decided {
	s := plan.Snapshot{State: &cluster.State{
		Revision: 42, Meta: cluster.Meta{Incarnation: 1},
		Nodes: []cluster.Node{
			{Name: "n1", Number: 1, BootID: "b1", State: cluster.NodeOnline, CPUs: 4, Memory: 4 << 30, Revision: 3},
			{Name: "n2", Number: 2, BootID: "b2", State: cluster.NodeOnline, CPUs: 4, Memory: 1 << 30, Revision: 4},
		},
		Services: []cluster.Service{{
			Stack: "demo", Name: "web", Mode: cluster.ModeReplicated, Replicas: 1, Safety: cluster.SafetyLease, Hash: "1",
			Env: map[string]string{"PASSWORD": "hunter2"}, Reserve: cluster.Resources{Memory: 2 << 30}, Revision: 40,
		}},
	}}
	return node.Decided{Coordinator: "n1", Wall: time.Unix(1, 0), Snapshot: s, Decision: plan.Plan(s)}
}

func TestReplay(t *testing.T) {
	r, err := New(decided(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Actions) != 1 || r.Actions[0].Node != "n1" || r.ID != "42.1" {
		t.Fatalf("got %+v", r)
	}
	if _, diff, err := Replay(r); err != nil || diff != nil {
		t.Fatalf("got %q, %v, want the same decision", diff, err)
	}
	in, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := json.Marshal(in); strings.Contains(string(data), "hunter2") {
		t.Error("the environment of a service is in the record")
	}
	c := Considered(r, "demo/web.1")
	if len(c) != 2 || !c[0].Chosen || c[1].Refused != "has 1 GiB of memory free, 2 GiB are needed" {
		t.Errorf("considered: got %+v", c)
	}
	r.Actions[0].Node, r.Actions[0].Reason = "n2", "it was another program"
	if _, diff, _ := Replay(r); len(diff) != 1 || !strings.Contains(diff[0], "another program") {
		t.Errorf("a changed decision: got %q", diff)
	}
	r.Actions = nil
	if _, diff, _ := Replay(r); len(diff) != 1 || !strings.HasPrefix(diff[0], "now in addition") {
		t.Errorf("a decision that did nothing then: got %q", diff)
	}
}

func TestCompare(t *testing.T) {
	ids := []string{"100.1", "9.2", "9.10", "9.1"}
	slices.SortFunc(ids, Compare)
	if want := []string{"9.1", "9.2", "9.10", "100.1"}; !slices.Equal(ids, want) {
		t.Errorf("got %v, want %v", ids, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for data, want := range map[string]string{
		`{"version":2,"id":"7.1"}`:       "has version 2",
		`[]`:                             "stored decision",
		strings.Repeat(" ", MaxRecord+1): "at most",
	} {
		if _, err := Decode([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: got %v, want %q", data, err, want)
		}
	}
	if _, _, err := Replay(Record{Version: 1, Kind: KindPlan}); err != ErrNoInput {
		t.Errorf("got %v, want %v", err, ErrNoInput)
	}
}

// Stored state is bytes that anybody may have written: it may be refused, it must not end the program.
func FuzzDecode(f *testing.F) {
	r, err := New(decided(), 1)
	if err != nil {
		f.Fatal(err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"kind":"loss","input":"q1YqLU4t"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			return
		}
		if _, _, err := Replay(r); err != nil {
			return
		}
		Considered(r, "demo/web.1")
	})
}

// FuzzInput does the same for what is inside of the compression.
func FuzzInput(f *testing.F) {
	data, err := json.Marshal(NewInput(decided().Snapshot))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var in Input
		if json.Unmarshal(data, &in) == nil {
			s := in.Snapshot()
			if in.valid() == nil {
				plan.Plan(s)
				node.Losses(s.Now, in.Self, s.State, in.Heard, in.JoinPatience)
			}
		}
	})
}
