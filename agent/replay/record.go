package replay

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/takeover"
)

// Version of the records' form. One that this code does not know is refused.
const Version = 1

// Bounds of what is kept and read.
const (
	// KeyDecisions is the ledger's prefix of the records. It is outside of cluster.KeyRoot, which every node
	// watches.
	KeyDecisions = "/decision/"
	// Kept and KeptBytes bound what the ledger keeps: the newest so many, of so many bytes together.
	Kept      = 256
	KeptBytes = 4 << 20
	// MaxRecord bounds one record, bytes as stored. Of a larger one the input is left out.
	MaxRecord = 256 << 10
	// maxInput bounds an input that is read, bytes uncompressed.
	maxInput = 32 << 20
)

// Kinds of decisions.
const (
	KindPlan = "plan" // where slots go
	KindLoss = "loss" // nodes were given up
)

// Record is one decision.
type Record struct {
	Version  int       `json:"version"`
	ID       string    `json:"id"`   // REVISION.N: the ledger's revision of its input, and a number
	Time     time.Time `json:"time"` // the coordinator's wall clock, for people
	Node     string    `json:"coordinator"`
	Kind     string    `json:"kind"`
	Revision int64     `json:"revision"` // of the ledger, of the input
	Actions  []Action  `json:"actions"`
	// Pending is what could not be done, in sentences.
	Pending []string `json:"pending,omitempty"`
	// Input is the whole input, JSON, deflated. It is missing if the record was too large with it.
	Input []byte `json:"input,omitempty"`
}

// Action is one thing that was decided.
type Action struct {
	Kind    string         `json:"kind"`    // takeover, replace, claim, stop, remove, drained, lost
	Subject string         `json:"subject"` // demo/web.1, or a node
	Node    string         `json:"node,omitempty"`
	From    string         `json:"from,omitempty"`
	After   *cluster.Owner `json:"after,omitempty"` // lost owner whose proof the new one waits for
	Text    string         `json:"text,omitempty"`
	Reason  string         `json:"reason"`
	// Conditions are the revisions that the decision insisted on.
	Conditions []cluster.Condition `json:"conditions,omitempty"`
}

// Input is the input of a decision in a form that JSON keeps whole: sorted lists, revisions included.
type Input struct {
	Revision  int64                  `json:"revision"`
	Meta      cluster.Meta           `json:"meta"`
	Nodes     []at[cluster.Node]     `json:"nodes"`
	Services  []at[cluster.Service]  `json:"services"`
	Instances []at[cluster.Instance] `json:"instances"`
	Statuses  []at[cluster.Status]   `json:"statuses"`

	Now      time.Duration `json:"now_ns"`
	Ended    []ended       `json:"ended,omitempty"`
	Ran      []ended       `json:"ran,omitempty"`
	Silent   []silent      `json:"silent,omitempty"`
	Evidence []evidence    `json:"evidence,omitempty"`

	Self         string            `json:"self,omitempty"`
	Heard        []member.PeerView `json:"heard,omitempty"`
	JoinPatience time.Duration     `json:"join_patience_ns,omitempty"`
}

type at[T any] struct {
	Revision int64 `json:"rev"`
	Value    T     `json:"value"`
}

type ended struct {
	ID string        `json:"id"`
	At time.Duration `json:"at_ns"`
}

type silent struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

type evidence struct {
	Node     string            `json:"node"`
	BootID   string            `json:"boot_id"`
	Evidence takeover.Evidence `json:"evidence"`
}

// NewInput copies a snapshot, without what no decision looks at.
func NewInput(s plan.Snapshot) Input {
	st := s.State
	in := Input{Revision: st.Revision, Meta: st.Meta, Now: s.Now}
	for _, v := range st.Nodes {
		in.Nodes = append(in.Nodes, at[cluster.Node]{v.Revision, v})
	}
	for _, v := range st.Services {
		in.Services = append(in.Services, at[cluster.Service]{v.Revision, bare(v)})
	}
	for _, v := range st.Instances {
		spec := v.Spec.Revision
		v.Spec = bare(v.Spec)
		v.Spec.Revision = spec
		in.Instances = append(in.Instances, at[cluster.Instance]{v.Revision, v})
	}
	for _, v := range st.Statuses {
		in.Statuses = append(in.Statuses, at[cluster.Status]{v.Revision, v})
	}
	for id, t := range s.Ended {
		in.Ended = append(in.Ended, ended{id, t})
	}
	slices.SortFunc(in.Ended, func(a, b ended) int { return cmp.Compare(a.ID, b.ID) })
	for id, t := range s.Ran {
		in.Ran = append(in.Ran, ended{id, t})
	}
	slices.SortFunc(in.Ran, func(a, b ended) int { return cmp.Compare(a.ID, b.ID) })
	for n, why := range s.Silent {
		in.Silent = append(in.Silent, silent{n, why})
	}
	slices.SortFunc(in.Silent, func(a, b silent) int { return cmp.Compare(a.Node, b.Node) })
	for i, e := range s.Evidence {
		in.Evidence = append(in.Evidence, evidence{i.Node, i.BootID, e})
	}
	slices.SortFunc(in.Evidence, func(a, b evidence) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.BootID, b.BootID))
	})
	return in
}

// bare is a service without what no decision looks at.
func bare(s cluster.Service) cluster.Service {
	s.Env, s.Files, s.Command, s.Entrypoint, s.Labels, s.Tmpfs = nil, nil, nil, nil, nil, nil
	s.CapAdd, s.CapDrop, s.Health = nil, nil, nil
	return s
}

// Snapshot is the plan's input again.
func (in *Input) Snapshot() plan.Snapshot {
	st := &cluster.State{Revision: in.Revision, Meta: in.Meta}
	for _, v := range in.Nodes {
		v.Value.Revision = v.Revision
		st.Nodes = append(st.Nodes, v.Value)
	}
	for _, v := range in.Services {
		v.Value.Revision = v.Revision
		st.Services = append(st.Services, v.Value)
	}
	for _, v := range in.Instances {
		v.Value.Revision = v.Revision
		st.Instances = append(st.Instances, v.Value)
	}
	for _, v := range in.Statuses {
		v.Value.Revision = v.Revision
		st.Statuses = append(st.Statuses, v.Value)
	}
	s := plan.Snapshot{
		State: st, Now: in.Now, Ended: map[string]time.Duration{}, Ran: map[string]time.Duration{}, Silent: map[string]string{},
		Evidence: map[plan.Incarnation]takeover.Evidence{},
	}
	for _, e := range in.Ran {
		s.Ran[e.ID] = e.At
	}
	for _, e := range in.Ended {
		s.Ended[e.ID] = e.At
	}
	for _, v := range in.Silent {
		s.Silent[v.Node] = v.Why
	}
	for _, e := range in.Evidence {
		s.Evidence[plan.Incarnation{Node: e.Node, BootID: e.BootID}] = e.Evidence
	}
	return s
}

// New makes the record of a decision; n tells decisions of one input revision apart.
func New(d node.Decided, n int) (Record, error) {
	r := Record{
		Version: Version, ID: fmt.Sprintf("%d.%d", d.Snapshot.State.Revision, n), Time: d.Wall.UTC(), Node: d.Coordinator,
		Kind: KindPlan, Revision: d.Snapshot.State.Revision,
	}
	in := NewInput(d.Snapshot)
	if len(d.Losses) > 0 {
		r.Kind = KindLoss
		in.Self, in.Heard, in.JoinPatience = d.Coordinator, d.Heard, d.JoinPatience
		for _, l := range d.Losses {
			r.Actions = append(r.Actions, loss(l.Name, l.Reason))
		}
	} else {
		r.Actions, r.Pending = actions(d.Snapshot.State, d.Decision), pending(d.Decision)
	}
	data, err := json.Marshal(in)
	if err != nil {
		return r, fmt.Errorf("record of decision %s: %w", r.ID, err)
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		return r, err
	}
	if _, err = w.Write(data); err == nil {
		err = w.Close()
	}
	if err != nil {
		return r, fmt.Errorf("record of decision %s: %w", r.ID, err)
	}
	if packed.Len() < MaxRecord/2 {
		r.Input = packed.Bytes()
	}
	return r, nil
}

func loss(name, why string) Action {
	return Action{Kind: "lost", Subject: name, Text: name + " is lost", Reason: why}
}

var kinds = map[plan.Kind]string{
	plan.Takeover: "takeover", plan.Replace: "replace", plan.Claim: "claim", plan.Stop: "stop", plan.Remove: "remove", plan.Drained: "drained", plan.Updated: "updated",
}

func actions(st *cluster.State, d plan.Decision) []Action {
	var out []Action
	for _, a := range d.Actions {
		r := Action{Kind: kinds[a.Kind], Subject: a.Subject, Reason: a.Reason, Conditions: a.Txn.Conditions}
		for _, e := range a.Txn.Events {
			r.Text = e.Text
		}
		for _, p := range a.Txn.Puts {
			if in, ok := p.Value.(cluster.Instance); ok {
				r.Node, r.After = in.Node, in.After
				for i := range st.Instances {
					if old := &st.Instances[i]; old.SlotKey() == in.SlotKey() && old.ID != in.ID {
						r.From = old.Node
					}
				}
			}
		}
		out = append(out, r)
	}
	return out
}

func pending(d plan.Decision) []string {
	var out []string
	for _, p := range d.Pending {
		out = append(out, p.String())
	}
	return out
}

// ErrNoInput: the input was too large to be kept.
var ErrNoInput = errors.New("the input of this decision was too large to be kept: it can be read, but not decided again")

// Decode reads a record as stored.
func Decode(data []byte) (Record, error) {
	var r Record
	if len(data) > MaxRecord {
		return r, fmt.Errorf("stored decision: %d bytes, at most %d are read", len(data), MaxRecord)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("stored decision: %w", err)
	}
	if r.Version != Version {
		return r, fmt.Errorf("stored decision %q has version %d, this program reads %d: ask with the program of that time", r.ID, r.Version, Version)
	}
	return r, nil
}

// Open unpacks a record's input.
func (r *Record) Open() (*Input, error) {
	if len(r.Input) == 0 {
		return nil, ErrNoInput
	}
	data, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(r.Input)), maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("input of decision %s: %w", r.ID, err)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("input of decision %s: more than %d bytes", r.ID, maxInput)
	}
	var in Input
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("input of decision %s: %w", r.ID, err)
	}
	if err := in.valid(); err != nil {
		return nil, fmt.Errorf("input of decision %s: %w", r.ID, err)
	}
	return &in, nil
}

// valid refuses an input that no ledger ever had and that would keep the planner busy for ever.
func (in *Input) valid() error {
	const most = 10_000 // slots of one service
	for _, s := range in.Services {
		if s.Value.Replicas > most {
			return fmt.Errorf("service %s wants %d replicas, at most %d are believed", s.Value.FullName(), s.Value.Replicas, most)
		}
	}
	return nil
}
