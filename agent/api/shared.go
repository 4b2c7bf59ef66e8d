package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/shares"
	"github.com/skein-os/skein/storage/filesystem"
	"github.com/skein-os/skein/storage/shared"
)

// SharedFS is what the API needs of a node's shared file systems.
type SharedFS interface {
	// Make makes a file system on a disk, whatever is there.
	Make(ctx context.Context, r cluster.SharedRecord) error
	// Grow makes one that is mounted here as large as its disk has become; it tells the size, bytes.
	Grow(ctx context.Context, r cluster.SharedRecord) (int64, error)
	// Check looks at one that no node has mounted, and tells in the tool's words what it found.
	Check(ctx context.Context, r cluster.SharedRecord, repair bool) (shared.Finding, string, error)
	Uses() map[string]shares.Use
	// Space of one that is mounted here, bytes.
	Space(name string) (size, free int64, err error)
}

// SharedRequest makes a shared file system on the node of the request's path.
type SharedRequest struct {
	Name     string `json:"name"`
	Disk     string `json:"disk"`
	Journals int    `json:"journals,omitempty"` // one for each node that uses it at once; 0: twice as many as there are nodes
	// Overwrite names what is on the disk and may be destroyed.
	Overwrite string `json:"overwrite,omitempty"`
}

// SharedStatus is a shared file system with what nodes say of it.
type SharedStatus struct {
	cluster.SharedRecord
	Size int64  `json:"size_bytes"` // of its disk
	User string `json:"user,omitempty"`
	// Reports are the newest of each node.
	Reports []shared.Report `json:"reports"`
}

// NodeShared is a shared file system on one node.
type NodeShared struct {
	shares.Use
	Size int64 `json:"size_bytes,omitempty"`
	Free int64 `json:"free_bytes,omitempty"`
}

func (s *Server) sharedRoutes() {
	s.handle("GET /v1/shared", s.sharedList)
	s.handle("GET /v1/nodes/{name}/shared", s.onNode(s.nodeShared))
	s.handle("POST /v1/nodes/{name}/shared", s.onNode(s.createShared))
	s.handle("POST /v1/nodes/{name}/shared/{fs}/grow", s.onNode(s.growShared))
	s.handle("DELETE /v1/shared/{fs}", s.removeShared)
	s.handle("POST /v1/shared/{fs}/offline", func(w http.ResponseWriter, r *http.Request) error { return s.setOffline(w, r, true) })
	s.handle("POST /v1/shared/{fs}/online", func(w http.ResponseWriter, r *http.Request) error { return s.setOffline(w, r, false) })
	s.handle("POST /v1/nodes/{name}/shared/{fs}/check", s.onNode(s.checkShared))
}

func (s *Server) sharedList(w http.ResponseWriter, _ *http.Request) error {
	st := s.backend.State()
	out := []SharedStatus{}
	for i := range st.Shared {
		r := &st.Shared[i]
		x := SharedStatus{SharedRecord: *r, User: st.SharedUser(r.Name), Reports: []shared.Report{}}
		if d := st.Disk(r.Disk); d != nil {
			x.Size = d.Size
		}
		for j := range st.Reports {
			if st.Reports[j].FileSystem == r.Name {
				x.Reports = append(x.Reports, st.Reports[j].Report)
			}
		}
		out = append(out, x)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) nodeShared(w http.ResponseWriter, _ *http.Request) error {
	out := map[string]NodeShared{}
	for name, u := range s.backend.SharedFS().Uses() {
		n := NodeShared{Use: u}
		if u.Kernel.Mounted && !u.Kernel.Blocked && !u.Kernel.Withdrawn {
			n.Size, n.Free, _ = s.backend.SharedFS().Space(name) // without it the rest is still true
		}
		out[name] = n
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) createShared(w http.ResponseWriter, r *http.Request) error {
	var req SharedRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("shared file system: %w", err)
	}
	st := s.backend.State()
	rec := cluster.SharedRecord{Name: req.Name, Disk: req.Disk, Journals: cmp.Or(req.Journals, min(2*max(2, len(st.Nodes)), shared.MaxMembers)),
		CreatedBy: s.asker(r), Created: time.Now().UTC()}
	d := st.Disk(req.Disk)
	if d != nil {
		rec.Disk = d.WWN
	}
	if err := st.CheckNewShared(&rec); err != nil {
		return conflict("%w", err)
	}
	c, err := s.backend.Disks().Identify(rec.Disk)
	if err != nil {
		return fmt.Errorf("shared file system %s: what is on disk %s could not be read: %w", rec.Name, d.Name(), err)
	}
	if c.Kind != filesystem.Empty && string(c.Kind) != req.Overwrite {
		return conflict("disk %s holds %s: nothing was touched; if that may be destroyed, say --overwrite %q", d.Name(), c, c.Kind)
	}
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: rec.Key()}, {Key: d.Key(), Revision: d.Revision}},
		Puts:       []cluster.Put{{Key: rec.Key(), Value: rec}, {Key: d.Key(), Value: *d}}, // of two on one disk, one is refused
		Events:     []cluster.Event{s.storageEvent(r, rec.Name, fmt.Sprintf("shared file system %s is being made on disk %s, with %d journals", rec.Name, d.Name(), rec.Journals))},
	}
	revision, ok, err := s.backend.CommitAt(r.Context(), t)
	switch {
	case err != nil:
		return &statusError{http.StatusServiceUnavailable, fmt.Errorf("shared file system %s: the ledger did not take it: %w", rec.Name, err)}
	case !ok:
		return conflict("shared file system %s: somebody else changed the same thing at the same moment; nothing was done, try again", rec.Name)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), makeTimeout)
	defer cancel()
	if err := s.backend.SharedFS().Make(ctx, rec); err != nil {
		_, uerr := s.backend.Commit(ctx, cluster.Txn{Conditions: []cluster.Condition{{Key: rec.Key(), Revision: revision}}, Deletes: []string{rec.Key()},
			Events: []cluster.Event{s.storageEvent(r, rec.Name, fmt.Sprintf("shared file system %s was not made: %v", rec.Name, err))}})
		return errors.Join(fmt.Errorf("shared file system %s on disk %s was not made: %w", rec.Name, d.Name(), err), uerr)
	}
	rec.Ready = true
	t = cluster.Txn{Conditions: []cluster.Condition{{Key: rec.Key(), Revision: revision}}, Puts: []cluster.Put{{Key: rec.Key(), Value: rec}},
		Events: []cluster.Event{s.storageEvent(r, rec.Name, fmt.Sprintf("shared file system %s is made: nodes mount it at /shared/%s", rec.Name, rec.Name))}}
	if err := s.commit(r.WithContext(ctx), t, "make shared file system "+rec.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, rec)
	return nil
}

func (s *Server) sharedFS(r *http.Request) (*cluster.SharedRecord, error) {
	name := r.PathValue("fs")
	if rec := s.backend.State().SharedFS(name); rec != nil {
		return rec, nil
	}
	return nil, notFound("there is no shared file system %q; 'skein shared ls' lists them", name)
}

func (s *Server) growShared(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.sharedFS(r)
	if err != nil {
		return err
	}
	size, err := s.backend.SharedFS().Grow(r.Context(), *rec)
	if err != nil {
		return conflict("shared file system %s was not grown by node %s: %w", rec.Name, s.backend.Self(), err)
	}
	t := cluster.Txn{Events: []cluster.Event{s.storageEvent(r, rec.Name, fmt.Sprintf("shared file system %s has %d bytes now", rec.Name, size))}}
	if d := s.backend.State().Disk(rec.Disk); d != nil && size > d.Size {
		grown := *d
		grown.Size = size
		t.Conditions = []cluster.Condition{{Key: d.Key(), Revision: d.Revision}}
		t.Puts = []cluster.Put{{Key: d.Key(), Value: grown}}
	}
	if err := s.commit(r, t, "grow shared file system "+rec.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]int64{"size_bytes": size})
	return nil
}

func (s *Server) removeShared(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.sharedFS(r)
	if err != nil {
		return err
	}
	if user := s.backend.State().SharedUser(rec.Name); user != "" {
		return conflict("shared file system %s is used by %s: remove that service first", rec.Name, user)
	}
	next := *rec
	next.Removing = true
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: rec.Key(), Revision: rec.Revision}}, Puts: []cluster.Put{{Key: rec.Key(), Value: next}},
		Events: []cluster.Event{s.storageEvent(r, rec.Name, fmt.Sprintf("shared file system %s is being unmounted on all nodes, to be removed", rec.Name))}}
	if err := s.commit(r, t, "remove shared file system "+rec.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusAccepted, next)
	return nil
}

// setOffline has a file system unmounted everywhere, or mounted again.
func (s *Server) setOffline(w http.ResponseWriter, r *http.Request, offline bool) error {
	rec, err := s.sharedFS(r)
	if err != nil {
		return err
	}
	st := s.backend.State()
	if user := st.SharedUser(rec.Name); offline && user != "" {
		return conflict("shared file system %s is used by %s: remove that service first", rec.Name, user)
	}
	if !offline && st.CheckRuns(rec) {
		return conflict("shared file system %s is being checked by node %s, which may write to it: wait for the end of that, or restart the node", rec.Name, rec.Checked.Node)
	}
	next, what := *rec, "is to be unmounted on all nodes"
	if next.Offline = offline; !offline {
		next.Checked, what = nil, "is to be mounted on all nodes"
	}
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: rec.Key(), Revision: rec.Revision}}, Puts: []cluster.Put{{Key: rec.Key(), Value: next}},
		Events: []cluster.Event{s.storageEvent(r, rec.Name, fmt.Sprintf("shared file system %s %s", rec.Name, what))}}
	if err := s.commit(r, t, "change shared file system "+rec.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusAccepted, next)
	return nil
}

// SharedCheckRequest asks for a check of a file system that is offline.
type SharedCheckRequest struct {
	Repair bool `json:"repair,omitempty"`
}

// SharedCheck is what a check found.
type SharedCheck struct {
	Finding shared.Finding `json:"finding"`
	Output  string         `json:"output,omitempty"` // the tool's words
}

func (s *Server) checkShared(w http.ResponseWriter, r *http.Request) error {
	var req SharedCheckRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("check of a shared file system: %w", err)
	}
	rec, err := s.sharedFS(r)
	if err != nil {
		return err
	}
	st := s.backend.State()
	self := st.Node(s.backend.Self())
	switch {
	case !rec.Offline || len(rec.Membership.Members) > 0:
		return conflict("shared file system %s is mounted (%s): take it offline first, with 'skein shared offline %s'", rec.Name, rec.Membership, rec.Name)
	case st.CheckRuns(rec):
		return conflict("shared file system %s is being checked by node %s", rec.Name, rec.Checked.Node)
	case self == nil:
		return conflict("node %s is not in the ledger", s.backend.Self())
	}
	next := *rec
	next.Checked = &cluster.BootOf{Node: self.Name, BootID: self.BootID}
	revision, ok, err := s.backend.CommitAt(r.Context(), cluster.Txn{Conditions: []cluster.Condition{{Key: rec.Key(), Revision: rec.Revision}}, Puts: []cluster.Put{{Key: rec.Key(), Value: next}}})
	if err != nil {
		return &statusError{http.StatusServiceUnavailable, fmt.Errorf("check of shared file system %s: %w", rec.Name, err)}
	}
	if !ok {
		return conflict("shared file system %s: somebody else changed it at the same moment; try again", rec.Name)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), makeTimeout)
	defer cancel()
	found, words, err := s.backend.SharedFS().Check(ctx, *rec, req.Repair)
	done := next
	done.Checked = nil
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: rec.Key(), Revision: revision}}, Puts: []cluster.Put{{Key: rec.Key(), Value: done}}}
	if err != nil {
		_, cerr := s.backend.Commit(ctx, t)
		return errors.Join(fmt.Errorf("shared file system %s was not checked: %w", rec.Name, err), cerr)
	}
	t.Events = []cluster.Event{s.storageEvent(r, rec.Name, fmt.Sprintf("shared file system %s was checked: %s", rec.Name, found))}
	if err := s.commit(r.WithContext(ctx), t, "check shared file system "+rec.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, SharedCheck{found, words})
	return nil
}

// holdShares writes the records of the file systems that services get folders on: of a deploy and a removal at once, one
// is refused.
func holdShares(st *cluster.State, t *cluster.Txn) {
	var held []string
	for _, p := range slices.Clone(t.Puts) {
		svc, ok := p.Value.(cluster.Service)
		if !ok {
			continue
		}
		for _, u := range svc.Shares {
			if r := st.SharedFS(u.Name); r != nil && !slices.Contains(held, u.Name) {
				held = append(held, u.Name)
				// The membership may change meanwhile: what counts is that it is not being removed.
				t.Conditions = append(t.Conditions, cluster.Condition{Key: r.Key(), Revision: r.Revision})
				t.Puts = append(t.Puts, cluster.Put{Key: r.Key(), Value: *r})
			}
		}
	}
}

// Shared lists the shared file systems.
func (c *Client) Shared(ctx context.Context) (out []SharedStatus, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/shared", nil, nil, &out)
}

// NodeShared tells how shared file systems are on a node.
func (c *Client) NodeShared(ctx context.Context, node string) (out map[string]NodeShared, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(node)+"/shared", nil, nil, &out)
}

// CreateShared has a node make a shared file system.
func (c *Client) CreateShared(ctx context.Context, node string, req SharedRequest) (out cluster.SharedRecord, err error) {
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/shared", nil, req, &out)
}

// GrowShared has a node make a shared file system as large as its disk.
func (c *Client) GrowShared(ctx context.Context, node, name string) (size int64, err error) {
	var out map[string]int64
	err = c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/shared/"+url.PathEscape(name)+"/grow", nil, struct{}{}, &out)
	return out["size_bytes"], err
}

// RemoveShared has a shared file system unmounted everywhere and forgotten.
func (c *Client) RemoveShared(ctx context.Context, name string) error {
	return c.get(ctx, http.MethodDelete, "/v1/shared/"+url.PathEscape(name), nil, nil, nil)
}

// SetSharedOffline has a shared file system unmounted everywhere, or mounted again.
func (c *Client) SetSharedOffline(ctx context.Context, name string, offline bool) error {
	to := "online"
	if offline {
		to = "offline"
	}
	return c.get(ctx, http.MethodPost, "/v1/shared/"+url.PathEscape(name)+"/"+to, nil, struct{}{}, nil)
}

// CheckShared has a node check a shared file system that is offline.
func (c *Client) CheckShared(ctx context.Context, node, name string, repair bool) (out SharedCheck, err error) {
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/shared/"+url.PathEscape(name)+"/check", nil, SharedCheckRequest{repair}, &out)
}
