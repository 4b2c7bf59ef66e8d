package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
)

// put finds what a transaction writes under a key.
func put(t *testing.T, tx cluster.Txn, key string) any {
	t.Helper()
	for _, p := range tx.Puts {
		if p.Key == key {
			return p.Value
		}
	}
	t.Fatalf("nothing is written to %s: %+v", key, tx)
	return nil
}

func noJobs(context.Context) (map[string]string, error) { return nil, nil }

func TestRegistryUsers(t *testing.T) {
	m := newMemory("n1")
	c, s := serve(t, m, RoleAdmin)
	s.HandleRegistry(noJobs)
	u, err := c.AddRegistryUser(t.Context(), "ci", false)
	if err != nil {
		t.Fatal(err)
	}
	stored := put(t, m.committed[0], cluster.KeyRegistryUsers+"ci").(cluster.RegistryUser)
	if len(u.Password) < 26 || !stored.Admits(u.Password) || stored.Admits("") || stored.Push || u.Push {
		t.Errorf("got %+v, stored %+v", u, stored)
	}
	record, err := json.Marshal(m.committed)
	if err != nil || strings.Contains(string(record), u.Password) {
		t.Errorf("the password is in the ledger: %s, %v", record, err)
	}
	m.state.RegistryUsers = []cluster.RegistryUser{stored}
	if _, err := c.AddRegistryUser(t.Context(), "ci", true); err == nil {
		t.Error("a second user of the same name: got no error")
	}
	if _, err := c.AddRegistryUser(t.Context(), "../ci", true); err == nil {
		t.Error("a name that is a path: got no error")
	}
	list, err := c.RegistryUsers(t.Context())
	if err != nil || len(list) != 1 || list[0].Password != "" || list[0].Name != "ci" {
		t.Errorf("got %+v, %v", list, err)
	}
	if err := c.RemoveRegistryUser(t.Context(), "ci"); err != nil || !slices.Equal(m.committed[1].Deletes, []string{stored.Key()}) {
		t.Errorf("got %v, %+v", err, m.committed[1])
	}
	other, o := serve(t, m, RoleNode)
	o.HandleRegistry(noJobs)
	if _, err := other.AddRegistryUser(t.Context(), "eve", true); err == nil {
		t.Error("a node made a user")
	}
}

func TestRegistryHosts(t *testing.T) {
	m := newMemory("n1")
	c, s := serve(t, m, RoleAdmin)
	s.HandleRegistry(noJobs)
	req := RegistryHostRequest{RegistryHost: cluster.RegistryHost{Host: "registry.example.org:5000", User: "ann"}, Password: "open sesame", Login: true}
	if _, err := c.SetRegistryHost(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := put(t, m.committed[0], cluster.KeySecrets+"registry/registry.example.org:5000").([]byte); string(got) != "open sesame" {
		t.Errorf("got %q", got)
	}
	stored := put(t, m.committed[0], req.Key()).(cluster.RegistryHost)
	if data, err := json.Marshal(stored); err != nil || bytes.Contains(data, []byte("sesame")) {
		t.Errorf("the password is in the record: %s, %v", data, err)
	}
	// Mirrors do not touch the login, nor a login the mirrors.
	m.state.RegistryHosts = []cluster.RegistryHost{stored}
	h, err := c.SetRegistryHost(t.Context(), RegistryHostRequest{RegistryHost: cluster.RegistryHost{Host: stored.Host, Mirrors: []string{"mirror.example.org"}}, SetMirrors: true})
	if err != nil || h.User != "ann" || !slices.Equal(h.Mirrors, []string{"mirror.example.org"}) || len(m.committed[1].Puts) != 1 {
		t.Errorf("got %+v, %v, %+v", h, err, m.committed[1].Puts)
	}
	for _, bad := range []string{"no-dot", "Upper.example.org", "a.b/c", "registry.cluster:7702", "", "a.b:123456"} {
		if err := (&cluster.RegistryHost{Host: bad}).Check(); err == nil {
			t.Errorf("host %q: got no error", bad)
		}
	}
	if err := c.RemoveRegistryHost(t.Context(), stored.Host); err != nil {
		t.Fatal(err)
	}
	if got := m.committed[2].Deletes; !slices.Contains(got, cluster.KeySecrets+"registry/"+stored.Host) {
		t.Errorf("the password stays: %q", got)
	}
}

func TestRemoveImages(t *testing.T) {
	digest := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	old := time.Now().Add(-2 * time.Hour)
	m := newMemory("n1")
	m.state.Instances = nil
	m.state.Services = []cluster.Service{{Stack: "demo", Name: "web", Image: "demo/web:1", ImageDigest: digest("a")}}
	m.state.Images = []cluster.Image{
		{Ref: "demo/batch:1", Digest: digest("b"), Blobs: []string{digest("b")}, Source: container.SourceArchive, Loaded: old, Revision: 3},
		{Ref: "demo/old@" + digest("c"), Digest: digest("c"), Blobs: []string{digest("c")}, Replaced: true, Loaded: old, Revision: 4},
		{Ref: "demo/web:1", Digest: digest("a"), Blobs: []string{digest("a")}, Source: container.SourceArchive, Loaded: old, Revision: 5},
	}
	c, s := serve(t, m, RoleAdmin)
	var trouble error
	s.HandleRegistry(func(context.Context) (map[string]string, error) {
		return map[string]string{digest("b"): "job count-1"}, trouble
	})
	for ref, want := range map[string]string{"demo/web:1": "service demo/web", "registry.cluster:7702/demo/batch:1": "job count-1", "demo/none:1": "no image"} {
		if _, err := c.RemoveImage(t.Context(), ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", ref, err, want)
		}
	}
	trouble = errors.New("no majority")
	if _, err := c.PruneImages(t.Context(), true, false); err == nil {
		t.Error("jobs are not known: got no error")
	}
	trouble = nil
	if p, err := c.PruneImages(t.Context(), true, true); err != nil || len(p.Removed) != 1 || !p.DryRun || len(m.committed) != 0 {
		t.Errorf("dry run: got %+v, %v, %d changes", p, err, len(m.committed))
	}
	if p, err := c.PruneImages(t.Context(), false, false); err != nil || len(p.Removed) != 1 || len(m.committed) != 1 {
		t.Fatalf("got %+v, %v, %d changes", p, err, len(m.committed))
	}
	tx := m.committed[0]
	if want := cluster.KeyImages + "demo/old@" + digest("c"); !slices.Equal(tx.Deletes, []string{want}) || !slices.Equal(tx.Conditions, []cluster.Condition{{Key: want, Revision: 4}}) {
		t.Errorf("got %+v", tx)
	}
}

// TestDeployHoldsImages: a deploy and the removal of its image at the same moment: both are made from the same state, and
// one of them is refused.
func TestDeployHoldsImages(t *testing.T) {
	m := newMemory("n1")
	m.state.Images[0].Revision = 8
	m.state.Images[0].Digest = "sha256:" + strings.Repeat("a", 64)
	c, _ := serve(t, m, RoleAdmin)
	svc := cluster.Service{Stack: "shop", Name: "front", Image: "registry.cluster:7702/" + image, Replicas: 1, Hash: "x"}
	if _, err := c.Deploy(t.Context(), "shop", []cluster.Service{svc}); err != nil {
		t.Fatal(err)
	}
	tx := m.committed[0]
	key := cluster.KeyImages + image
	if !slices.Contains(tx.Conditions, cluster.Condition{Key: key, Revision: 8}) || put(t, tx, key).(cluster.Image).Used.IsZero() {
		t.Errorf("got %+v", tx)
	}
	m.state.Images[0].Artifact = true
	if _, err := c.Deploy(t.Context(), "other", []cluster.Service{{Stack: "other", Name: "x", Image: image}}); err == nil || !strings.Contains(err.Error(), "cannot be run") {
		t.Errorf("an artifact: got %v", err)
	}
}

// TestReplacedImageStays: what a name meant before is kept under its digest.
func TestReplacedImageStays(t *testing.T) {
	st := &cluster.State{Images: []cluster.Image{{Ref: "demo/web:1", Digest: "sha256:1", Revision: 4, Source: container.SourceArchive}}}
	tx := cluster.RecordImages(st, []cluster.Image{{Ref: "demo/web:1", Digest: "sha256:2"}})
	was := put(t, tx, cluster.KeyImages+"demo/web@sha256:1").(cluster.Image)
	if !was.Replaced || was.Digest != "sha256:1" || put(t, tx, cluster.KeyImages+"demo/web:1").(cluster.Image).Digest != "sha256:2" {
		t.Errorf("got %+v", tx)
	}
	if tx := cluster.RecordImages(st, []cluster.Image{{Ref: "demo/web:1", Digest: "sha256:1"}}); len(tx.Puts) != 1 {
		t.Errorf("the same image again: got %+v", tx.Puts)
	}
}
