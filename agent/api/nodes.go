package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

func (s *Server) drain(w http.ResponseWriter, r *http.Request) error {
	return s.setNodeState(w, r, cluster.NodeDraining, "drained by an operator", cluster.NodeOnline, cluster.NodeJoining)
}

func (s *Server) undrain(w http.ResponseWriter, r *http.Request) error {
	return s.setNodeState(w, r, cluster.NodeOnline, "", cluster.NodeDraining, cluster.NodeDrained)
}

func (s *Server) setNodeState(w http.ResponseWriter, r *http.Request, to cluster.NodeState, reason string, from ...cluster.NodeState) error {
	n, err := s.node(r)
	if err != nil {
		return err
	}
	if n.State == to || to == cluster.NodeDraining && n.State == cluster.NodeDrained {
		writeJSON(w, http.StatusOK, n)
		return nil
	}
	if !slices.Contains(from, n.State) {
		return conflict("node %s is %s", n.Name, n.State)
	}
	next := *n
	next.State, next.Reason = to, reason
	_, who := s.role(r)
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}},
		Puts:       []cluster.Put{{Key: n.Key(), Value: next}},
		Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventNode, Subject: n.Name,
			Text: string(n.State) + " -> " + string(to), Why: "asked by operator " + who}},
	}
	if err := s.commit(r, t, "change "+n.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, next)
	return nil
}

func (s *Server) node(r *http.Request) (*cluster.Node, error) {
	name := r.PathValue("name")
	n := s.backend.State().Node(name)
	if n == nil {
		return nil, notFound("there is no node %q; 'skein node ls' lists them", name)
	}
	return n, nil
}

// removeNode takes a node out of the cluster. It must have been drained or be lost: removing a node that
// owns services would leave them without proof that it stopped.
func (s *Server) removeNode(w http.ResponseWriter, r *http.Request) error {
	n, err := s.node(r)
	if err != nil {
		return err
	}
	if n.State != cluster.NodeDrained && n.State != cluster.NodeLost {
		return conflict("node %s is %s: drain it first with 'skein node drain %s'", n.Name, n.State, n.Name)
	}
	for _, in := range s.backend.State().Instances {
		if in.Node == n.Name {
			return conflict("node %s still owns %s: its services have not been taken over yet", n.Name, in.ID)
		}
	}
	if id := waitsForEnd(s.backend.State(), n); id != "" {
		return conflict("%s waits for proof that node %s is off, and its removal would count as that: if you know that it is off, say so first with 'skein fence confirm %[2]s'", id, n.Name)
	}
	st := s.backend.State()
	if rec := st.SharesWith(n.Name); rec != nil {
		return conflict("node %s is still a member of shared file system %s, and without proof that it writes no more its journal cannot be replayed: if you know that it is off, say so first with 'skein fence confirm %[1]s'", n.Name, rec.Name)
	}
	_, who := s.role(r)
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}},
		Deletes: []string{n.Key(), (&cluster.BMC{Node: n.Name}).Key(), cluster.KeySecrets + cluster.BMCSecret(n.Name),
			(&cluster.Fence{Node: n.Name}).Key()},
		Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventNode, Subject: n.Name,
			Text: "removed from the cluster", Why: "asked by operator " + who}},
	}
	for i := range st.Shared { // and it has not become one meanwhile
		rec := &st.Shared[i]
		t.Conditions = append(t.Conditions, cluster.Condition{Key: rec.Key(), Revision: rec.Revision})
		t.Deletes = append(t.Deletes, (&cluster.SharedReport{FileSystem: rec.Name, Node: n.Name}).Key())
	}
	if err := s.commit(r, t, "remove "+n.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, n)
	return nil
}

// waitsForEnd finds an instance that may not start before this boot of the node has certainly ended: its class
// is not content with the end of a lease, there is no proof yet, and it has reported nothing but that it waits.
func waitsForEnd(st *cluster.State, n *cluster.Node) string {
	if f := st.Fence(n.Name); f != nil && f.BootID == n.BootID && f.State == cluster.FenceOff {
		return ""
	}
	for i := range st.Instances {
		in := &st.Instances[i]
		if in.After == nil || in.After.Node != n.Name || in.After.BootID != n.BootID || in.Spec.Safety.LeaseGuards() {
			continue
		}
		if s := st.Status(in.ID); s == nil || s.State == cluster.InstancePending {
			return in.ID
		}
	}
	return ""
}

// restartAgent has a node's agent end, for its PID 1 to start a new one. Services go on.
func (s *Server) restartAgent(w http.ResponseWriter, r *http.Request) error {
	if err := s.onBehalf(r, "restart agents"); err != nil {
		return err
	}
	n, err := s.node(r)
	if err != nil {
		return err
	}
	if n.Name != s.backend.Self() {
		return s.forward(w, r, n)
	}
	s.record(r, cluster.Event{Kind: cluster.EventNode, Subject: n.Name, Text: "the agent of " + n.Name + " is restarted"})
	w.WriteHeader(http.StatusAccepted)
	s.backend.RestartAgent("asked by " + s.asker(r))
	return nil
}

func (s *Server) reboot(w http.ResponseWriter, r *http.Request) error {
	return s.leave(w, r, "is rebooted", s.backend.Reboot)
}

func (s *Server) powerOff(w http.ResponseWriter, r *http.Request) error {
	return s.leave(w, r, "is powered off", s.backend.PowerOff)
}

// leaveTime bounds the wait for the ledger before a boot is ended.
const leaveTime = time.Second

// leave ends this boot of a node in order. That it was asked for is in the ledger first, so that it does not
// count as a failure of the node; a ledger that does not take it does not keep the node up.
func (s *Server) leave(w http.ResponseWriter, r *http.Request, what string, stop func(reason string)) error {
	if err := s.onBehalf(r, "end the boot of a node"); err != nil {
		return err
	}
	n, err := s.node(r)
	if err != nil {
		return err
	}
	if n.Name != s.backend.Self() {
		return s.forward(w, r, n)
	}
	why := "asked by " + s.asker(r)
	ctx, cancel := context.WithTimeout(r.Context(), leaveTime)
	defer cancel()
	for ctx.Err() == nil {
		next := *n
		next.Leaving = &cluster.Leave{BootID: n.BootID, Why: why}
		ok, err := s.backend.Commit(ctx, cluster.Txn{
			Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}},
			Puts:       []cluster.Put{{Key: n.Key(), Value: next}},
			Events:     []cluster.Event{s.audit(r, cluster.Event{Kind: cluster.EventNode, Subject: n.Name, Text: n.Name + " " + what})},
		})
		if err != nil || ok {
			break
		}
		// Somebody else has written the record: the copy here shows it in a moment.
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		if n = s.backend.State().Node(n.Name); n == nil {
			break
		}
	}
	stop(why)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// release ends a node's quarantine.
func (s *Server) release(w http.ResponseWriter, r *http.Request) error {
	n, err := s.node(r)
	if err != nil {
		return err
	}
	if !n.Trouble.Quarantined() {
		return conflict("node %s is not in quarantine", n.Name)
	}
	next := *n
	next.Trouble = n.Trouble.Released()
	_, who := s.role(r)
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}},
		Puts:       []cluster.Put{{Key: n.Key(), Value: next}},
		Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventNode, Subject: n.Name,
			Text: n.Name + " is released from quarantine", Why: fmt.Sprintf("'skein node release', asked by operator %s; it was %s", who, n.Quarantine())}},
	}
	if err := s.commit(r, t, "release "+n.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, next)
	return nil
}
