package main

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var three = Roles{Nodes: []string{"n1", "n2", "n3"}, Voters: []string{"n1", "n2", "n3"}, Coordinator: "n2",
	Owns: map[string][]string{"n1": {"10.77.9.21"}, "n3": {"10.77.9.22", "10.77.9.23"}}}

func TestDrawRepeatsAndComesAcrossEverything(t *testing.T) {
	seen, nodes := map[Kind]int{}, map[string]int{}
	for i := range 2000 {
		kind, faults := draw(rand.New(rand.NewPCG(1, uint64(i))), three)
		kind2, again := draw(rand.New(rand.NewPCG(1, uint64(i))), three)
		if kind != kind2 || !reflect.DeepEqual(faults, again) {
			t.Fatalf("step %d: got %v and then %v", i, faults, again)
		}
		seen[kind]++
		nodes[faults[0].Node]++
	}
	for _, k := range kinds {
		if want := 2000 * k.weight / 100; seen[k.kind] < want*7/10 || seen[k.kind] > want*14/10 {
			t.Errorf("%s came %d times, want about %d", k.kind, seen[k.kind], want)
		}
	}
	if nodes["n3"] < 900 || nodes["n1"] < 150 || nodes["n2"] < 300 {
		t.Errorf("nodes: got %v, want n3 (owner of most) above all, n2 (coordinator) more than n1", nodes)
	}
}

// However a step is drawn, a majority of the voters is left, and no machine has two faults at once.
func TestDrawLeavesAMajority(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := []string{"n1", "n2", "n3", "n4", "n5"}[:rapid.IntRange(3, 5).Draw(t, "nodes")]
		roles := Roles{Nodes: all, Voters: all[:rapid.IntRange(1, 3).Draw(t, "voters")], Coordinator: all[0], Owns: map[string][]string{}}
		_, faults := draw(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), roles)
		left, used := len(roles.Voters), map[string]bool{}
		for _, f := range faults {
			if f.Node == "" {
				return // nobody may be taken: the step is left out
			}
			if used[f.Node] {
				t.Fatalf("%s has two faults: %+v", f.Node, faults)
			}
			used[f.Node] = true
			if f.Kind.takesNode() && slices.Contains(roles.Voters, f.Node) {
				left--
			}
		}
		if 2*left <= len(roles.Voters) {
			t.Fatalf("%d of %d voters are left: %+v", left, len(roles.Voters), faults)
		}
	})
}

func TestFalseLosses(t *testing.T) {
	cut, link := Fault{Kind: PowerCut, Node: "n1"}, Fault{Kind: LinkDown, Node: "n2"}
	tests := []struct {
		name   string
		lost   []string
		faults []Fault
		want   []string
	}{
		{"nobody", nil, []Fault{cut}, nil},
		{"who had it coming", []string{"n1"}, []Fault{cut, link}, nil},
		{"a bystander", []string{"n1", "n3"}, []Fault{cut}, []string{"n3"}},
		{"one link is no loss", []string{"n1", "n2"}, []Fault{cut, link}, []string{"n2"}},
		{"lost again when it was back", []string{"n1", "n1"}, []Fault{cut}, []string{"n1"}},
		{"no fault at all", []string{"n1", "n1"}, nil, []string{"n1", "n1"}},
	}
	for _, tt := range tests {
		if got := falseLosses(tt.lost, tt.faults); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
