package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is what is done to a machine.
type Kind string

const (
	PowerCut       Kind = "power cut"
	FreezeRunning  Kind = "freeze, clock running"
	FreezeStanding Kind = "freeze, clock standing"
	Stall          Kind = "stall"      // a freeze with the clock running that ends by itself
	Partition      Kind = "partition"  // from the other machines, on both networks; it heals
	Mute           Kind = "mute"       // it hears, but is not heard, on both networks
	Deaf           Kind = "deaf"       // it is heard, but does not hear, on both networks
	LinkDown       Kind = "link down"  // one cable out
	LinkSilent     Kind = "link dead"  // one cable that passes nothing; the carrier stays
	AgentKilled    Kind = "agent dead" // ends as by a crash; PID 1 starts it again
	// TwoAtOnce is no fault of its own: a node is lost while another one loses a link.
	TwoAtOnce Kind = "two at once"
)

// kinds in the order of reports, with how often each is drawn.
var kinds = []weighted{
	{PowerCut, 30}, {FreezeRunning, 11}, {FreezeStanding, 7}, {Stall, 8}, {Partition, 14}, {Mute, 4}, {Deaf, 4},
	{LinkDown, 6}, {LinkSilent, 6}, {AgentKilled, 4}, {TwoAtOnce, 6},
}

// takesNode tells that a fault may cost the node its place: others may declare it lost, and no voter counts on it.
func (k Kind) takesNode() bool { return k != LinkDown && k != LinkSilent }

// Fault is one thing that is done to one machine.
type Fault struct {
	Kind  Kind          `json:"kind"`
	Node  string        `json:"node"`
	Link  string        `json:"link,omitempty"`
	Hold  time.Duration `json:"hold_ns"`         // how long it lasts at least
	After time.Duration `json:"after_ns"`        // after the first fault of the step
	Roles []string      `json:"roles,omitempty"` // of the node just then: coordinator, owner of an address
}

// Roles of the nodes when a fault is drawn.
type Roles struct {
	Nodes       []string            // all, by name, all well
	Voters      []string            // of them
	Coordinator string              //
	Owns        map[string][]string // addresses, by node
}

// draw decides the next step: its kind and its faults. The same generator and the same roles give the same step.
// At most one voter is taken at a time, and never where no majority would be left.
func draw(r *rand.Rand, roles Roles) (Kind, []Fault) {
	kind := drawKind(r, kinds)
	first := kind
	if kind == TwoAtOnce {
		first = []Kind{PowerCut, FreezeRunning, Partition}[r.IntN(3)]
	}
	node := drawNode(r, roles, first)
	faults := []Fault{roles.fault(r, first, node, 0)}
	if kind == TwoAtOnce {
		others := slices.DeleteFunc(slices.Clone(roles.Nodes), func(n string) bool { return n == node })
		second := []Kind{LinkDown, LinkSilent}[r.IntN(2)]
		faults = append(faults, roles.fault(r, second, others[r.IntN(len(others))], time.Duration(r.IntN(600))*time.Millisecond))
	}
	return kind, faults
}

// weighted is a kind and how often it is drawn.
type weighted struct {
	kind   Kind
	weight int
}

func drawKind(r *rand.Rand, kinds []weighted) Kind {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := r.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k.kind
		}
	}
	return kinds[0].kind
}

// drawNode prefers who serves and who decides, and takes any other now and then.
func drawNode(r *rand.Rand, roles Roles, k Kind) string {
	free := roles.Nodes
	if k.takesNode() && len(roles.Voters) < 3 {
		// Without one of two voters there is no majority.
		free = slices.DeleteFunc(slices.Clone(free), func(n string) bool { return slices.Contains(roles.Voters, n) })
	}
	if len(free) == 0 {
		return ""
	}
	switch p := r.IntN(100); {
	case p < 45:
		return slices.MaxFunc(free, func(a, b string) int { return len(roles.Owns[a]) - len(roles.Owns[b]) })
	case p < 65 && slices.Contains(free, roles.Coordinator):
		return roles.Coordinator
	}
	return free[r.IntN(len(free))]
}

func (roles Roles) fault(r *rand.Rand, k Kind, node string, after time.Duration) Fault {
	between := func(lo, hi int) time.Duration { return time.Duration(lo+r.IntN(hi-lo+1)) * time.Millisecond }
	f := Fault{Kind: k, Node: node, After: after}
	switch k {
	case Stall:
		f.Hold = between(150, 2500)
	case AgentKilled:
		f.Hold = between(500, 1000)
	case LinkDown, LinkSilent:
		f.Link = []string{"eth0", "eth1"}[r.IntN(2)]
		f.Hold = between(1500, 4000)
	default:
		f.Hold = between(1500, 5000)
	}
	if node == roles.Coordinator {
		f.Roles = append(f.Roles, "coordinator")
	}
	f.Roles = append(f.Roles, roles.Owns[node]...)
	return f
}
