package model

import (
	"os"
	"testing"
)

// TestArbiter: with the rules kept there is one cluster, it loses nothing, one node with the disk can always go
// on, and two can come together again.
func TestArbiter(t *testing.T) {
	for _, c := range []struct {
		name string
		long string // why it is not always run
		pairRules
	}{
		{"one node can always go on", "", pairRules{incarnations: 2, commits: 1, other: true}},
		{"both come together again", "", pairRules{incarnations: 2, commits: 1}},
		{"the key says nothing of the incarnation", "", pairRules{incarnations: 2, commits: 1, other: true, sameKey: true}},
		{"messages say nothing of the incarnation", "", pairRules{incarnations: 2, commits: 1, deaf: true}},
		{"three more incarnations", "seconds", pairRules{incarnations: 3, commits: 1, other: true}},
		{"two commits", "all", pairRules{incarnations: 2, commits: 2}},
		{"two commits, messages say nothing of the incarnation", "all", pairRules{incarnations: 2, commits: 2, deaf: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long != "" && testing.Short() || c.long == "all" && os.Getenv("SKEIN_MODEL") != "all" {
				t.Skip("three million states take ten seconds and a gigabyte: SKEIN_MODEL=all")
			}
			got := Explore(newPairModel(c.pairRules))
			if got.Broken != "" || !got.Complete {
				t.Fatalf("got %v\n%+v", got, got.Last)
			}
			t.Log(got)
		})
	}
}

// TestBrokenArbitersHaveCounterexamples: each rule is needed.
func TestBrokenArbitersHaveCounterexamples(t *testing.T) {
	for _, c := range []struct {
		name string
		pairRules
	}{
		{"preempt without abort", pairRules{noAbort: true}},
		{"header and slots are read before the other is shut out", pairRules{readFirst: true}},
		{"who starts alone goes on from its own copy", pairRules{ownCopy: true}},
		{"the second copy is in memory only", pairRules{memory: true}},
		{"alone, a commit is acknowledged before it is written", pairRules{unguarded: true}},
		{"the survivor does not ask the disk", pairRules{noArbiter: true}},
		{"together again before the copy is written", pairRules{headerFirst: true}},
		{"commits go on while the header with both is written", pairRules{busy: true}},
		{"what was copied is not looked at", pairRules{anyCopy: true}},
		{"an offer is taken without a look at the header", pairRules{trusting: true}},
		{"a refused write is repeated under a new key", pairRules{stubborn: true}},
		{"who stands down unregisters", pairRules{unregister: true}},
		{"a disk that forgets its keys", pairRules{forgets: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.incarnations, c.commits = 3, 2
			m := newPairModel(c.pairRules)
			m.Goal, m.Limit = nil, 4_000_000
			got := Explore(m)
			if got.Broken != lost {
				t.Fatalf("got %v, want a counterexample", got)
			}
			t.Log(got)
		})
	}
}

// TestZombieMustFindOut: who is alone and was shut off must notice, though nobody asks it for anything.
func TestZombieMustFindOut(t *testing.T) {
	got := Explore(newPairModel(pairRules{incarnations: 2, commits: 1, other: true, mute: true}))
	if got.Broken != stuck {
		t.Fatalf("got %v, want %q", got, stuck)
	}
	t.Log(got)
}
