package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// maxBody bounds what a caller may send as JSON, bytes.
const maxBody = 8 << 20

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

func (s *Server) deploy(w http.ResponseWriter, r *http.Request) error {
	stack := r.PathValue("stack")
	if !validName.MatchString(stack) {
		return badRequest("stack name %q must be lower-case letters, digits and dashes", stack)
	}
	var req DeployRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		return badRequest("deploy %s: %w", stack, err)
	}
	st := s.backend.State()
	if err := checkServices(st, stack, req.Services); err != nil {
		return err
	}
	t, result := deployTxn(st, stack, req.Services)
	if len(t.Puts)+len(t.Deletes) > 0 {
		holdVolumes(st, &t)
		holdShares(st, &t)
		_, who := s.role(r)
		for i := range t.Events {
			t.Events[i].Node, t.Events[i].Time = s.backend.Self(), time.Now()
			t.Events[i].Why = "asked by operator " + who
		}
		if err := s.commitHolding(r, st, t, "deploy "+stack); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, result)
	return nil
}

// checkServices refuses what can be seen to be wrong before anything is stored, and resolves images.
func checkServices(st *cluster.State, stack string, services []cluster.Service) error {
	held := map[string]string{} // floating address -> service of another stack
	for i := range st.Services {
		if o := &st.Services[i]; o.Stack != stack {
			for _, a := range o.Floating {
				held[a.String()] = o.FullName()
			}
		}
	}
	published := map[string]string{} // port of every node -> service
	publish := func(o *cluster.Service) error {
		if len(o.Floating) > 0 {
			return nil
		}
		for _, p := range o.Ports {
			key := fmt.Sprintf("%d/%s", p.Published, p.Protocol)
			if other := published[key]; other != "" && other != o.FullName() {
				return conflict("service %s: port %s is published by %s already, on every node: choose another, or give the service an address of its own with x-skein: {addresses: [...]}", o.FullName(), key, other)
			}
			published[key] = o.FullName()
		}
		return nil
	}
	for i := range st.Services {
		if o := &st.Services[i]; o.Stack != stack {
			_ = publish(o) // two that collide were let in by an older version
		}
	}
	seen := map[string]bool{}
	disks := map[string]string{} // WWN -> service of this stack
	for i := range services {
		svc := &services[i]
		if err := st.ResolveVolumes(svc); err != nil {
			return badRequest("%w", err)
		}
		if err := st.ResolveShares(svc); err != nil {
			return badRequest("%w", err)
		}
		if err := svc.CheckVolumes(); err != nil {
			return badRequest("%w", err)
		}
		for _, v := range svc.Volumes {
			if o := disks[v.Disk]; o != "" {
				return conflict("service %s: volume %s is service %s's: a volume has one service", svc.FullName(), v.Name, o)
			}
			disks[v.Disk] = svc.FullName()
		}
		if svc.Stack != stack || !validName.MatchString(svc.Name) {
			return badRequest("service %q of stack %q: names must be lower-case letters, digits and dashes, and the stack must be %s", svc.Name, svc.Stack, stack)
		}
		if seen[svc.Name] {
			return badRequest("service %s is there twice", svc.FullName())
		}
		seen[svc.Name] = true
		if err := publish(svc); err != nil {
			return err
		}
		for _, a := range svc.Floating {
			if other := held[a.String()]; other != "" {
				return conflict("service %s: the floating address %s belongs to %s", svc.FullName(), a, other)
			}
			held[a.String()] = svc.FullName()
		}
		img := findImage(st, svc.Image)
		if img == nil {
			return badRequest("service %s: the cluster has no image %q; load it with 'skein image load FILE' or fetch it with 'skein image pull %s'",
				svc.FullName(), svc.Image, svc.Image)
		}
		if img.Artifact {
			return badRequest("service %s: %q cannot be run: it is no container image for these machines", svc.FullName(), svc.Image)
		}
		svc.ImageDigest = img.Digest
	}
	return nil
}

// holdVolumes writes the records of the volumes that services get: of two deploys that give one volume away at
// once, or a deploy and the volume's removal, one is refused.
func holdVolumes(st *cluster.State, t *cluster.Txn) {
	for _, p := range t.Puts {
		svc, ok := p.Value.(cluster.Service)
		if !ok {
			continue
		}
		for _, v := range svc.Volumes {
			if r := st.Volume(v.Name); r != nil {
				t.Conditions = append(t.Conditions, cluster.Condition{Key: r.Key(), Revision: r.Revision})
				t.Puts = append(t.Puts, cluster.Put{Key: r.Key(), Value: *r})
			}
		}
	}
}

func findImage(st *cluster.State, ref string) *cluster.Image {
	ref = cluster.PlainRef(ref)
	for i := range st.Images {
		if im := &st.Images[i]; im.Ref == ref || im.Ref == ref+":latest" {
			return im
		}
	}
	return nil
}

// deployTxn is the change that makes the stack be exactly the given services.
func deployTxn(st *cluster.State, stack string, services []cluster.Service) (cluster.Txn, DeployResult) {
	var t cluster.Txn
	res := DeployResult{Created: []string{}, Updated: []string{}, Unchanged: []string{}, Removed: []string{}}
	old := map[string]*cluster.Service{}
	for i := range st.Services {
		if o := &st.Services[i]; o.Stack == stack {
			old[o.Name] = o
		}
	}
	for i := range services {
		svc := &services[i]
		// The image's digest is part of what an instance was made from: a tag that moved is a new spec.
		svc.Hash = svc.Hash + "." + strings.TrimPrefix(svc.ImageDigest, "sha256:")[:12]
		o := old[svc.Name]
		delete(old, svc.Name)
		switch {
		case o == nil:
			res.Created = append(res.Created, svc.FullName())
			t.Conditions = append(t.Conditions, cluster.Condition{Key: svc.Key()})
			t.Events = append(t.Events, cluster.Event{Kind: cluster.EventService, Subject: svc.FullName(), Text: "deployed with image " + svc.Image})
		case same(o, svc):
			res.Unchanged = append(res.Unchanged, svc.FullName())
			continue
		default:
			res.Updated = append(res.Updated, svc.FullName())
			t.Conditions = append(t.Conditions, cluster.Condition{Key: svc.Key(), Revision: o.Revision})
			t.Events = append(t.Events, cluster.Event{Kind: cluster.EventService, Subject: svc.FullName(), Text: "specification changed"})
			if o.Hash != svc.Hash {
				beginUpdate(st, &t, o, svc.Hash)
			}
		}
		t.Puts = append(t.Puts, cluster.Put{Key: svc.Key(), Value: *svc})
	}
	for i := range st.Services { // in the ledger's order
		o := &st.Services[i]
		if o.Stack == stack && old[o.Name] != nil {
			res.Removed = append(res.Removed, o.FullName())
			t.Conditions = append(t.Conditions, cluster.Condition{Key: o.Key(), Revision: o.Revision})
			t.Deletes = append(t.Deletes, o.Key())
			if u := st.Update(o.Stack, o.Name); u != nil {
				t.Deletes = append(t.Deletes, u.Key())
			}
			t.Events = append(t.Events, cluster.Event{Kind: cluster.EventService, Subject: o.FullName(), Text: "removed"})
		}
	}
	return t, res
}

func same(a, b *cluster.Service) bool {
	x, y := *a, *b
	x.Revision, y.Revision = 0, 0
	xj, errX := json.Marshal(x)
	yj, errY := json.Marshal(y)
	return errX == nil && errY == nil && string(xj) == string(yj)
}

func (s *Server) removeStack(w http.ResponseWriter, r *http.Request) error {
	stack := r.PathValue("stack")
	t, res := deployTxn(s.backend.State(), stack, nil)
	if len(res.Removed) == 0 {
		return notFound("there is no stack %q; 'skein ls' lists them", stack)
	}
	_, who := s.role(r)
	for i := range t.Events {
		t.Events[i].Node, t.Events[i].Time, t.Events[i].Why = s.backend.Self(), time.Now(), "asked by operator "+who
	}
	if err := s.commit(r, t, "remove "+stack); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, res)
	return nil
}

// commit turns the two ways in which a transaction can fail into answers.
func (s *Server) commit(r *http.Request, t cluster.Txn, what string) error {
	ok, err := s.backend.Commit(r.Context(), t)
	if err != nil {
		return &statusError{http.StatusServiceUnavailable, fmt.Errorf("%s: the ledger did not take it: %w", what, err)}
	}
	if !ok {
		return conflict("%s: somebody else changed the same thing at the same moment; nothing was done, try again", what)
	}
	return nil
}
