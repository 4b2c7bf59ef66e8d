package member

import "testing"

// TestUnheard: a node counts as unheard when no majority of the voters can hear it, whoever else misses it.
func TestUnheard(t *testing.T) {
	for _, c := range []struct {
		name         string
		size, voters int
		missedBy     []int // nodes that do not hear the last one, nor it them
		want         bool
	}{
		{"by the observer alone", 3, 3, []int{0}, false},
		{"by both others", 3, 3, []int{0, 1}, true},
		{"by two of five", 5, 5, []int{0, 1}, false},
		{"by three of five", 5, 5, []int{0, 1, 2}, true},
		{"by one voter and a node without a vote", 5, 3, []int{0, 3}, false},
		{"by two of three voters, heard by one and a node without a vote", 5, 3, []int{0, 1}, true},
		{"by half of four", 4, 4, []int{0, 1}, true},
	} {
		w := lab(t, c.size, c.voters)
		last := c.size - 1
		misses := map[int]bool{}
		for _, i := range c.missedBy {
			misses[i] = true
		}
		w.cut = func(from, to int, _ string) bool { return from == last && misses[to] || to == last && misses[from] }
		w.run(800 * ms)
		p := w.view(0).peer(w.nodes[last].name)
		if p.Unheard != c.want || p.ConfirmedSilent != len(c.missedBy) {
			t.Errorf("%s: got unheard %v, %d say so; want %v, %d", c.name, p.Unheard, p.ConfirmedSilent, c.want, len(c.missedBy))
		}
	}
}
