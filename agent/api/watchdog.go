package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/watchdog"
)

// WatchdogRequest is an operator's choice whether a node is reset when it loses the majority.
type WatchdogRequest struct {
	On         bool `json:"on"`
	SoftdogToo bool `json:"softdog_too,omitempty"`
}

// setWatchdog stores the choice; the node follows it by itself.
func (s *Server) setWatchdog(w http.ResponseWriter, r *http.Request) error {
	n, err := s.node(r)
	if err != nil {
		return err
	}
	var req WatchdogRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&req); err != nil {
		return badRequest("watchdog of %s: %w", n.Name, err)
	}
	p := cluster.WatchdogPolicy{Node: n.Name, On: req.On, SoftdogToo: req.On && req.SoftdogToo}
	if d := n.Watchdog; req.On {
		switch {
		case d == nil:
			return conflict("no watchdog was found in %s (boot %.8s): nothing would reset it", n.Name, n.BootID)
		case !p.Binds(d):
			return conflict("the watchdog of %s is %s, a timer of its kernel: a kernel that hangs is not reset by it; --softdog-too takes it for proof all the same", n.Name, d.Identity)
		}
	}
	var revision int64
	if old := s.backend.State().Watchdog(n.Name); old != nil {
		revision = old.Revision
	}
	text := "the watchdog of " + n.Name + " is not bound to the majority: no loss of it resets the machine, and it proves nothing"
	if req.On {
		text = fmt.Sprintf("the watchdog of %s (%s, %v) may be bound: while it runs services whose safety is power, it is reset when no majority has heard it for %v",
			n.Name, n.Watchdog.Identity, n.Watchdog.Timeout, watchdog.Lease(n.Watchdog.Timeout))
	}
	_, who := s.role(r)
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: p.Key(), Revision: revision}},
		Puts:       []cluster.Put{{Key: p.Key(), Value: p}},
		Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventFence, Subject: n.Name,
			Text: text, Why: "'skein fence watchdog', asked by operator " + who}},
	}
	if err := s.commit(r, t, "set the watchdog of "+n.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}

// watchdogLevel is what the watchdog of a node is worth as a rung of the ladder, empty if nothing.
func watchdogLevel(st *cluster.State, n *cluster.Node) string {
	switch d := n.Watchdog; {
	case d == nil:
		return ""
	case d.Bound > 0:
		return fmt.Sprintf("%s %s (bound, proof after %v)", cluster.FenceWatchdog, d.Identity, n.ResetAfter().Round(time.Second))
	case st.Watchdog(n.Name).Binds(d):
		return fmt.Sprintf("%s %s (on, nothing needs it)", cluster.FenceWatchdog, d.Identity)
	default:
		return ""
	}
}

// SetWatchdog says whether a node's watchdog is bound to the majority.
func (c *Client) SetWatchdog(ctx context.Context, node string, req WatchdogRequest) (cluster.WatchdogPolicy, error) {
	var out cluster.WatchdogPolicy
	return out, c.get(ctx, http.MethodPut, "/v1/nodes/"+url.PathEscape(node)+"/watchdog", nil, req, &out)
}
