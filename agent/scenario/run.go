package scenario

import (
	"slices"
	"time"
)

// Run is what came of playing a script: a timeline.
type Run struct {
	Fault   int           `json:"fault,omitempty"`
	Stage   string        `json:"stage"`
	Nodes   []string      `json:"nodes"`
	Length  time.Duration `json:"length_ns"`
	Failure string        `json:"failure,omitempty"` // empty: all that was expected came
	Marks   []Mark        `json:"marks"`             // by time
	// Arranged is when the stage was made ready in the midst of it (coordinator): what that costs is no fault's.
	Arranged []Span `json:"arranged,omitempty"`
	History
}

// Mark is something that happened at one moment.
type Mark struct {
	At   time.Duration `json:"at_ns"`
	Kind Kind          `json:"kind"`
	Node string        `json:"node,omitempty"`
	Text string        `json:"text"`
}

// Kind of a mark.
type Kind string

const (
	Did      Kind = "did"      // a step that did something
	Waited   Kind = "waited"   // a step that let time pass
	Occurred Kind = "occurred" // an event of the cluster
	Failed   Kind = "failed"   // the end of a play that failed
)

// note adds a mark. Of two at the same time the one noted first comes first.
func (r *Run) note(at time.Duration, k Kind, node, text string) {
	i, _ := slices.BinarySearchFunc(r.Marks, at, func(m Mark, at time.Duration) int {
		if m.At <= at {
			return -1
		}
		return 1
	})
	r.Marks = slices.Insert(r.Marks, i, Mark{at, k, node, text})
}

// arrangedQuiet is how long all is well at the end of an arrangement: an outage that begins in it is the next
// step's, from the last answer before.
const arrangedQuiet = 500 * time.Millisecond

// LongestOutage that a client of any address saw, 0 if none, but for those that begin while all is made ready.
func (r *Run) LongestOutage() time.Duration {
	longest := time.Duration(0)
	for _, o := range r.Outages {
		if !slices.ContainsFunc(r.Arranged, func(a Span) bool { return a.From <= o.From && o.From < a.To-arrangedQuiet }) {
			longest = max(longest, o.To-o.From)
		}
	}
	return longest
}
