package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/replay"
)

// Input is what an answer is made from.
type Input struct {
	// Snapshot is the ledger's state and what the answering node hears.
	Snapshot  plan.Snapshot
	Events    []cluster.Event // oldest first
	Decisions []replay.Record // any order
	Zone      *time.Location  // of the times in sentences; nil: UTC
}

// Answer is why something is as it is.
type Answer struct {
	Subject   string   `json:"subject"`
	Kind      string   `json:"kind"` // service or node
	Sentences []string `json:"sentences"`
	// Slots are the parts of a service, with what the sentences were made from.
	Slots []Slot `json:"slots,omitempty"`
	// Decisions concerned, by id, newest first: skein replay ID.
	Decisions []string `json:"decisions,omitempty"`
}

// Slot is one instance of a service, or the lack of one.
type Slot struct {
	Name       string                `json:"name"` // demo/web.1
	Node       string                `json:"node,omitempty"`
	State      cluster.InstanceState `json:"state,omitempty"`
	Since      time.Time             `json:"since,omitzero"`
	From       string                `json:"from,omitempty"` // where it was before
	Decision   string                `json:"decision,omitempty"`
	Considered []plan.Candidate      `json:"considered,omitempty"`
	Steps      []Step                `json:"steps,omitempty"` // of the takeover, oldest first
	Waits      string                `json:"waits_for,omitempty"`
}

// Step of a takeover.
type Step struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// Why answers for a service ("demo/web", or "web" if only one stack has it) or a node.
func Why(in Input, subject string) (Answer, error) {
	in.Decisions = slices.Clone(in.Decisions)
	slices.SortFunc(in.Decisions, func(a, b replay.Record) int { return replay.Compare(a.ID, b.ID) })
	if in.Zone == nil {
		in.Zone = time.UTC
	}
	st := in.Snapshot.State
	var found []*cluster.Service
	for i := range st.Services {
		if s := &st.Services[i]; s.FullName() == subject || s.Name == subject {
			found = append(found, s)
		}
	}
	n := st.Node(subject)
	switch {
	case n != nil:
		return in.node(n), nil
	case len(found) > 1:
		var names []string
		for _, s := range found {
			names = append(names, s.FullName())
		}
		return Answer{}, fmt.Errorf("%q is in several stacks: say which of %s", subject, strings.Join(names, ", "))
	case len(found) == 0:
		return Answer{}, fmt.Errorf("there is no service or node %q; 'skein status' lists them", subject)
	}
	return in.service(found[0]), nil
}

func (in *Input) clock(t time.Time) string { return t.In(in.Zone).Format("15:04:05.000") }

func (in *Input) service(s *cluster.Service) Answer {
	a := Answer{Subject: s.FullName(), Kind: "service"}
	st := in.Snapshot.State
	pending := map[string]plan.Pending{}
	for _, p := range plan.Plan(in.Snapshot).Pending {
		pending[fmt.Sprintf("%s/%s.%d", p.Stack, p.Service, p.Slot)] = p
	}
	seen := map[string]bool{}
	var slots []Slot
	for i := range st.Instances {
		if inst := &st.Instances[i]; inst.Stack == s.Stack && inst.Service == s.Name {
			slot := in.slot(inst)
			seen[slot.Name] = true
			slots = append(slots, slot)
		}
	}
	for name, p := range pending {
		if p.Stack == s.Stack && p.Service == s.Name && !seen[name] {
			slots = append(slots, Slot{Name: name})
		}
	}
	slices.SortFunc(slots, func(x, y Slot) int { return strings.Compare(x.Name, y.Name) })
	for i := range slots {
		slot := &slots[i]
		if p, ok := pending[slot.Name]; ok {
			slot.Waits = waits(p)
		}
		a.Sentences = append(a.Sentences, in.sentences(s, slot)...)
		if slot.Decision != "" {
			a.Decisions = append(a.Decisions, slot.Decision)
		}
	}
	if len(slots) == 0 {
		a.Sentences = append(a.Sentences, a.Subject+" has no instances, and none is wanted now.")
	}
	a.Slots = slots
	return a
}

// waits is a pending slot in words.
func waits(p plan.Pending) string {
	s := p.Text
	for i, n := range p.Nodes {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		s += sep + n.Node + " " + n.Why
	}
	return s
}

// slot collects what is known of one claim.
func (in *Input) slot(inst *cluster.Instance) Slot {
	s := Slot{Name: fmt.Sprintf("%s/%s.%d", inst.Stack, inst.Service, inst.Slot), Node: inst.Node, State: cluster.InstancePending}
	if status := in.Snapshot.State.Status(inst.ID); status != nil {
		s.State, s.Since = status.State, status.Started
		if status.State != cluster.InstanceRunning && status.Message != "" {
			s.Waits = status.Message
		}
	}
	if n := in.Snapshot.State.Node(inst.Node); n == nil || n.BootID != inst.BootID || n.State == cluster.NodeLost {
		s.State = cluster.InstanceFailed
	}
	r, act := in.placed(inst)
	if r != nil {
		s.Decision, s.From = r.ID, act.From
		s.Considered = replay.Considered(*r, s.Name)
		if s.Since.IsZero() {
			s.Since = r.Time
		}
		if act.Kind == "takeover" && act.From != "" {
			s.Steps = in.steps(&s, r, inst)
		}
	}
	return s
}

// placed finds the decision that made the claim.
func (in *Input) placed(inst *cluster.Instance) (*replay.Record, *replay.Action) {
	name := fmt.Sprintf("%s/%s.%d", inst.Stack, inst.Service, inst.Slot)
	for i := len(in.Decisions) - 1; i >= 0; i-- {
		r := &in.Decisions[i]
		if r.Revision >= int64(inst.Epoch) {
			continue
		}
		for j := range r.Actions {
			if a := &r.Actions[j]; a.Subject == name && a.Node == inst.Node && a.Reason == inst.Reason {
				return r, a
			}
		}
	}
	return nil, nil
}

// steps of a takeover: silence, loss, decision, proof, running.
func (in *Input) steps(s *Slot, r *replay.Record, inst *cluster.Instance) []Step {
	var out []Step
	if l, why := in.loss(s.From, r); l != nil {
		if silent := l.silentFor(s.From); silent > 0 {
			out = append(out, Step{l.Time.Add(-silent), "the last sign of " + s.From})
		}
		out = append(out, Step{l.Time, fmt.Sprintf("%s gives %s up: %s", l.Node, s.From, why)})
	}
	out = append(out, Step{r.Time, fmt.Sprintf("%s decides that %s takes over (decision %s)", r.Node, s.Node, r.ID)})
	proved := false
	for _, e := range in.Events {
		if e.Kind == cluster.EventFence && e.Subject == s.Name && e.Node == s.Node && !e.Time.Before(r.Time) {
			out = append(out, Step{e.Time, "proof: " + e.Why})
			proved = true
			break
		}
	}
	if st := in.Snapshot.State.Status(inst.ID); st != nil && st.State == cluster.InstanceRunning && !st.Started.IsZero() {
		step := Step{st.Started, "it runs on " + s.Node}
		if proved && st.Started.Before(out[len(out)-1].Time) {
			out = slices.Insert(out, len(out)-1, step)
		} else {
			out = append(out, step)
		}
	}
	return out
}

// lossRecord is the decision that gave a node up.
type lossRecord struct {
	*replay.Record
	input *replay.Input
}

func (l *lossRecord) silentFor(node string) time.Duration {
	for _, p := range l.input.Heard {
		if p.Name == node {
			return p.SilentFor
		}
	}
	return 0
}

// loss finds the last decision before r (nil: the last) that gave a node up, and its reason.
func (in *Input) loss(node string, r *replay.Record) (*lossRecord, string) {
	for i := len(in.Decisions) - 1; i >= 0; i-- {
		l := &in.Decisions[i]
		if l.Kind != replay.KindLoss || r != nil && l.Revision > r.Revision {
			continue
		}
		for _, a := range l.Actions {
			if a.Subject == node {
				input, err := l.Open()
				if err != nil {
					input = &replay.Input{} // read, but not in detail
				}
				return &lossRecord{l, input}, a.Reason
			}
		}
	}
	return nil, ""
}

func (in *Input) sentences(svc *cluster.Service, s *Slot) []string {
	var out []string
	name := svc.FullName()
	if svc.Mode == cluster.ModeGlobal || svc.Replicas > 1 {
		name = s.Name
	}
	since := ""
	if !s.Since.IsZero() {
		since = " since " + in.clock(s.Since)
	}
	unheard := in.Snapshot.Silent[s.Node]
	switch {
	case s.Node != "" && unheard != "" && s.State == cluster.InstanceRunning:
		out = append(out, fmt.Sprintf("%s ran on %s, as far as the ledger knows, but that node %s now.", name, s.Node, unheard))
	case s.Node == "":
		return []string{fmt.Sprintf("%s does not run anywhere: %s.", name, s.Waits)}
	case s.State == cluster.InstanceRunning:
		out = append(out, fmt.Sprintf("%s runs on %s%s.", name, s.Node, since))
	case s.State == cluster.InstanceComplete:
		out = append(out, fmt.Sprintf("%s has done its work on %s.", name, s.Node))
	case s.State == cluster.InstanceFailed:
		out = append(out, fmt.Sprintf("%s does not run: it was on %s, which is gone, or it gave up there.", name, s.Node))
	default:
		out = append(out, fmt.Sprintf("%s does not run yet: it was given to %s%s and is %s.", name, s.Node, since, s.State))
	}
	if s.Waits != "" {
		out = append(out, "It waits: "+s.Waits+".")
	}
	if c := considered(svc, s); c != "" {
		out = append(out, c)
	} else if inst := in.claimOf(s); inst != nil {
		out = append(out, "Why there: "+inst.Reason+".")
	}
	if len(s.Steps) > 0 {
		out = append(out, fmt.Sprintf("Before, it ran on %s. How it came over:", s.From))
		for i, step := range s.Steps {
			took := ""
			if i > 0 {
				took = later(step.Time.Sub(s.Steps[i-1].Time))
			}
			out = append(out, fmt.Sprintf("  %s  %s%s", in.clock(step.Time), step.Text, took))
		}
	} else if s.From != "" && s.From != s.Node {
		out = append(out, fmt.Sprintf("Before, it ran on %s.", s.From))
	}
	return out
}

// later is the time between two steps. They are in the order of cause and effect, and each has the time of the node that
// did it.
func later(d time.Duration) string {
	if d < 0 {
		return " (by that node's own clock, which is behind)"
	}
	return fmt.Sprintf(" (%v later)", d.Round(time.Millisecond))
}

func (in *Input) claimOf(s *Slot) *cluster.Instance {
	for i := range in.Snapshot.State.Instances {
		inst := &in.Snapshot.State.Instances[i]
		if fmt.Sprintf("%s/%s.%d", inst.Stack, inst.Service, inst.Slot) == s.Name {
			return inst
		}
	}
	return nil
}

// considered is the choice of the node in words.
func considered(svc *cluster.Service, s *Slot) string {
	var refused, fit []string
	best := ""
	for i := range s.Considered {
		c := &s.Considered[i]
		if c.Refused != "" {
			refused = append(refused, c.Node+" "+c.Refused)
			continue
		}
		if c.Chosen {
			best = c.Node
		}
		what := fmt.Sprintf("%s, %s, %s", count(c.Same), count(c.Stack), free(c))
		if len(fit) == 0 {
			what = fmt.Sprintf("it had %s of %s, %s of stack %s and %s", count(c.Same), svc.FullName(), count(c.Stack), svc.Stack, free(c))
		}
		fit = append(fit, c.Node+" ("+what+")")
	}
	if best == "" {
		return ""
	}
	out := fmt.Sprintf("Why %s: ", best)
	if len(refused) > 0 {
		out += strings.Join(refused, ", ") + "; "
	}
	if len(fit) == 1 {
		return out + best + " was the only node that fitted."
	}
	return out + fmt.Sprintf("those that fitted were %s. Taken is the one with the fewest of the service, then of the stack, then with the most free memory, then the first by name.",
		strings.Join(fit, ", "))
}

func count(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

func free(c *plan.Candidate) string {
	return fmt.Sprintf("%.1f GiB of memory free", float64(c.FreeMemory)/(1<<30))
}
