package cluster

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestQuarantine(t *testing.T) {
	type step struct {
		do   func(*Trouble) *Trouble
		term time.Duration // after it
	}
	lost := func(term time.Duration) step { return step{(*Trouble).Lost, term} }
	calm := func(d, term time.Duration) step {
		return step{func(t *Trouble) *Trouble { return t.Pass(d, d) }, term}
	}
	away := func(d, term time.Duration) step {
		return step{func(t *Trouble) *Trouble { return t.Pass(d, 0) }, term}
	}
	release := step{(*Trouble).Released, 0}
	const m = time.Minute
	for name, steps := range map[string][]step{
		"two losses are none":           {lost(0), calm(m, 0), lost(0)},
		"three are":                     {lost(0), lost(0), lost(m)},
		"three within the window":       {lost(0), calm(5*m, 0), lost(0), calm(5*m, 0), lost(m)},
		"the first is out of it":        {lost(0), calm(5*m, 0), lost(0), calm(5*m+1, 0), lost(0), lost(m)},
		"it ends when it was calm":      {lost(0), lost(0), lost(m), calm(m-1, m), calm(1, 0)},
		"time that is not calm is none": {lost(0), lost(0), lost(m), away(20*m, m), calm(m, 0)},
		"lost in it: doubled": {lost(0), lost(0), lost(m), calm(m/2, m), lost(2 * m), calm(2*m-1, 2*m), lost(4 * m),
			lost(8 * m), lost(16 * m), lost(32 * m), lost(60 * m), lost(60 * m), calm(60*m, 0)},
		"lost soon after it: doubled":    {lost(0), lost(0), lost(m), calm(m, 0), lost(2 * m)},
		"lost long after it: needs more": {lost(0), lost(0), lost(m), calm(20*m, 0), lost(0), lost(0), lost(2 * m)},
		"forgotten":                      {lost(0), lost(0), lost(m), calm(m, 0), calm(60*m, 0), lost(0), lost(0), lost(m)},
		"released":                       {lost(0), lost(0), lost(m), release, lost(0), lost(0), lost(2 * m)},
		"released before it":             {lost(0), lost(0), release, lost(0), lost(0), lost(m)},
	} {
		t.Run(name, func(t *testing.T) {
			var tr *Trouble
			for i, s := range steps {
				tr = s.do(tr)
				got := time.Duration(0)
				if tr != nil {
					got = tr.Term
				}
				if got != s.term {
					t.Fatalf("after step %d: got a quarantine of %v, want %v (%+v)", i+1, got, s.term, tr)
				}
			}
		})
	}
}

func TestTroubleEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tr *Trouble
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			before := tr
			switch rapid.IntRange(0, 2).Draw(t, "do") {
			case 0:
				tr = tr.Lost()
				if before.Quarantined() && tr.Term < before.Term {
					t.Fatalf("lost in quarantine: got a term of %v after %v", tr.Term, before.Term)
				}
			case 1:
				d := time.Duration(rapid.Int64Range(0, int64(30*time.Minute)).Draw(t, "pass"))
				tr = tr.Pass(d, d)
			case 2:
				d := time.Duration(rapid.Int64Range(0, int64(30*time.Minute)).Draw(t, "away"))
				tr = tr.Pass(d, 0)
				if before.Quarantined() && !tr.Quarantined() {
					t.Fatalf("a quarantine ended without a moment of calm: %+v -> %+v", before, tr)
				}
			}
			if tr.Quarantined() && (tr.Left() <= 0 || tr.Left() > QuarantineMost || len(tr.Ago) > QuarantineLosses) {
				t.Fatalf("got %+v", tr)
			}
		}
		// Whatever it was, calm ends it, and then it is forgotten.
		tr = tr.Pass(QuarantineMost, QuarantineMost)
		if tr.Quarantined() {
			t.Fatalf("after %v of calm: %+v", QuarantineMost, tr)
		}
		if tr = tr.Pass(QuarantineForget, QuarantineForget); tr != nil {
			t.Fatalf("after %v more: still remembered: %+v", QuarantineForget, tr)
		}
	})
}

func TestReturns(t *testing.T) {
	for name, c := range map[string]struct {
		old  Node
		want int // losses remembered
	}{
		"lost before":       {Node{BootID: "a", State: NodeLost, Trouble: (*Trouble)(nil).Lost()}, 1},
		"not noticed":       {Node{BootID: "a", State: NodeOnline}, 1},
		"asked for":         {Node{BootID: "a", State: NodeOnline, Leaving: &Leave{"a", "operator"}}, 0},
		"of an earlier one": {Node{BootID: "a", State: NodeOnline, Leaving: &Leave{"z", "operator"}}, 1},
		"same boot":         {Node{BootID: "b", State: NodeOnline}, 0},
		"witness":           {Node{BootID: "a", State: NodeOnline, Witness: true}, 0},
	} {
		n := Node{BootID: "b"}
		n.Returns(&c.old)
		got := 0
		if n.Trouble != nil {
			got = len(n.Trouble.Ago)
		}
		if got != c.want {
			t.Errorf("%s: got %d losses, want %d", name, got, c.want)
		}
	}
}
