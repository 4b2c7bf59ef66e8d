package model

import (
	"strings"
	"testing"
)

// jugs is the old puzzle: a jug of 3 litres and one of 5, fill, empty, pour; measure 4. Its shortest answer
// has 6 steps, and there are 16 ways to have the jugs (one full or empty; the rest cannot be reached).
func jugs(broken func([2]int) string, goal func([2]int) bool) Model[[2]int, string] {
	size := [2]int{3, 5}
	return Model[[2]int, string]{Broken: broken, Goal: goal, Next: func(s [2]int, step func(string, [2]int, bool)) {
		for i, name := range []string{"the small one", "the big one"} {
			full, empty, poured := s, s, s
			full[i], empty[i] = size[i], 0
			n := min(s[i], size[1-i]-s[1-i])
			poured[i] -= n
			poured[1-i] += n
			step("fill "+name, full, false)
			step("empty "+name, empty, false)
			step("pour "+name, poured, false)
		}
	}}
}

func never([2]int) string { return "" }

func TestShortestWayIsFound(t *testing.T) {
	got := Explore(jugs(func(s [2]int) string {
		if s[1] == 4 {
			return "four litres"
		}
		return ""
	}, nil))
	want := "fill the big one, pour the big one, empty the small one, pour the big one, fill the big one, pour the big one"
	if s := strings.Join(got.Trace, ", "); s != want || got.Last != [2]int{3, 4} || got.Complete {
		t.Errorf("got %s to %v, complete %v, want %s", s, got.Last, got.Complete, want)
	}
	if s := got.String(); !strings.HasPrefix(s, "four litres. After 6 steps") || strings.Count(s, "\n") != 6 {
		t.Errorf("as a list: got %s", s)
	}
}

func TestAllStatesAreFound(t *testing.T) {
	got := Explore(jugs(never, nil))
	if got.States != 16 || !got.Complete || got.Broken != "" || got.Trace != nil {
		t.Errorf("got %v, want 16 states, all of them", got)
	}
	m := jugs(never, nil)
	m.Limit = 5
	if got := Explore(m); got.Complete || !strings.Contains(got.String(), "NOT all") {
		t.Errorf("with a limit: got %v", got)
	}
}

// TestGoal: from each state of the jugs four litres can be measured, but not if filling is luck.
func TestGoal(t *testing.T) {
	four := func(s [2]int) bool { return s[1] == 4 }
	if got := Explore(jugs(never, four)); got.Broken != "" {
		t.Errorf("got %v", got)
	}
	m := jugs(never, four)
	next := m.Next
	m.Next = func(s [2]int, step func(string, [2]int, bool)) {
		next(s, func(name string, to [2]int, _ bool) { step(name, to, strings.HasPrefix(name, "fill")) })
	}
	if got := Explore(m); got.Broken != stuck || len(got.Trace) != 0 {
		t.Errorf("without filling: got %v, want that it is stuck at the beginning", got)
	}
}
