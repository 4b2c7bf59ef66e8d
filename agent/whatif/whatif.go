// Package whatif answers what would happen: it puts a simulated cluster (agent/sim) into the state of the
// real one, lets the fault happen there, and tells what the real code then did.
//
// # What it promises
//
//   - The answer is not a rule of thumb: the coordinator's, the planner's and the membership's own code
//     decides, with the cluster's own times, over virtual seconds.
//   - It touches nothing: the state is a copy.
//   - Outages are what a client would notice, if a service needs StartTime to start; one that takes longer is
//     out for that much longer.
//
// # What it leaves out
//
// The simulated ledger does not choose new voters in place of lost ones, which the store does within seconds
// where there are more nodes than voters: of a second failure the answer is that of the moments before.
// Cables and switches are taken to be well, images to be on every node.
//
// It is pure and small, so the operator's tool runs it: an answer then costs the nodes one read, a worker
// carries no simulator, and a state saved from a cluster can be asked later.
package whatif

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/sim"
)

// Cluster is what is known of the real one.
type Cluster struct {
	State       *cluster.State
	Coordinator string
	// Member has the cluster's times of heartbeats and leases; zero: member's defaults.
	Member member.Config
	// Silent are nodes that are not heard now, whatever the ledger says of them: they count as off.
	Silent map[string]string
}

// StartTime is how long a service takes to start in an answer.
const StartTime = 200 * time.Millisecond

// Fault is what is asked about.
type Fault struct {
	Verb  string   `json:"verb"` // off, on, drain
	Nodes []string `json:"nodes"`
}

// Result is what the simulated cluster did.
type Result struct {
	Fault     Fault    `json:"fault"`
	Sentences []string `json:"sentences"`
	Services  []Effect `json:"services"` // slots that are touched, by name
	// Majority tells whether the ledger can be written afterwards.
	Majority bool              `json:"ledger_majority"`
	Voters   int               `json:"voters_left"`
	Pending  []string          `json:"pending,omitempty"`
	After    map[string]string `json:"placement"` // slot -> node
	// Second tells what a further loss would end, node by node.
	Second []Second `json:"second_failure"`
}

// Effect on one slot.
type Effect struct {
	Slot    string  `json:"slot"`
	From    string  `json:"from,omitempty"`
	To      string  `json:"to,omitempty"` // empty: it runs nowhere afterwards
	Seconds float64 `json:"out_seconds"`  // how long it did not do its work
}

// Second is the loss of one more node.
type Second struct {
	Node string   `json:"node"`
	Lost []string `json:"lost,omitempty"` // slots that run nowhere after it
	// Majority tells whether the ledger can still be written.
	Majority bool `json:"ledger_majority"`
}

// Parse reads "off n2", "off n1,n2", "off coordinator", "drain n3", "on n3".
func Parse(text string, c Cluster) (Fault, error) {
	w := strings.Fields(strings.ReplaceAll(text, ",", " "))
	if len(w) < 2 || !slices.Contains([]string{"off", "on", "drain"}, w[0]) {
		return Fault{}, fmt.Errorf("what if %q: want off, on or drain, and nodes: \"off n2\", \"off n1,n2\", \"off coordinator\", \"drain n3\"", text)
	}
	f := Fault{Verb: w[0]}
	for _, name := range w[1:] {
		if name == "coordinator" {
			if name = c.Coordinator; name == "" {
				return f, errors.New("there is no coordinator now")
			}
		}
		n := c.State.Node(name)
		switch {
		case n == nil:
			return f, fmt.Errorf("what if %q: there is no node %q", text, name)
		case f.Verb == "on" && n.State != cluster.NodeLost && c.Silent[name] == "":
			return f, fmt.Errorf("what if %q: %s is not off, it is %s", text, name, n.State)
		case f.Verb == "off" && (n.State == cluster.NodeLost || c.Silent[name] != ""):
			return f, fmt.Errorf("what if %q: %s is lost or silent already", text, name)
		case f.Verb == "drain" && n.State != cluster.NodeOnline:
			return f, fmt.Errorf("what if %q: only a node that is online can be drained, %s is %s", text, name, n.State)
		}
		if !slices.Contains(f.Nodes, name) {
			f.Nodes = append(f.Nodes, name)
		}
	}
	return f, nil
}

const (
	quiet = 3 * time.Second  // without a change of the ledger: at rest
	limit = 60 * time.Second // of virtual time for one fault
	step  = 10 * time.Millisecond
	// bootTime is how long a machine may take to its first word, in an answer.
	bootTime = 5 * time.Second
)

// Ask lets the fault happen and tells what came of it.
func Ask(c Cluster, f Fault) (Result, error) {
	r := Result{Fault: f}
	s, before, out, err := happen(c, f)
	if err != nil {
		return r, err
	}
	r.After = s.Where()
	_, r.Voters, r.Majority = s.Quorum()
	for _, p := range s.Pending() {
		r.Pending = append(r.Pending, p.String())
	}
	for _, slot := range names(before, r.After) {
		e := Effect{Slot: slot, From: before[slot], To: r.After[slot], Seconds: out[slot].Seconds()}
		if e.From != e.To || out[slot] > 0 {
			r.Services = append(r.Services, e)
		}
	}
	st := s.Ledger.State()
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.State == cluster.NodeLost || slices.Contains(f.Nodes, n.Name) && f.Verb == "off" || !r.Majority {
			continue
		}
		// The same history again, and then one more loss.
		again, _, _, err := happen(c, f)
		if err != nil {
			return r, err
		}
		again.PowerOff(n.Name)
		again.Rest(quiet, limit)
		sec, after := Second{Node: n.Name}, again.Where()
		_, _, sec.Majority = again.Quorum()
		for _, slot := range names(r.After, nil) {
			if after[slot] == "" && !globalOn(st, slot, n.Name) {
				sec.Lost = append(sec.Lost, slot)
			}
		}
		r.Second = append(r.Second, sec)
	}
	r.Sentences = r.sentences(s, c)
	return r, nil
}

// happen plays the fault and measures how long each slot does not do its work.
func happen(c Cluster, f Fault) (s *sim.Sim, before map[string]string, out map[string]time.Duration, err error) {
	s, err = sim.Live(sim.Config{Seed: 1, Member: c.Member, Start: StartTime}, c.State, c.Coordinator)
	if err != nil {
		return nil, nil, nil, err
	}
	for i := range c.State.Nodes {
		if n := &c.State.Nodes[i]; c.Silent[n.Name] != "" && n.State != cluster.NodeLost {
			s.PowerOff(n.Name)
		}
	}
	s.Rest(time.Second, 10*time.Second) // leases are taken, what was under way ends
	before, out = s.Where(), map[string]time.Duration{}
	for _, n := range f.Nodes {
		switch f.Verb {
		case "off":
			s.PowerOff(n)
		case "on":
			s.PowerOn(n)
		case "drain":
			if err := s.Drain(n); err != nil {
				return nil, nil, nil, err
			}
		}
	}
	rev, since := int64(0), s.Now()
	if f.Verb == "on" {
		since += bootTime // nothing happens before
	}
	for end := s.Now() + limit; s.Now() < end; {
		s.Run(step)
		where := s.Where()
		for slot := range before {
			if where[slot] == "" {
				out[slot] += step
			}
		}
		if now := s.Ledger.State().Revision; now != rev {
			rev, since = now, max(since, s.Now())
		}
		if s.Now()-since >= quiet {
			break
		}
	}
	return s, before, out, nil
}

func names(a, b map[string]string) []string {
	var out []string
	for n := range a {
		out = append(out, n)
	}
	for n := range b {
		if _, ok := a[n]; !ok {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// globalOn tells that a slot is the one that a global service has on this very node.
func globalOn(st *cluster.State, slot, node string) bool {
	for i := range st.Instances {
		in := &st.Instances[i]
		if in.Node == node && in.Spec.Mode == cluster.ModeGlobal && fmt.Sprintf("%s/%s.%d", in.Stack, in.Service, in.Slot) == slot {
			return true
		}
	}
	return false
}

func (r *Result) sentences(s *sim.Sim, c Cluster) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	all := strings.Join(r.Fault.Nodes, " and ")
	switch r.Fault.Verb {
	case "off":
		say("If %s lost power now:", all)
	case "on":
		say("If %s were powered on now:", all)
	case "drain":
		say("If %s were drained now:", all)
	}
	st := s.Ledger.State()
	for _, e := range r.Services {
		switch {
		case e.From == "":
			say("%s, which does not run now, would run on %s.", e.Slot, e.To)
		case e.To == "" && globalOn(c.State, e.Slot, e.From):
			say("%s would end with its node: it runs on every node by itself.", e.Slot)
		case e.To == "":
			say("%s would stop with %s and run nowhere%s.", e.Slot, e.From, r.whyNot(st, e.Slot))
		case e.From == e.To:
			say("%s would stay on %s, and be out for about %.1f s.", e.Slot, e.From, e.Seconds)
		case e.Seconds == 0:
			say("%s would move from %s to %s without a gap.", e.Slot, e.From, e.To)
		default:
			say("%s would move from %s to %s, and be out for about %.1f s.", e.Slot, e.From, e.To, e.Seconds)
		}
	}
	if len(r.Services) == 0 {
		say("no service would move or stop.")
	}
	if !r.Majority {
		total, up, _ := s.Quorum()
		verb := "would lose its majority"
		if c.Coordinator == "" {
			verb = "has no majority now and would have none then"
		}
		say("The ledger %s: %d of %d voters are left. What runs goes on, nothing can be moved or started, and floating addresses fall silent with their leases, until voters are back.", verb, up, total)
		return out
	}
	say("The ledger would keep its majority.")
	for _, p := range r.Pending {
		say("Not possible: %s.", p)
	}
	safe := true
	for _, sec := range r.Second {
		switch {
		case !sec.Majority:
			say("After that, the loss of %s too would take the ledger's majority: nothing could be moved any more.", sec.Node)
		case len(sec.Lost) > 0:
			say("After that, the loss of %s too would stop %s.", sec.Node, strings.Join(sec.Lost, ", "))
		default:
			continue
		}
		safe = false
	}
	if safe {
		say("After that, any one node more could be lost and everything would run.")
	}
	return out
}

// whyNot is why a slot runs nowhere at the end.
func (r *Result) whyNot(st *cluster.State, slot string) string {
	for _, p := range r.Pending {
		if text, ok := strings.CutPrefix(p, slot+": "); ok {
			return ": " + text
		}
	}
	for i := range st.Instances {
		in := &st.Instances[i]
		if fmt.Sprintf("%s/%s.%d", in.Stack, in.Service, in.Slot) != slot {
			continue
		}
		if status := st.Status(in.ID); status != nil && status.Message != "" {
			return fmt.Sprintf(": %s is to have it, %s", in.Node, status.Message)
		}
	}
	return ""
}
