package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/takeover"
)

// Incarnation is one boot of a node.
type Incarnation struct{ Node, BootID string }

// Snapshot is all that a plan depends on.
type Snapshot struct {
	State *cluster.State
	// Now is the coordinator's clock, for back-off; Ended tells when it first saw an instance (by ID)
	// ended. An instance that is not in it ended just now.
	Now   time.Duration
	Ended map[string]time.Duration
	// Ran tells since when the coordinator has seen an instance (by ID) running without a pause. One that is not in it
	// began just now.
	Ran map[string]time.Duration
	// Silent are nodes that may be about to be lost, and why: they keep what they have and get nothing.
	Silent map[string]string
	// Evidence of incarnations that the ledger calls lost or does not know any more.
	Evidence map[Incarnation]takeover.Evidence
	// Trace asks for Action.Considered; it changes no decision.
	Trace bool
}

// Decision is what to commit now, and what cannot be done yet.
type Decision struct {
	Actions []Action
	Pending []Pending
	// Wake is the Now from which a plan of the same state would differ, 0: never.
	Wake time.Duration
}

// Kind of an action, in order of urgency.
type Kind int

const (
	Takeover Kind = iota // a lost owner's slot gets a new one
	Replace              // an ended instance's slot gets a new one
	Claim                // a free slot gets an owner
	Stop                 // an owner is told to stop
	Remove               // a claim leaves the ledger
	Drained              // a node runs nothing any more
	Updated              // an update has ended, or goes back
)

// Action is one change of the ledger that is complete in itself. Its transaction has one event at most,
// without time and writer.
type Action struct {
	Kind    Kind
	Subject string // demo/web.1, or n2
	Reason  string
	Txn     cluster.Txn
	// Considered are the nodes that were looked at for a place, by name; only in a traced plan.
	Considered []Candidate
}

// Candidate is one node as it was when a place was looked for, before the place was taken.
type Candidate struct {
	Node       string  `json:"node"`
	Refused    string  `json:"refused,omitempty"` // the first thing that did not fit, a clause after the node's name
	Chosen     bool    `json:"chosen,omitempty"`
	Same       int     `json:"same_service"` // instances of the same service there
	Stack      int     `json:"same_stack"`   // instances of the same stack there
	FreeCPUs   float64 `json:"free_cpus"`
	FreeMemory int64   `json:"free_memory_bytes"`
}

// Pending is a slot that should be somewhere, or elsewhere, and cannot be.
type Pending struct {
	Stack, Service string
	Slot           int
	Text           string       // what is missing, in a sentence
	Nodes          []NodeReason // if it is a place: node by node the first thing that does not fit
}

// NodeReason is why one node was not taken.
type NodeReason struct{ Node, Why string }

func (p Pending) String() string {
	s := fmt.Sprintf("%s/%s.%d: %s", p.Stack, p.Service, p.Slot, p.Text)
	for _, n := range p.Nodes {
		s += "; " + n.Node + " " + n.Why
	}
	return s
}

// Plan decides.
func Plan(s Snapshot) Decision {
	p := newPlanner(s)
	for i := range s.State.Services {
		p.service(&s.State.Services[i])
	}
	for _, id := range p.slotIDs {
		if !p.wanted[id] {
			p.unwanted(p.bySlot[id])
		}
	}
	slices.SortStableFunc(p.todo, func(a, b todo) int { return cmp.Compare(a.kind, b.kind) })
	for _, t := range p.todo {
		t.do()
	}
	p.moves()
	p.drained()
	p.updated()
	slices.SortStableFunc(p.out.Actions, func(a, b Action) int { return cmp.Compare(a.Kind, b.Kind) })
	return p.out
}

type slotID struct {
	stack, service string
	slot           int
}

func (id slotID) String() string { return fmt.Sprintf("%s/%s.%d", id.stack, id.service, id.slot) }

func slotOf(i *cluster.Instance) slotID { return slotID{i.Stack, i.Service, i.Slot} }

// todo is postponed, so that takeovers get their places before anything less urgent does.
type todo struct {
	kind Kind
	do   func()
}

type planner struct {
	Snapshot
	out     Decision
	hosts   []*host // sorted by name
	byName  map[string]*host
	status  map[string]*cluster.Status
	bySlot  map[slotID]*cluster.Instance
	slotIDs []slotID // of bySlot, in the order of the ledger
	wanted  map[slotID]bool
	holders map[string]slotID // floating address -> the slot that holds it
	todo    []todo
	moving  []move
	// unsettled services have a slot that does not run yet, or moves; waiting is how many.
	unsettled map[string]string
	waiting   map[string]int
	updates   map[string]*cluster.Update
}

func newPlanner(s Snapshot) *planner {
	p := &planner{
		Snapshot: s,
		byName:   map[string]*host{}, status: map[string]*cluster.Status{},
		bySlot: map[slotID]*cluster.Instance{}, wanted: map[slotID]bool{},
		holders: map[string]slotID{}, unsettled: map[string]string{}, waiting: map[string]int{},
		updates: map[string]*cluster.Update{},
	}
	for i := range s.State.Statuses {
		p.status[s.State.Statuses[i].ID] = &s.State.Statuses[i]
	}
	for i := range s.State.Updates {
		u := &s.State.Updates[i]
		p.updates[u.Stack+"/"+u.Service] = u
	}
	for i := range s.State.Nodes {
		h := newHost(&s.State.Nodes[i])
		p.hosts = append(p.hosts, h)
		p.byName[h.node.Name] = h
	}
	slices.SortFunc(p.hosts, func(a, b *host) int { return cmp.Compare(a.node.Name, b.node.Name) })
	for i := range s.State.Instances {
		in := &s.State.Instances[i]
		id := slotOf(in)
		p.bySlot[id] = in
		p.slotIDs = append(p.slotIDs, id)
		if p.alive(in) && !p.ended(in) {
			p.byName[in.Node].add(&in.Spec)
		}
		if HoldsFloating(in) && !p.ended(in) { // what had ended before its node was lost holds nothing
			for _, a := range in.Spec.Floating {
				p.holders[a.String()] = id
			}
		}
	}
	return p
}

// HoldsFloating tells whether this instance is the one of its service that answers on the service's
// floating addresses: that is slot 1. A global service has no such instance.
func HoldsFloating(i *cluster.Instance) bool {
	return i.Slot == 1 && i.Spec.Mode != cluster.ModeGlobal && len(i.Spec.Floating) > 0
}

// alive tells whether the owner of the claim can still obey.
func (p *planner) alive(i *cluster.Instance) bool {
	h := p.byName[i.Node]
	return h != nil && h.node.BootID == i.BootID && h.node.State != cluster.NodeLost
}

func (p *planner) state(i *cluster.Instance) cluster.InstanceState {
	if st := p.status[i.ID]; st != nil {
		return st.State
	}
	return cluster.InstancePending
}

func (p *planner) ended(i *cluster.Instance) bool { return p.state(i).Ended() }

// up tells that there is nothing to wait for.
func (p *planner) up(i *cluster.Instance) bool {
	s := p.state(i)
	return p.alive(i) && !i.Stop && (s == cluster.InstanceRunning || s == cluster.InstanceComplete)
}

// proof tells whether this incarnation can do no more harm.
func (p *planner) proof(safety cluster.Safety, o cluster.Owner) takeover.Proof {
	var node *cluster.Node
	if h := p.byName[o.Node]; h != nil {
		node = h.node
	}
	return takeover.Prove(safety, o, node, p.Evidence[Incarnation{o.Node, o.BootID}])
}

// inherited is the lost owner that a successor of this claim has to wait for, because the claim itself
// still does.
func (p *planner) inherited(i *cluster.Instance) (*cluster.Owner, string) {
	if i.After == nil {
		return nil, ""
	}
	pr := p.proof(i.Spec.Safety, *i.After)
	if pr.OK {
		return nil, ""
	}
	return i.After, pr.Text
}

func (p *planner) wake(at time.Duration) {
	if p.out.Wake == 0 || at < p.out.Wake {
		p.out.Wake = at
	}
}

func (p *planner) pend(id slotID, nodes []NodeReason, format string, args ...any) {
	p.out.Pending = append(p.out.Pending, Pending{
		Stack: id.stack, Service: id.service, Slot: id.slot, Text: fmt.Sprintf(format, args...), Nodes: nodes,
	})
}

func (p *planner) act(k Kind, subject, reason string, t cluster.Txn) {
	p.out.Actions = append(p.out.Actions, Action{Kind: k, Subject: subject, Reason: reason, Txn: t})
}

// considered notes the nodes as they are before a place is taken.
func (p *planner) considered(best *host, s *cluster.Service, only string, avoid map[string]string) []Candidate {
	if !p.Trace {
		return nil
	}
	var out []Candidate
	for _, h := range p.hosts {
		if only != "" && h.node.Name != only {
			continue
		}
		out = append(out, Candidate{
			Node: h.node.Name, Refused: p.refusal(h, s, avoid, best != nil && best.node.Trouble.Quarantined()), Chosen: h == best,
			Same: h.services[s.FullName()], Stack: h.stacks[s.Stack], FreeCPUs: h.cpus, FreeMemory: h.memory,
		})
	}
	return out
}

// newID is unique for ever: of all claims of a slot planned at one revision, one can be committed.
func (p *planner) newID(id slotID) string {
	n := p.State.Meta.Incarnation<<40 | uint64(p.State.Revision)
	return fmt.Sprintf("%s.%s.%d.%s", id.stack, id.service, id.slot, strconv.FormatUint(n, 36))
}
