package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
	"github.com/skein-os/skein/agent/retention"
)

// JobImages tells by digest which job that has not ended is made of an image.
type JobImages func(ctx context.Context) (map[string]string, error)

// RegistryUser is a user of the cluster's registry. Password comes once, when the user is made, and is kept nowhere.
type RegistryUser struct {
	Name     string    `json:"name"`
	Push     bool      `json:"push"`
	By       string    `json:"by,omitempty"`
	Created  time.Time `json:"created"`
	Password string    `json:"password,omitempty"`
}

// RegistryHostRequest tells how images are fetched from a registry. The password goes to the ledger's secrets and never
// comes back.
type RegistryHostRequest struct {
	cluster.RegistryHost
	Password string `json:"password,omitempty"`
	// Login replaces user and password, else those that there are stay; SetMirrors the mirrors.
	Login      bool `json:"login,omitempty"`
	SetMirrors bool `json:"set_mirrors,omitempty"`
}

// Pruned is what went of the cluster's images.
type Pruned struct {
	Removed []retention.Removal `json:"removed"`
	Frees   int64               `json:"frees_bytes"` // on each node
	DryRun  bool                `json:"dry_run,omitempty"`
}

// HandleRegistry adds what concerns registries and the removal of images.
func (s *Server) HandleRegistry(jobs JobImages) {
	s.handle("GET /v1/registry/users", s.registryUsers)
	s.handle("POST /v1/registry/users/{name}", s.addRegistryUser)
	s.handle("DELETE /v1/registry/users/{name}", s.removeRegistryUser)
	s.handle("GET /v1/registry/hosts", s.registryHosts)
	s.handle("PUT /v1/registry/hosts/{host}", s.setRegistryHost)
	s.handle("DELETE /v1/registry/hosts/{host}", s.removeRegistryHost)
	s.handle("DELETE /v1/images", func(w http.ResponseWriter, r *http.Request) error { return s.removeImage(w, r, jobs) })
	s.handle("POST /v1/images/prune", func(w http.ResponseWriter, r *http.Request) error { return s.pruneImages(w, r, jobs) })
}

func (s *Server) registryUsers(w http.ResponseWriter, _ *http.Request) error {
	out := []RegistryUser{}
	for _, u := range s.backend.State().RegistryUsers {
		out = append(out, RegistryUser{Name: u.Name, Push: u.Push, By: u.By, Created: u.Created})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) addRegistryUser(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if !validName.MatchString(name) {
		return badRequest("user %q of the registry: a name has lower-case letters, digits, dashes and underscores", name)
	}
	if s.backend.State().RegistryUser(name) != nil {
		return conflict("the registry has a user %s; 'skein registry user rm %s' removes it", name, name)
	}
	_, who := s.role(r)
	password := rand.Text()
	u := cluster.RegistryUser{Name: name, Hash: cluster.PasswordHash(password), Push: r.URL.Query().Get("pull") == "", By: who, Created: time.Now().UTC()}
	may := "pull"
	if u.Push {
		may = "push and pull"
	}
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: u.Key()}}, Puts: []cluster.Put{{Key: u.Key(), Value: u}},
		Events: []cluster.Event{s.imageEvent("registry user "+name, name+" may "+may+" at the cluster's registry", who)}}
	if err := s.commit(r, t, "make user "+name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, RegistryUser{Name: name, Push: u.Push, By: who, Created: u.Created, Password: password})
	return nil
}

func (s *Server) removeRegistryUser(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	u := s.backend.State().RegistryUser(name)
	if u == nil {
		return notFound("the registry has no user %q; 'skein registry user ls' lists them", name)
	}
	_, who := s.role(r)
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: u.Key(), Revision: u.Revision}}, Deletes: []string{u.Key()},
		Events: []cluster.Event{s.imageEvent("registry user "+name, name+" has no access to the cluster's registry any more", who)}}
	if err := s.commit(r, t, "remove user "+name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, RegistryUser{Name: name})
	return nil
}

func (s *Server) imageEvent(subject, text, who string) cluster.Event {
	return cluster.Event{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventImage, Subject: subject, Text: text, Why: "asked by operator " + who}
}

func (s *Server) registryHosts(w http.ResponseWriter, _ *http.Request) error {
	out := s.backend.State().RegistryHosts
	if out == nil {
		out = []cluster.RegistryHost{}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) setRegistryHost(w http.ResponseWriter, r *http.Request) error {
	var req RegistryHostRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("registry: the request is not readable") // the decoder's error may quote it
	}
	h := cluster.RegistryHost{Host: r.PathValue("host")}
	if old := s.backend.State().RegistryHost(h.Host); old != nil {
		h = *old
	}
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: h.Key(), Revision: h.Revision}}}
	if req.Login {
		h.User = req.User
		secret := cluster.KeySecrets + cluster.RegistrySecret(h.Host)
		if h.User == "" {
			t.Deletes = append(t.Deletes, secret)
		} else {
			t.Puts = append(t.Puts, cluster.Put{Key: secret, Value: []byte(req.Password)})
		}
	}
	if req.SetMirrors {
		h.Mirrors = req.Mirrors
	}
	if err := h.Check(); err != nil {
		return badRequest("%w", err)
	}
	_, who := s.role(r)
	t.Puts = append(t.Puts, cluster.Put{Key: h.Key(), Value: h})
	t.Events = []cluster.Event{s.imageEvent("registry "+h.Host, "how images are fetched from "+h.Host+" was set", who)}
	if err := s.commit(r, t, "set registry "+h.Host); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, h)
	return nil
}

func (s *Server) removeRegistryHost(w http.ResponseWriter, r *http.Request) error {
	h := s.backend.State().RegistryHost(r.PathValue("host"))
	if h == nil {
		return notFound("nothing is known of the registry %q; 'skein registry ls' lists them", r.PathValue("host"))
	}
	_, who := s.role(r)
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: h.Key(), Revision: h.Revision}},
		Deletes: []string{h.Key(), cluster.KeySecrets + cluster.RegistrySecret(h.Host)},
		Events:  []cluster.Event{s.imageEvent("registry "+h.Host, h.Host+" was forgotten, with its password", who)}}
	if err := s.commit(r, t, "forget registry "+h.Host); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, h)
	return nil
}

// uses is what needs images now.
func (s *Server) uses(r *http.Request, st *cluster.State, jobs JobImages) (retention.Uses, error) {
	j, err := jobs(r.Context())
	if err != nil {
		return nil, &statusError{http.StatusServiceUnavailable, fmt.Errorf("which jobs need images is not known: %w", err)}
	}
	return retention.InUse(st, j), nil
}

// blobSize is that of a blob here, 0 if it is not.
func (s *Server) blobSize(digest string) int64 {
	f, size, err := s.backend.Blob(digest)
	if err != nil {
		return 0
	}
	f.Close()
	return size
}

func (s *Server) removeImage(w http.ResponseWriter, r *http.Request, jobs JobImages) error {
	ref, err := container.Normalize(r.URL.Query().Get("ref"))
	if err != nil {
		return badRequest("%w", err)
	}
	st := s.backend.State()
	im := st.Image(ref)
	if im == nil {
		return notFound("the cluster has no image %s; 'skein image ls' lists them", ref)
	}
	uses, err := s.uses(r, st, jobs)
	if err != nil {
		return err
	}
	if what := uses.Of(im); what != "" {
		return conflict("image %s stays: %s is made of it", ref, what)
	}
	return s.dropImages(w, r, []retention.Removal{{Image: *im, Why: "asked for"}})
}

func (s *Server) pruneImages(w http.ResponseWriter, r *http.Request, jobs JobImages) error {
	st := s.backend.State()
	uses, err := s.uses(r, st, jobs)
	if err != nil {
		return err
	}
	what := retention.Dangling
	if r.URL.Query().Get("all") != "" {
		what = retention.Unused
	}
	plan := retention.Plan(st, uses, what, retention.Room{}, s.blobSize, time.Now())
	if r.URL.Query().Get("dry") != "" {
		writeJSON(w, http.StatusOK, pruned(plan, true))
		return nil
	}
	return s.dropImages(w, r, plan)
}

func pruned(list []retention.Removal, dry bool) Pruned {
	out := Pruned{Removed: list, DryRun: dry}
	if list == nil {
		out.Removed = []retention.Removal{}
	}
	for _, r := range list {
		out.Frees += r.Frees
	}
	return out
}

// mostDropped are forgotten in one change: the ledger takes 128 operations at once.
const mostDropped = 40

func (s *Server) dropImages(w http.ResponseWriter, r *http.Request, list []retention.Removal) error {
	_, who := s.role(r)
	for at := 0; at < len(list); at += mostDropped {
		part := list[at:min(len(list), at+mostDropped)]
		t := retention.Drop(part)
		for _, x := range part {
			t.Events = append(t.Events, s.imageEvent("image "+x.Ref, "removed: "+x.Why, who))
		}
		if err := s.commit(r, t, "remove images"); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, pruned(list, false))
	return nil
}

// holdImages adds the records of images that services get: of a deploy and the image's removal at the same moment, one
// is refused. It tells whether all of them are still what was meant.
func holdImages(st *cluster.State, t *cluster.Txn, now time.Time) bool {
	held := map[string]bool{}
	for _, p := range t.Puts {
		svc, ok := p.Value.(cluster.Service)
		if !ok || held[svc.ImageDigest] {
			continue
		}
		held[svc.ImageDigest] = true
		im := findImage(st, svc.Image)
		if im == nil || im.Digest != svc.ImageDigest {
			return false
		}
		next := *im
		next.Used = now.UTC()
		t.Conditions = append(t.Conditions, cluster.Condition{Key: im.Key(), Revision: im.Revision})
		t.Puts = append(t.Puts, cluster.Put{Key: im.Key(), Value: next})
	}
	return true
}

// holdTries is how often a deploy is tried anew because another one with the same image was quicker.
const holdTries = 3

// commitHolding commits a deploy with its images held. If only their records have changed meanwhile, it is tried again.
func (s *Server) commitHolding(r *http.Request, st *cluster.State, t cluster.Txn, what string) (err error) {
	for range holdTries {
		next := t
		next.Conditions, next.Puts = slices.Clone(t.Conditions), slices.Clone(t.Puts)
		if !holdImages(st, &next, time.Now()) {
			return conflict("%s: an image was changed or removed at the same moment; nothing was done, try again", what)
		}
		err = s.commit(r, next, what)
		var refused *statusError
		if !errors.As(err, &refused) || refused.status != http.StatusConflict {
			return err
		}
		// The change that was quicker comes to this node's copy in a moment.
		for deadline := time.Now().Add(200 * time.Millisecond); s.backend.State().Revision == st.Revision && time.Now().Before(deadline); {
			select {
			case <-r.Context().Done():
				return r.Context().Err()
			case <-time.After(5 * time.Millisecond):
			}
		}
		st = s.backend.State()
	}
	return err
}

// RegistryUsers lists who may use the cluster's registry.
func (c *Client) RegistryUsers(ctx context.Context) (out []RegistryUser, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/registry/users", nil, nil, &out)
}

// AddRegistryUser makes a user, and his password, which nobody can ask for again.
func (c *Client) AddRegistryUser(ctx context.Context, name string, push bool) (out RegistryUser, err error) {
	q := url.Values{}
	if !push {
		q.Set("pull", "only")
	}
	return out, c.get(ctx, http.MethodPost, "/v1/registry/users/"+url.PathEscape(name), q, struct{}{}, &out)
}

// RemoveRegistryUser ends a user's access.
func (c *Client) RemoveRegistryUser(ctx context.Context, name string) error {
	return c.get(ctx, http.MethodDelete, "/v1/registry/users/"+url.PathEscape(name), nil, nil, nil)
}

// RegistryHosts lists what is known of registries outside.
func (c *Client) RegistryHosts(ctx context.Context) (out []cluster.RegistryHost, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/registry/hosts", nil, nil, &out)
}

// SetRegistryHost tells how images are fetched from a registry.
func (c *Client) SetRegistryHost(ctx context.Context, req RegistryHostRequest) (out cluster.RegistryHost, err error) {
	return out, c.get(ctx, http.MethodPut, "/v1/registry/hosts/"+url.PathEscape(req.Host), nil, req, &out)
}

// RemoveRegistryHost forgets a registry and its password.
func (c *Client) RemoveRegistryHost(ctx context.Context, host string) error {
	return c.get(ctx, http.MethodDelete, "/v1/registry/hosts/"+url.PathEscape(host), nil, nil, nil)
}

// RemoveImage forgets a name of an image that nothing is made of.
func (c *Client) RemoveImage(ctx context.Context, ref string) (out Pruned, err error) {
	return out, c.get(ctx, http.MethodDelete, "/v1/images", url.Values{"ref": {ref}}, nil, &out)
}

// PruneImages forgets images that nothing is made of: those without a name, or all.
func (c *Client) PruneImages(ctx context.Context, all, dry bool) (out Pruned, err error) {
	q := url.Values{}
	if all {
		q.Set("all", "1")
	}
	if dry {
		q.Set("dry", "1")
	}
	return out, c.get(ctx, http.MethodPost, "/v1/images/prune", q, struct{}{}, &out)
}
