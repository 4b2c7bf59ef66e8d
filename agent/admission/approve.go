package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// AskPath is where a member's API takes requests of machines that have no token.
const AskPath = "/v1/ask"

// What a machine that asks is told.
const (
	stateWaiting  = "waiting"
	stateDenied   = "denied"
	stateAdmitted = "admitted"
)

// askAnswer needs no proof: the member has shown a certificate of the CA that the machine knows.
type askAnswer struct {
	State  string  `json:"state"`
	Member string  `json:"member"`
	Reason string  `json:"reason,omitempty"`
	Answer *answer `json:"answer,omitempty"`
	Token  []byte  `json:"token,omitempty"` // as every member has it: it calls out and admits with it
}

// grant is why a machine is admitted, and what is used up by that.
type grant struct {
	why string
	// used, if not nil, replaces the record of what operators decided, which must be at revision still.
	used     *cluster.Admission
	revision int64
}

var tokenGrant = grant{why: "it proved the join token"}

// serveAsk answers a machine that has no token: it waits, is denied, or is admitted.
func (s *Server) serveAsk(w http.ResponseWriter, r *http.Request) (reply []byte, subject string, err error) {
	ch, err := channel(r.TLS)
	if err != nil {
		return nil, "", refuse(http.StatusBadRequest, "%w", err)
	}
	env, err := s.readEnvelope(w, r)
	if err != nil {
		return nil, "", err
	}
	req, err := parseRequest(env.Body)
	if err != nil {
		return nil, "", refuse(http.StatusBadRequest, "%w", err)
	}
	if req.Role != RoleNode {
		return nil, req.Name, refuse(http.StatusForbidden, "only machines may ask without a token")
	}
	csr, err := pki.ParseCSR(req.CSR)
	if err != nil {
		return nil, req.Name, refuse(http.StatusBadRequest, "%w", err)
	}
	if err := verifyAsk(csr.PublicKey, ch, env.Body, env.Proof); err != nil {
		return nil, req.Name, refuse(http.StatusUnauthorized, "%w", err)
	}
	if req.key, err = pki.KeyHash(csr.PublicKey); err != nil {
		return nil, req.Name, err
	}
	if _, _, stranded := s.stranded(); stranded {
		return nil, req.Name, errors.New("this member cannot admit now: the ledger has lost its majority")
	}
	ans, err := s.consider(r.Context(), r.RemoteAddr, req)
	if err != nil {
		return nil, req.Name, err
	}
	reply, err = json.Marshal(ans)
	return reply, req.Name, err
}

// consider decides on a machine that has shown that it has its key.
func (s *Server) consider(ctx context.Context, from string, req *Request) (*askAnswer, error) {
	caPEM, err := s.ledger.Secret(ctx, secretCACert)
	if err != nil {
		return nil, fmt.Errorf("this member cannot admit now: %w", err)
	}
	caHash, err := certHash(caPEM)
	if err != nil {
		return nil, err
	}
	st, err := s.ledger.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("this member cannot admit now: %w", err)
	}
	host, _, err := net.SplitHostPort(from)
	if err != nil {
		host = from
	}
	me := cluster.Applicant{Name: req.Name, MachineID: req.MachineID, BootID: req.BootID, Serial: req.Serial, Model: req.Model,
		Links: req.Links, From: addrOf(host), Member: s.node}
	g, denied, err := s.granted(st, caHash, req, &me)
	switch {
	case err != nil:
		return nil, err
	case denied != nil:
		s.mu.Lock()
		s.applicants.remove(req.key)
		s.mu.Unlock()
		return &askAnswer{State: stateDenied, Member: s.node, Reason: "denied by " + denied.By}, nil
	case g != nil:
		return s.let(ctx, req, *g)
	}
	me.Note = noteOn(st, req)
	s.mu.Lock()
	fresh, err := s.applicants.ask(sinceBoot(), req.key, me)
	tell := fresh && s.news.Allow()
	s.mu.Unlock()
	if err != nil {
		return nil, refuse(http.StatusTooManyRequests, "%w", err)
	}
	if tell {
		code := s.codeOf(caHash, req.key)
		e := cluster.Event{Time: s.now(), Node: s.node, Kind: cluster.EventNode, Subject: req.Name,
			Text: fmt.Sprintf("a machine at %s asks to join as %s, with the code %s", host, req.Name, code),
			Why:  fmt.Sprintf("it has no token; compare the code with its console: 'skein node approve %s'", code)}
		if _, _, err := s.ledger.Commit(ctx, cluster.Txn{Events: []cluster.Event{e}}); err != nil {
			s.log.Warn("that a machine asks could not be recorded", "err", err)
		}
	}
	return &askAnswer{State: stateWaiting, Member: s.node}, nil
}

// granted tells whether a machine may come in: because it holds a node's key, because an operator has approved its
// code, or because it is on the list. Or that it was denied.
func (s *Server) granted(st *cluster.State, caHash string, req *Request, me *cluster.Applicant) (*grant, *cluster.Verdict, error) {
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.PublicKey != req.key {
			continue
		}
		if n.MachineID != req.MachineID {
			return nil, nil, refuse(http.StatusConflict, "this machine (id %s) has the key of node %s, which is another machine: its disk or memory was copied; give it a key of its own", req.MachineID, n.Name)
		}
		req.Name = n.Name // it may have been given that name
		return &grant{why: "it holds the key that node " + n.Name + " was approved with"}, nil, nil
	}
	// The code is of that key whoever says so: it costs too much to compute it for each request of a stranger.
	if a := st.Admission; a != nil && len(a.Verdicts) > 0 {
		if v := a.Verdict(s.codeOf(caHash, req.key)); v != nil {
			if !v.Approved {
				return nil, v, nil
			}
			if v.Name != "" {
				req.Name = v.Name
			}
			used := a.Without(v.Code)
			return &grant{why: fmt.Sprintf("approved by %s, by its code %s", v.By, v.Code), used: &used, revision: a.Revision}, nil, nil
		}
	}
	if w := st.Admission.Allows(req.MachineID, req.Serial, req.Links); w != nil {
		for i := range st.Nodes {
			if n := &st.Nodes[i]; n.State != cluster.NodeLost && n.MachineID != req.MachineID && w.Kind == cluster.AllowMAC &&
				(&cluster.Admission{Allowed: []cluster.Allowance{*w}}).Allows("", "", n.Links) != nil {
				return nil, nil, refuse(http.StatusConflict, "this machine (id %s) says that it has the %s %s, which is node %s: one of them is a copy, or a stranger", req.MachineID, w.Kind, w.Value, n.Name)
			}
		}
		return &grant{why: fmt.Sprintf("it says that it has the %s %s, which %s has allowed; that proves nothing", w.Kind, w.Value, w.By)}, nil, nil
	}
	return nil, nil, nil
}

// noteOn warns who is to approve.
func noteOn(st *cluster.State, req *Request) string {
	if n := st.Node(req.Name); n != nil {
		if n.MachineID == req.MachineID {
			return fmt.Sprintf("says that it is node %s, which is %s, with a new key", n.Name, n.State)
		}
		return fmt.Sprintf("the name %s is another machine's, which is %s", n.Name, n.State)
	}
	for i := range st.Nodes {
		if n := &st.Nodes[i]; n.MachineID == req.MachineID {
			return fmt.Sprintf("says that it is the machine of node %s, which is %s", n.Name, n.State)
		}
	}
	return ""
}

// let admits a machine, and gives it what it needs to be a member.
func (s *Server) let(ctx context.Context, req *Request, g grant) (*askAnswer, error) {
	var meta cluster.Meta
	if rev, err := s.ledger.Get(ctx, cluster.KeyMeta, &meta); err != nil || rev == 0 {
		return nil, fmt.Errorf("this member cannot admit now: the ledger has no cluster: %w", err)
	}
	req.Cluster = meta.Name // it does not know it, and the CA's fingerprint is the better name
	ans, err := s.admit(ctx, req, g)
	if err != nil {
		return nil, err
	}
	token, err := s.ledger.Secret(ctx, secretToken)
	if err != nil {
		return nil, fmt.Errorf("this member cannot admit now: %w", err)
	}
	s.mu.Lock()
	s.applicants.remove(req.key)
	s.mu.Unlock()
	return &askAnswer{State: stateAdmitted, Member: s.node, Answer: ans, Token: token}, nil
}

// codeOf computes a code once for each machine that waits here.
func (s *Server) codeOf(caHash, key string) string {
	s.mu.Lock()
	for i := range s.applicants.list {
		if w := &s.applicants.list[i]; w.key == key && w.Code != "" {
			s.mu.Unlock()
			return w.Code
		}
	}
	s.mu.Unlock()
	code := Code(caHash, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.applicants.list {
		if w := &s.applicants.list[i]; w.key == key {
			w.Code = code
		}
	}
	return code
}

// Applicants are the machines that wait for an operator, as this member knows them.
func (s *Server) Applicants(ctx context.Context) ([]cluster.Applicant, error) {
	caPEM, err := s.ledger.Secret(ctx, secretCACert)
	if err != nil {
		return nil, err
	}
	caHash, err := certHash(caPEM)
	if err != nil {
		return nil, err
	}
	now := sinceBoot()
	s.mu.Lock()
	s.applicants.forget(now)
	var keys []string
	for _, a := range s.applicants.list {
		keys = append(keys, a.key)
	}
	s.mu.Unlock()
	for _, k := range keys {
		s.codeOf(caHash, k)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []cluster.Applicant
	for _, a := range s.applicants.list {
		if a.Code != "" { // came meanwhile
			a.Waiting = (now - a.first).Round(time.Second)
			out = append(out, a.Applicant)
		}
	}
	return out, nil
}

func certHash(certPEM []byte) (string, error) {
	c, err := pki.ParseCert(certPEM)
	if err != nil {
		return "", fmt.Errorf("the cluster's CA: %w", err)
	}
	return pki.KeyHash(c.PublicKey)
}
