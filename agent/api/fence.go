package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
)

// BMCRequest sets a node's power controller. The password goes to the ledger's secrets and never comes back.
type BMCRequest struct {
	cluster.BMC
	Password string `json:"password"`
	// Ahead allows a node that has not joined yet.
	Ahead bool `json:"ahead,omitempty"`
}

// BMCTest is what one way to a power controller answered to reading the power.
type BMCTest struct {
	Node    string `json:"node"`
	From    string `json:"from"` // the node that asked
	Address string `json:"address"`
	Power   string `json:"power,omitempty"` // on or off
	TookMS  int64  `json:"took_ms"`
	Error   string `json:"error,omitempty"`
}

// FenceStatus is which rungs of the ladder can prove a node's end, and the last use of them.
type FenceStatus struct {
	Node   string            `json:"node"`
	State  cluster.NodeState `json:"state"`
	BootID string            `json:"boot_id"`
	Levels []string          `json:"levels"`
	Last   *cluster.Fence    `json:"last,omitempty"` // of any boot: see its boot_id
	// Watchdog is what PID 1 found in this boot, bound or not; Policy the operator's choice for it.
	Watchdog *cluster.Watchdog       `json:"watchdog,omitempty"`
	Policy   *cluster.WatchdogPolicy `json:"watchdog_policy,omitempty"`
}

// testWithin bounds one reading for an operator, who may wait longer than fencing does.
const testWithin = 10 * time.Second

func (s *Server) setBMC(w http.ResponseWriter, r *http.Request) error {
	var req BMCRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("power controller: the request is not readable") // the decoder's error may quote it
	}
	b := req.BMC
	b.Node = r.PathValue("name")
	st := s.backend.State()
	if !validName.MatchString(b.Node) || st.Node(b.Node) == nil && !req.Ahead {
		return notFound("there is no node %q; 'skein node ls' lists them, --ahead sets one that has not joined yet", b.Node)
	}
	if err := fence.Check(&b); err != nil {
		return badRequest("power controller of %s: %w", b.Node, err)
	}
	if other, addr := sameController(st, &b); other != "" {
		return conflict("power controller of %s: %s is that of %s; with --system a service that manages several machines tells them apart", b.Node, addr, other)
	}
	_, who := s.role(r)
	var revision int64
	if old := st.BMC(b.Node); old != nil {
		revision = old.Revision
	}
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: b.Key(), Revision: revision}},
		Puts: []cluster.Put{{Key: b.Key(), Value: b},
			{Key: cluster.KeySecrets + cluster.BMCSecret(b.Node), Value: []byte(req.Password)}},
		Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventFence, Subject: b.Node,
			Text: "the power controller of " + b.Node + " was set", Why: "asked by operator " + who}},
	}
	if err := s.commit(r, t, "set the power controller of "+b.Node); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, b)
	return nil
}

// sameController finds another node with the same power controller: one of the two would be proven off by the
// power of the other.
func sameController(st *cluster.State, b *cluster.BMC) (node, address string) {
	for i := range st.BMCs {
		o := &st.BMCs[i]
		// One that names no system manages one only.
		if o.Node == b.Node || o.System != b.System && o.System != "" && b.System != "" {
			continue
		}
		for _, a := range b.Addresses {
			if slices.Contains(o.Addresses, a) {
				return o.Node, a
			}
		}
	}
	return "", ""
}

func (s *Server) bmc(r *http.Request) (*cluster.BMC, error) {
	name := r.PathValue("name")
	if b := s.backend.State().BMC(name); b != nil {
		return b, nil
	}
	return nil, notFound("node %q has no power controller; 'skein node bmc set %s' gives it one", name, name)
}

func (s *Server) showBMC(w http.ResponseWriter, r *http.Request) error {
	b, err := s.bmc(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, b)
	return nil
}

func (s *Server) removeBMC(w http.ResponseWriter, r *http.Request) error {
	b, err := s.bmc(r)
	if err != nil {
		return err
	}
	_, who := s.role(r)
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: b.Key(), Revision: b.Revision}},
		Deletes:    []string{b.Key(), cluster.KeySecrets + cluster.BMCSecret(b.Node)},
		Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventFence, Subject: b.Node,
			Text: "the power controller of " + b.Node + " was removed: nothing can switch it off any more", Why: "asked by operator " + who}},
	}
	if err := s.commit(r, t, "remove the power controller of "+b.Node); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, b)
	return nil
}

// testBMC reads the power by each way, and changes nothing.
func (s *Server) testBMC(w http.ResponseWriter, r *http.Request) error {
	b, err := s.bmc(r)
	if err != nil {
		return err
	}
	out := make([]BMCTest, len(b.Addresses))
	var wg sync.WaitGroup
	for i, a := range b.Addresses {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(r.Context(), testWithin)
			defer cancel()
			began := time.Now()
			p, err := s.backend.ReadPower(ctx, b.Node, i)
			out[i] = BMCTest{Node: b.Node, From: s.backend.Self(), Address: a, Power: p, TookMS: time.Since(began).Milliseconds()}
			if err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	writeJSON(w, http.StatusOK, out)
	return nil
}

// fences tells what can prove each node's end.
func (s *Server) fences(w http.ResponseWriter, _ *http.Request) error {
	st := s.backend.State()
	out := make([]FenceStatus, 0, len(st.Nodes))
	for i := range st.Nodes {
		n := &st.Nodes[i]
		f := FenceStatus{Node: n.Name, State: n.State, BootID: n.BootID, Levels: []string{"L1 lease"}, Last: st.Fence(n.Name),
			Watchdog: n.Watchdog, Policy: st.Watchdog(n.Name)}
		if b := st.BMC(n.Name); b != nil {
			f.Levels = append(f.Levels, string(cluster.FencePower)+" "+string(b.Driver))
		}
		if l := watchdogLevel(st, n); l != "" {
			f.Levels = append(f.Levels, l)
		}
		f.Levels = append(f.Levels, string(cluster.FenceOperator)+" operator")
		out = append(out, f)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// confirmOff takes an operator's word that a lost node is off (L4). It is refused for a node that is not
// lost, or that this node hears.
func (s *Server) confirmOff(w http.ResponseWriter, r *http.Request) error {
	n, err := s.node(r)
	if err != nil {
		return err
	}
	if n.State != cluster.NodeLost {
		return conflict("node %s is %s, not lost: only the end of a lost node is confirmed", n.Name, n.State)
	}
	switch heard := s.backend.Observe().Heard; {
	case heard == nil:
		return &statusError{http.StatusServiceUnavailable, fmt.Errorf("%s does not know at the moment whether %s is heard; try again", s.backend.Self(), n.Name)}
	case heard[n.Name]:
		return conflict("the heartbeats of node %s are heard in boot %.8s: it is not off", n.Name, n.BootID)
	}
	st := s.backend.State()
	if f := st.Fence(n.Name); f != nil && f.BootID == n.BootID && f.State == cluster.FenceOff {
		writeJSON(w, http.StatusOK, f) // it is proven already
		return nil
	}
	_, who := s.role(r)
	rec, cond := cluster.Confirmation(st, n, who, time.Now())
	t := cluster.Txn{
		Conditions: cond,
		Puts:       []cluster.Put{{Key: rec.Key(), Value: rec}},
		Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventFence, Subject: n.Name,
			Text: n.Name + " is off, by the word of operator " + who + " (L4)", Why: "'skein fence confirm', asked by operator " + who}},
	}
	if err := s.commit(r, t, "confirm that "+n.Name+" is off"); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, rec)
	return nil
}

// SetBMC sets the power controller of a node.
func (c *Client) SetBMC(ctx context.Context, req BMCRequest) (cluster.BMC, error) {
	var out cluster.BMC
	return out, c.get(ctx, http.MethodPut, "/v1/nodes/"+url.PathEscape(req.Node)+"/bmc", nil, req, &out)
}

// BMC asks for a node's power controller; its password does not come with it.
func (c *Client) BMC(ctx context.Context, node string) (cluster.BMC, error) {
	var out cluster.BMC
	return out, c.get(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(node)+"/bmc", nil, nil, &out)
}

// RemoveBMC forgets a node's power controller.
func (c *Client) RemoveBMC(ctx context.Context, node string) error {
	return c.get(ctx, http.MethodDelete, "/v1/nodes/"+url.PathEscape(node)+"/bmc", nil, nil, nil)
}

// TestBMC has the power of a node read by each way.
func (c *Client) TestBMC(ctx context.Context, node string) ([]BMCTest, error) {
	var out []BMCTest
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/bmc/test", nil, struct{}{}, &out)
}

// Fences asks what can prove each node's end.
func (c *Client) Fences(ctx context.Context) ([]FenceStatus, error) {
	var out []FenceStatus
	return out, c.get(ctx, http.MethodGet, "/v1/fences", nil, nil, &out)
}

// ConfirmOff gives the operator's word that a lost node is off.
func (c *Client) ConfirmOff(ctx context.Context, node string) (cluster.Fence, error) {
	var out cluster.Fence
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/confirm-off", nil, struct{}{}, &out)
}
