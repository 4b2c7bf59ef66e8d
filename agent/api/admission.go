package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/cluster"
)

// Door is what knows the machines that ask this node to be admitted.
type Door interface {
	http.Handler
	Applicants(context.Context) ([]cluster.Applicant, error)
}

// Pending is what waits for an operator, and what an operator has decided that was not used yet.
type Pending struct {
	Applicants []cluster.Applicant `json:"applicants"`
	Verdicts   []cluster.Verdict   `json:"verdicts"`
	// Unasked are nodes that did not tell who waits at them, and why.
	Unasked []string `json:"unasked,omitempty"`
}

// Decision is an operator's, about one machine.
type Decision struct {
	Machine string `json:"machine"`        // its code, or its name if only one waits by that name
	Approve bool   `json:"approve"`        //
	Name    string `json:"name,omitempty"` // what to call the node
}

func (s *Server) admissionRoutes(door http.Handler, reader, operator []string) {
	s.mux.Handle("POST "+admission.AskPath, door)
	s.handle("GET /v1/pending", reader, func(w http.ResponseWriter, r *http.Request) error {
		p, err := s.pending(r, door)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, p)
		return nil
	})
	s.handle("POST /v1/pending", operator, func(w http.ResponseWriter, r *http.Request) error { return s.decide(w, r, door) })
	s.handle("GET /v1/allowed", reader, func(w http.ResponseWriter, _ *http.Request) error {
		list := []cluster.Allowance{}
		if a := s.backend.State().Admission; a != nil {
			list = append(list, a.Allowed...)
		}
		writeJSON(w, http.StatusOK, list)
		return nil
	})
	s.handle("PUT /v1/allowed/{kind}/{value}", operator, s.allow)
	s.handle("DELETE /v1/allowed/{kind}/{value}", operator, s.disallow)
}

// mostPending bounds one node's answer, bytes.
const mostPending = 4 << 20

// pending asks all members: a machine asks one of them.
func (s *Server) pending(r *http.Request, door http.Handler) (*Pending, error) {
	out := &Pending{Applicants: []cluster.Applicant{}, Verdicts: []cluster.Verdict{}}
	st := s.backend.State()
	if st.Admission != nil {
		out.Verdicts = append(out.Verdicts, st.Admission.Verdicts...)
	}
	if d, ok := door.(Door); ok {
		list, err := d.Applicants(r.Context())
		if err != nil {
			return nil, err
		}
		out.Applicants = append(out.Applicants, list...)
	}
	if r.Header.Get(ForwardedHeader) != "" {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.Name == s.backend.Self() || n.State == cluster.NodeLost {
			continue
		}
		wg.Go(func() {
			list, err := s.pendingAt(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Unasked = append(out.Unasked, fmt.Sprintf("%s: %v", n.Name, err))
			}
			out.Applicants = append(out.Applicants, list...)
		})
	}
	wg.Wait()
	// A machine that changed the member it asks is known to two for a while: the longer wait is the true one.
	slices.SortFunc(out.Applicants, func(a, b cluster.Applicant) int { return int((b.Waiting - a.Waiting) / time.Millisecond) })
	seen := map[string]bool{}
	out.Applicants = slices.DeleteFunc(out.Applicants, func(a cluster.Applicant) bool {
		again := seen[a.Code]
		seen[a.Code] = true
		return again
	})
	slices.Sort(out.Unasked)
	return out, nil
}

func (s *Server) pendingAt(ctx context.Context, n *cluster.Node) ([]cluster.Applicant, error) {
	transport, base := s.backend.Peer(n)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/pending", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(ForwardedHeader, s.backend.Self())
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s", resp.Status)
	}
	var p Pending
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, mostPending)).Decode(&p); err != nil {
		return nil, fmt.Errorf("answer is not readable: %w", err)
	}
	return p.Applicants, nil
}

// decide writes an operator's verdict. A code is enough, whether the machine is known to wait or not: a flood of
// other requests cannot hide it.
func (s *Server) decide(w http.ResponseWriter, r *http.Request, door http.Handler) error {
	var d Decision
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&d); err != nil {
		return badRequest("decision is not readable: %w", err)
	}
	p, err := s.pending(r, door)
	if err != nil {
		return err
	}
	who, err := findApplicant(p.Applicants, d.Machine)
	if err != nil {
		return err
	}
	if d.Name != "" && !validNodeName(d.Name) {
		return badRequest("name %q must be lower-case letters, digits and dashes, at most 63", d.Name)
	}
	_, by := s.role(r)
	v := cluster.Verdict{Code: who.Code, Approved: d.Approve, Name: d.Name, By: by, At: time.Now().UTC()}
	what, subject := "denied", who.Name
	if d.Approve {
		what = "approved"
	}
	if subject == "" {
		subject = who.Code
	}
	e := cluster.Event{Kind: cluster.EventNode, Subject: subject, Text: fmt.Sprintf("the machine with the code %s was %s", who.Code, what)}
	if d.Approve && d.Name != "" {
		e.Text += ", to be node " + d.Name
	}
	err = s.changeAdmission(r, what+" "+who.Code, e, func(a *cluster.Admission) (cluster.Admission, error) {
		if old := a.Verdict(v.Code); old == nil && a != nil && len(a.Verdicts) >= cluster.MaxVerdicts {
			return *a, conflict("%d decisions wait for their machines: take some back first with 'skein node deny CODE'", len(a.Verdicts))
		}
		return a.With(v), nil
	})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, who)
	return nil
}

func findApplicant(list []cluster.Applicant, machine string) (*cluster.Applicant, error) {
	code, isCode := admission.ParseCode(machine)
	var named []*cluster.Applicant
	for i := range list {
		switch a := &list[i]; {
		case isCode && a.Code == code:
			return a, nil
		case a.Name == machine:
			named = append(named, a)
		}
	}
	switch {
	case len(named) == 1:
		return named[0], nil
	case len(named) > 1:
		return nil, conflict("%d machines ask to be %s: say which one by the code on its console", len(named), machine)
	case isCode:
		return &cluster.Applicant{Code: code}, nil
	}
	return nil, notFound("no machine called %q waits; 'skein node pending' lists them", machine)
}

// changeAdmission changes the record of decisions, again if somebody else did at the same moment.
func (s *Server) changeAdmission(r *http.Request, what string, e cluster.Event, change func(*cluster.Admission) (cluster.Admission, error)) error {
	_, who := s.role(r)
	e.Time, e.Node, e.Why = time.Now(), s.backend.Self(), "asked by operator "+who
	for deadline := time.Now().Add(3 * time.Second); ; {
		old := s.backend.State().Admission
		next, err := change(old)
		if err != nil {
			return err
		}
		t := cluster.Txn{Conditions: []cluster.Condition{{Key: cluster.KeyAdmission}}, Puts: []cluster.Put{{Key: cluster.KeyAdmission, Value: next}}, Events: []cluster.Event{e}}
		if old != nil {
			t.Conditions[0].Revision = old.Revision
		}
		ok, err := s.backend.Commit(r.Context(), t)
		if err != nil {
			return &statusError{http.StatusServiceUnavailable, fmt.Errorf("%s: the ledger did not take it: %w", what, err)}
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return conflict("%s: somebody else decides about machines all the time; nothing was done, try again", what)
		}
		select { // until the copy here shows the other change
		case <-r.Context().Done():
			return r.Context().Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func allowance(r *http.Request) (cluster.Allowance, error) {
	a := cluster.Allowance{Kind: r.PathValue("kind"), Value: strings.TrimSpace(r.PathValue("value"))}
	switch a.Kind {
	case cluster.AllowMAC:
		mac, err := net.ParseMAC(a.Value)
		if err != nil {
			return a, badRequest("%q is not a MAC address such as 52:54:00:12:34:56", a.Value)
		}
		a.Value = mac.String()
	case cluster.AllowUUID:
		a.Value = strings.ToLower(a.Value)
		if len(a.Value) != 36 {
			return a, badRequest("%q is not a UUID as the machine's firmware has it, 36 characters", a.Value)
		}
	case cluster.AllowSerial:
		if a.Value == "" || len(a.Value) > 64 || printable(a.Value) != a.Value {
			return a, badRequest("serial number %q must be 1 to 64 printable characters", a.Value)
		}
	default:
		return a, badRequest("%q: machines are listed by mac, serial or uuid", a.Kind)
	}
	return a, nil
}

func (s *Server) allow(w http.ResponseWriter, r *http.Request) error {
	a, err := allowance(r)
	if err != nil {
		return err
	}
	_, a.By = s.role(r)
	a.At = time.Now().UTC()
	err = s.changeAdmission(r, "allow "+a.Value, cluster.Event{Kind: cluster.EventNode, Subject: a.Value,
		Text: fmt.Sprintf("machines that say they have the %s %s are admitted without being asked about", a.Kind, a.Value)},
		func(old *cluster.Admission) (cluster.Admission, error) {
			next := old.Without("") // a copy
			next.Allowed = slices.DeleteFunc(slices.Clone(next.Allowed), func(o cluster.Allowance) bool { return o.Kind == a.Kind && o.Value == a.Value })
			if len(next.Allowed) >= cluster.MaxAllowances {
				return next, conflict("the list has %d entries, its most", len(next.Allowed))
			}
			next.Allowed = append(next.Allowed, a)
			return next, nil
		})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, a)
	return nil
}

func (s *Server) disallow(w http.ResponseWriter, r *http.Request) error {
	a, err := allowance(r)
	if err != nil {
		return err
	}
	err = s.changeAdmission(r, "take "+a.Value+" from the list", cluster.Event{Kind: cluster.EventNode, Subject: a.Value,
		Text: fmt.Sprintf("machines that say they have the %s %s need an operator's approval again", a.Kind, a.Value)},
		func(old *cluster.Admission) (cluster.Admission, error) {
			next := old.Without("")
			next.Allowed = slices.DeleteFunc(slices.Clone(next.Allowed), func(o cluster.Allowance) bool { return o.Kind == a.Kind && o.Value == a.Value })
			if old == nil || len(next.Allowed) == len(old.Allowed) {
				return next, notFound("%s %s is not on the list; 'skein node allow ls' shows it", a.Kind, a.Value)
			}
			return next, nil
		})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, a)
	return nil
}

func validNodeName(s string) bool {
	return len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && !strings.HasPrefix(s, "-") && !strings.HasSuffix(s, "-")
}

// Pending asks for the machines that wait.
func (c *Client) Pending(ctx context.Context) (p Pending, err error) {
	err = c.get(ctx, http.MethodGet, "/v1/pending", nil, nil, &p)
	return p, err
}

// Decide approves or denies a machine. The answer has a code only if no machine is known to wait with it.
func (c *Client) Decide(ctx context.Context, d Decision) (a cluster.Applicant, err error) {
	err = c.get(ctx, http.MethodPost, "/v1/pending", nil, d, &a)
	return a, err
}

// Allowed is the list of machines that are admitted without being asked about.
func (c *Client) Allowed(ctx context.Context) (list []cluster.Allowance, err error) {
	err = c.get(ctx, http.MethodGet, "/v1/allowed", nil, nil, &list)
	return list, err
}

// Allow puts a machine on that list, or takes it off.
func (c *Client) Allow(ctx context.Context, kind, value string, on bool) error {
	method := http.MethodPut
	if !on {
		method = http.MethodDelete
	}
	return c.get(ctx, method, "/v1/allowed/"+url.PathEscape(kind)+"/"+url.PathEscape(value), nil, nil, nil)
}
