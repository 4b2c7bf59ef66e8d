package replay

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/plan"
)

// Replay decides again, with the code of today, and tells what differs from what was decided then: nothing
// if it decides the same.
func Replay(r Record) (again Record, diff []string, err error) {
	in, err := r.Open()
	if err != nil {
		return r, nil, err
	}
	again = r
	again.Actions, again.Pending = nil, nil
	s := in.Snapshot()
	switch r.Kind {
	case KindLoss:
		lost := node.Losses(s.Now, in.Self, s.State, in.Heard, in.JoinPatience)
		// One that was being written already at that time is given up again here; it was no part of the
		// record.
		for _, a := range r.Actions {
			if why, ok := lost[a.Subject]; ok {
				again.Actions = append(again.Actions, loss(a.Subject, why))
			}
		}
	case KindPlan:
		d := plan.Plan(s)
		again.Actions, again.Pending = actions(s.State, d), pending(d)
	default:
		return r, nil, fmt.Errorf("decision %s is of unknown kind %q", r.ID, r.Kind)
	}
	return again, compare(r, again), nil
}

// Considered are the nodes that were looked at for the slot in a plan, nil if the plan placed it nowhere.
func Considered(r Record, slot string) []plan.Candidate {
	in, err := r.Open()
	if err != nil || r.Kind != KindPlan {
		return nil
	}
	s := in.Snapshot()
	s.Trace = true
	for _, a := range plan.Plan(s).Actions {
		if a.Subject == slot && a.Considered != nil {
			return a.Considered
		}
	}
	return nil
}

func compare(then, now Record) []string {
	var out []string
	left := map[string]Action{}
	for _, a := range now.Actions {
		left[a.Kind+" "+a.Subject] = a
	}
	for i, a := range then.Actions {
		key := a.Kind + " " + a.Subject
		b, ok := left[key]
		delete(left, key)
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("then: %s; now: nothing of the kind", a))
		case encode(a) != encode(b):
			out = append(out, fmt.Sprintf("then: %s; now: %s", a, b))
		case i >= len(now.Actions) || encode(now.Actions[i]) != encode(a):
			out = append(out, fmt.Sprintf("%s: the same, but in another order", a))
		}
	}
	for _, a := range now.Actions {
		if _, ok := left[a.Kind+" "+a.Subject]; ok {
			out = append(out, fmt.Sprintf("now in addition: %s", a))
		}
	}
	if !slices.Equal(then.Pending, now.Pending) {
		out = append(out, fmt.Sprintf("what could not be done, then: %q; now: %q", then.Pending, now.Pending))
	}
	return out
}

func encode(a Action) string {
	data, err := json.Marshal(a)
	if err != nil {
		panic(err) // plain data
	}
	return string(data)
}

func (a Action) String() string { return cmp.Or(a.Text, a.Kind+" "+a.Subject) + " (" + a.Reason + ")" }

// Compare orders ids: by revision of the input, then by number.
func Compare(a, b string) int {
	ra, na := parts(a)
	rb, nb := parts(b)
	return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(na, nb), cmp.Compare(a, b))
}

func parts(id string) (revision, n int64) {
	r, s, _ := strings.Cut(id, ".")
	revision, _ = strconv.ParseInt(r, 10, 64) // 0: no id of ours
	n, _ = strconv.ParseInt(s, 10, 64)
	return revision, n
}
