package scenario

import (
	"context"
	"time"
)

// Stage is a cluster to play on. All times are since its beginning, on its own clock.
type Stage interface {
	// Name is simulator or lab.
	Name() string
	// Nodes of the cluster, sorted.
	Nodes() []string
	// Can tells whether this stage can show an action; the error says why not.
	Can(Action) error
	// Do does an action that is neither an expectation nor one of Settle, Wait, Flap and Repeat. Its nodes are names.
	Do(context.Context, Action) error
	// Settle waits until all runs that should; the error says what does not.
	Settle(context.Context) error
	// Wait lets time pass.
	Wait(context.Context, time.Duration) error
	Now() time.Duration

	// Coordinator is the node that leads, empty if there is none.
	Coordinator(context.Context) (string, error)
	// Where a service runs in fact: where its address is answered, else where its containers are.
	Where(ctx context.Context, service string) ([]string, error)
	// NodeState is the ledger's, empty if the node is unknown.
	NodeState(ctx context.Context, node string) (string, error)
	// Pending is what the coordinator cannot place, a sentence each.
	Pending(ctx context.Context, service string) ([]string, error)
	// Takeovers since the beginning.
	Takeovers(context.Context) (int, error)
	// Writes to a service's volume that were acknowledged since the beginning.
	Writes(ctx context.Context, service string) (int, error)
	// Boots are the boots that the nodes are in, by node.
	Boots(context.Context) (map[string]string, error)
	// Events since the beginning, oldest first.
	Events(context.Context) ([]Event, error)
	// Outages of a service's address since the beginning, the one that lasts included.
	Outages(ctx context.Context, service string) ([]Span, error)
	// Broken promises that the stage itself has seen: any of them ends the play.
	Broken() []string
	// History is what the stage has seen itself, for the timeline.
	History(context.Context) History

	Tolerance() Tolerance
}

// Tolerance of a stage for being slower than the script thinks.
type Tolerance struct {
	// Patience is how long something that is expected may take to come. Nothing that is expected not to
	// happen is waited for.
	Patience time.Duration
	// Slack is what the bounds of outages are multiplied by; 0 means 1.
	Slack float64
}

// Event is something that happened, in words.
type Event struct {
	At   time.Duration `json:"at_ns"`
	Node string        `json:"node,omitempty"` // whom it is about, empty if nobody
	Text string        `json:"text"`
}

// Span is something that lasted.
type Span struct {
	Node string        `json:"node,omitempty"`
	What string        `json:"what"` // a service, or how a machine is: off, frozen
	From time.Duration `json:"from_ns"`
	To   time.Duration `json:"to_ns"`
}

// History of a stage.
type History struct {
	Owned    []Span `json:"owned"`    // who ran which service
	Machines []Span `json:"machines"` // which were not well
	Outages  []Span `json:"outages"`  // of addresses, as a client saw them
}

// Recorder makes spans of samples.
type Recorder struct{ spans, open []Span }

// Observe notes what holds at a time: spans of which only Node and What count. What is not among them has
// ended.
func (r *Recorder) Observe(at time.Duration, holds []Span) {
	var open []Span
	for _, h := range holds {
		h.From = at
		for _, o := range r.open {
			if o.Node == h.Node && o.What == h.What {
				h.From = o.From
			}
		}
		h.To = at
		open = append(open, h)
	}
	for _, o := range r.open {
		ended := true
		for _, h := range open {
			ended = ended && (o.Node != h.Node || o.What != h.What)
		}
		if ended {
			o.To = at
			r.spans = append(r.spans, o)
		}
	}
	r.open = open
}

// Spans until now, in the order in which they ended.
func (r *Recorder) Spans(now time.Duration) []Span {
	out := append([]Span{}, r.spans...)
	for _, o := range r.open {
		o.To = now
		out = append(out, o)
	}
	return out
}
