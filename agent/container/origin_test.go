package container

import (
	"bytes"
	"context"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// lockedRegistry is one that wants ann's password.
func lockedRegistry(t *testing.T) (host string, asked *atomic.Int32, change func(path string, data []byte)) {
	t.Helper()
	inner := registry.New(registry.Logger(stdlog.New(io.Discard, "", 0)))
	asked = new(atomic.Int32)
	lies := map[string][]byte{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "ann" || password != "open sesame" {
			w.Header().Set("Www-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			asked.Add(1)
		}
		for part, data := range lies {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, part) {
				_, _ = w.Write(data)
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), asked, func(path string, data []byte) { lies[path] = data }
}

func pushTo(t *testing.T, ref string) (layer string) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img := smallImage(t, "hello")
	if err := remote.Write(r, img, remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: "ann", Password: "open sesame"}))); err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers[0].Digest.String()
}

func TestPullWithPassword(t *testing.T) {
	host, _, lie := lockedRegistry(t)
	layer := pushTo(t, host+"/demo/small:1")
	s := openImages(t, Limits{})
	if _, err := s.Pull(t.Context(), host+"/demo/small:1"); err == nil {
		t.Error("without a password: got no error")
	}
	password := "wrong"
	s.Origins = func(_ context.Context, h string) ([]Origin, error) {
		return []Origin{{Host: h, User: "ann", Password: password}}, nil
	}
	if _, err := s.Pull(t.Context(), host+"/demo/small:1"); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong password: got %v, want an error that does not quote it", err)
	}
	password = "open sesame"
	// A registry that sends something else than what the manifest says.
	lie("/blobs/"+layer, []byte("not the layer"))
	if _, err := s.Pull(t.Context(), host+"/demo/small:1"); err == nil {
		t.Error("a layer that is not what its digest says: got no error")
	}
	if n := blobsIn(t, s); n != 0 {
		t.Errorf("%d files stayed", n)
	}
	honest, _, _ := lockedRegistry(t)
	pushTo(t, honest+"/demo/small:1")
	im, err := s.Pull(t.Context(), honest+"/demo/small:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), im.Digest); err != nil {
		t.Error(err)
	}
}

// TestMirror: a mirror is asked first; one that cannot be reached or does not have the image holds nothing up.
func TestMirror(t *testing.T) {
	upstream, asked, _ := lockedRegistry(t)
	mirror, mirrored, _ := lockedRegistry(t)
	pushTo(t, upstream+"/demo/small:1")
	pushTo(t, upstream+"/demo/small:2")
	pushTo(t, mirror+"/demo/small:1")
	asked.Store(0)
	mirrored.Store(0)
	s := openImages(t, Limits{})
	s.Origins = func(_ context.Context, host string) ([]Origin, error) {
		if host != upstream {
			t.Errorf("asked for origins of %s, want %s", host, upstream)
		}
		return []Origin{{Host: "127.0.0.1:1"}, {Host: mirror, User: "ann", Password: "open sesame"}, {Host: host, User: "ann", Password: "open sesame"}}, nil
	}
	im, err := s.Pull(t.Context(), upstream+"/demo/small:1")
	if err != nil {
		t.Fatal(err)
	}
	if im.Ref != upstream+"/demo/small:1" || im.Source != upstream || asked.Load() != 0 || mirrored.Load() == 0 {
		t.Errorf("got %+v with %d requests to the registry and %d to its mirror", im, asked.Load(), mirrored.Load())
	}
	if _, err := s.Pull(t.Context(), upstream+"/demo/small:2"); err != nil || asked.Load() == 0 {
		t.Errorf("what the mirror does not have: got %v, %d requests to the registry", err, asked.Load())
	}
	if _, err := s.Pull(t.Context(), upstream+"/demo/small:3"); err == nil || !strings.Contains(err.Error(), mirror) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("got %v, want an error that names all that were asked", err)
	}
}

// TestSealed: a password does not leave the machine without TLS.
func TestSealed(t *testing.T) {
	sent := 0
	rt := sealed{roundTripper(func(*http.Request) (*http.Response, error) {
		sent++
		return &http.Response{StatusCode: 200, Body: io.NopCloser(&bytes.Buffer{})}, nil
	})}
	for _, c := range []struct {
		url  string
		auth bool
		ok   bool
	}{
		{"http://192.0.2.1:5000/v2/", true, false}, {"http://registry.local/v2/", true, false}, {"http://192.0.2.1:5000/v2/", false, true},
		{"https://192.0.2.1:5000/v2/", true, true}, {"http://127.0.0.1:5000/v2/", true, true},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.auth {
			r.SetBasicAuth("ann", "x")
		}
		before := sent
		resp, err := rt.RoundTrip(r)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != c.ok || (sent > before) != c.ok {
			t.Errorf("%s, password %v: got %v, want allowed %v", c.url, c.auth, err, c.ok)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
