package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// ScaleRequest says how many instances a service should have.
type ScaleRequest struct {
	Replicas *int `json:"replicas"`
}

// UpdateStatus is how far the newest change of a service is.
type UpdateStatus struct {
	State   cluster.UpdateState `json:"state"`
	Done    int                 `json:"done"` // instances that run the newest specification
	Message string              `json:"message,omitempty"`
}

// maxReplicas is what a Compose file may ask for at most, too (package workload).
const maxReplicas = 10_000

func (s *Server) updateRoutes() {
	s.handle("PUT /v1/services/{stack}/{service}/replicas", s.scale)
	s.handle("POST /v1/services/{stack}/{service}/rollback", s.rollback)
}

// beginUpdate notes that a service changes, and what it was. If the change before that has not been completed, what was
// before it was the last that is known to run.
func beginUpdate(st *cluster.State, t *cluster.Txn, old *cluster.Service, hash string) {
	before := *old
	u := cluster.Update{Stack: old.Stack, Service: old.Name, State: cluster.UpdateRunning, Hash: hash, Before: &before, Began: time.Now().UTC()}
	var was int64
	if o := st.Update(old.Stack, old.Name); o != nil {
		was = o.Revision
		if o.Before != nil && o.Hash == old.Hash && o.State != cluster.UpdateCompleted && o.State != cluster.UpdateRolledBack {
			u.Before = o.Before
		}
	}
	t.Conditions = append(t.Conditions, cluster.Condition{Key: u.Key(), Revision: was})
	t.Puts = append(t.Puts, cluster.Put{Key: u.Key(), Value: u})
}

func (s *Server) service(r *http.Request) (*cluster.Service, error) {
	stack, name := r.PathValue("stack"), r.PathValue("service")
	st := s.backend.State()
	for i := range st.Services {
		if o := &st.Services[i]; o.Stack == stack && o.Name == name {
			return o, nil
		}
	}
	return nil, notFound("there is no service %s/%s; 'skein ls' lists them", stack, name)
}

func (s *Server) scale(w http.ResponseWriter, r *http.Request) error {
	svc, err := s.service(r)
	if err != nil {
		return err
	}
	var req ScaleRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		return badRequest("scale %s: %w", svc.FullName(), err)
	}
	switch {
	case req.Replicas == nil || *req.Replicas < 0 || *req.Replicas > maxReplicas:
		return badRequest("scale %s: replicas must be between 0 and %d", svc.FullName(), maxReplicas)
	case svc.Mode == cluster.ModeGlobal:
		return conflict("service %s is global: it has one instance on each node", svc.FullName())
	}
	next := *svc
	next.Replicas = *req.Replicas
	if err := next.CheckVolumes(); err != nil {
		return conflict("%w", err)
	}
	if next.Replicas != svc.Replicas {
		_, who := s.role(r)
		if err := s.commit(r, cluster.Txn{
			Conditions: []cluster.Condition{{Key: svc.Key(), Revision: svc.Revision}},
			Puts:       []cluster.Put{{Key: svc.Key(), Value: next}},
			Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventService, Subject: svc.FullName(),
				Text: fmt.Sprintf("should have %d instances instead of %d", next.Replicas, svc.Replicas), Why: "asked by operator " + who}},
		}, "scale "+svc.FullName()); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (s *Server) rollback(w http.ResponseWriter, r *http.Request) error {
	svc, err := s.service(r)
	if err != nil {
		return err
	}
	u := s.backend.State().Update(svc.Stack, svc.Name)
	if u == nil || u.Before == nil {
		return conflict("service %s has nothing to go back to", svc.FullName())
	}
	_, who := s.role(r)
	t := svc.GoBack(u, true, "asked by operator "+who)
	for i := range t.Events {
		t.Events[i].Node, t.Events[i].Time = s.backend.Self(), time.Now()
	}
	if err := s.commit(r, t, "roll "+svc.FullName()+" back"); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func updateStatus(st *cluster.State, svc *cluster.Service) *UpdateStatus {
	u := st.Update(svc.Stack, svc.Name)
	if u == nil {
		return nil
	}
	out := &UpdateStatus{State: u.State, Message: u.Message}
	for i := range st.Instances {
		in := &st.Instances[i]
		if in.Stack != svc.Stack || in.Service != svc.Name || in.Spec.Hash != svc.Hash || svc.Mode != cluster.ModeGlobal && in.Slot > svc.Replicas {
			continue
		}
		for j := range st.Statuses {
			if o := &st.Statuses[j]; o.ID == in.ID && (o.State == cluster.InstanceRunning || o.State == cluster.InstanceComplete) {
				out.Done++
			}
		}
	}
	return out
}

// Scale has a service have that many instances.
func (c *Client) Scale(ctx context.Context, stack, service string, replicas int) error {
	return c.get(ctx, http.MethodPut, "/v1/services/"+url.PathEscape(stack)+"/"+url.PathEscape(service)+"/replicas", nil, ScaleRequest{&replicas}, nil)
}

// Rollback has a service be what it was before its newest change.
func (c *Client) Rollback(ctx context.Context, stack, service string) error {
	return c.get(ctx, http.MethodPost, "/v1/services/"+url.PathEscape(stack)+"/"+url.PathEscape(service)+"/rollback", nil, struct{}{}, nil)
}
