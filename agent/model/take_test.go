package model

import (
	"fmt"
	"testing"

	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// TestTakeIsTheModel: at every step of the model in which a node takes the disk, the type that takes real ones is
// asked what it would do, and has to say the same.
func TestTakeIsTheModel(t *testing.T) {
	own, other := takeover.Key{Node: 1, Epoch: 5}, takeover.Key{Node: 2, Epoch: 4}
	// at is a Take that has come as far as a node in a phase.
	at := func(p phase) clusterdisk.Take {
		tk := clusterdisk.ResumeTake(own)
		if p == pushing {
			tk.Done(true, []takeover.Key{own, other})
			return tk
		}
		for _, reached := range []phase{keyed, alone, copying, heading, solo} {
			if reached == p {
				return tk
			}
			tk.Done(true, []takeover.Key{own})
		}
		panic("a phase in which nobody takes the disk")
	}
	ops := map[phase]clusterdisk.TakeOp{
		keyed: clusterdisk.TakeKeys, pushing: clusterdisk.TakePreempt, alone: clusterdisk.TakeRead,
		copying: clusterdisk.TakeCopy, heading: clusterdisk.TakeHeader, solo: clusterdisk.TakeDone, idle: clusterdisk.TakeLost,
	}
	for p, want := range ops {
		if p == idle {
			continue
		}
		tk := at(p)
		if op, victim := tk.Next(); op != want || (victim == other) != (p == pushing) {
			t.Fatalf("in phase %d it would %s (%v), want %s", p, op, victim, want)
		}
	}
	first := clusterdisk.NewTake(own)
	first.Done(true, nil)
	if op, _ := first.Next(); op != clusterdisk.TakeKeys {
		t.Errorf("after it has registered it would %s", op)
	}

	seen := map[string]int{}
	m := newPairModel(pairRules{incarnations: 2, commits: 1, other: true})
	next := m.Next
	m.Next = func(s twoNodes, step func(pairStep, twoNodes, bool)) {
		next(s, func(what pairStep, after twoNodes, luck bool) {
			step(what, after, luck)
			x := what.node
			a, b := s.node[x], after.node[x]
			if a.phase == b.phase && a.phase != solo || b.phase == off || ops[a.phase] == "" || a.phase == idle {
				return
			}
			if a.phase == solo && b.phase != idle {
				return // it commits, or offers its copy
			}
			tk := at(a.phase)
			var keys []takeover.Key
			if s.disk.keys[x] != 0 {
				keys = append(keys, own)
			}
			if s.disk.keys[1-x] != 0 {
				keys = append(keys, other)
			}
			// A write was refused, or would be.
			ok := a.write != aborted && (a.phase != solo || s.disk.keys[x] != 0)
			if a.phase == keyed {
				ok = s.disk.keys[x] != 0
			}
			if a.phase == pushing {
				ok = s.disk.keys[x] != 0 && s.disk.keys[1-x] != 0
			}
			tk.Done(ok, keys)
			want := ops[b.phase]
			if a.phase == pushing {
				want = clusterdisk.TakeKeys // a node whose own key is gone finds out there
			}
			seen[fmt.Sprintf("%s, then %s", ops[a.phase], want)]++
			if got, _ := tk.Next(); got != want {
				t.Fatalf("%v: from phase %d to %d in the model; it would %s, want %s\n%+v", what, a.phase, b.phase, got, want, s)
			}
		})
	}
	got := Explore(m)
	if got.Broken != "" || !got.Complete {
		t.Fatalf("got %v", got)
	}
	for _, must := range []string{
		"read keys, then preempt and abort", "read keys, then read", "read keys, then stand down", "preempt and abort, then read keys",
		"read, then copy", "copy, then header", "copy, then stand down", "header, then alone", "header, then stand down", "alone, then stand down",
	} {
		if seen[must] == 0 {
			t.Errorf("never: %s", must)
		}
	}
	t.Log(got, seen)
}
