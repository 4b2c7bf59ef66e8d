package tests

import (
	"archive/tar"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/net/proxy"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

// ociImage reads the image of an OCI archive.
func ociImage(t *testing.T, file string) v1.Image {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(h.Name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, h.Name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) == 0 {
		t.Fatalf("%s: got %v, %v", file, m, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// inLab is a transport to the lab's machines that trusts the cluster's CA and nobody else.
func (l *labTest) inLab() http.RoundTripper {
	l.t.Helper()
	var contexts []struct {
		Current bool   `json:"current"`
		Proxy   string `json:"proxy"`
	}
	if err := json.Unmarshal([]byte(l.run("context", "ls", "-o", "json")), &contexts); err != nil || len(contexts) == 0 {
		l.t.Fatalf("contexts: got %v, %v", contexts, err)
	}
	u, err := url.Parse(contexts[0].Proxy)
	if err != nil {
		l.t.Fatal(err)
	}
	d, err := proxy.SOCKS5("tcp", u.Host, nil, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(l.run("registry", "ca"))) {
		l.t.Fatal("'registry ca' printed no certificate")
	}
	return &http.Transport{DialContext: d.(proxy.ContextDialer).DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
}

// TestPushedImageIsDeployed: an image that crane pushes to one node is deployed by its name in the cluster's registry, pulled
// from another node, not removed while it is used, and removed afterwards.
func TestPushedImageIsDeployed(t *testing.T) {
	l := newLab(t)
	demo := os.Getenv("SKEIN_DEMO_DIR")
	if demo == "" {
		t.Skip("no image to push: set SKEIN_DEMO_DIR")
	}
	l.run("lab", "up", "--image", os.Getenv("SKEIN_IMAGE_DIR"))
	l.await("a cluster", func(st api.Status) bool { return len(st.Nodes) == 3 })
	password := strings.TrimSpace(l.run("registry", "user", "add", "ann"))
	transport := l.inLab()
	as := func(password string) []crane.Option {
		return []crane.Option{crane.WithTransport(transport), crane.WithAuth(authn.FromConfig(authn.AuthConfig{Username: "ann", Password: password}))}
	}
	img := ociImage(t, filepath.Join(demo, "web.tar"))
	if err := crane.Push(img, "n1:7702/shop/front:1", as("wrong")...); err == nil {
		t.Fatal("a wrong password: got no error")
	}
	// The user is in the ledger; n1's copy of it may be a moment behind.
	deadline := time.Now().Add(time.Minute)
	for {
		err := crane.Push(img, "n1:7702/shop/front:1", as(password)...)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"n2", "n3"} {
		got, err := crane.Pull(node+":7702/shop/front:1", as(password)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(got, validate.Fast); err != nil {
			t.Errorf("%s: %v", node, err)
		}
		if d, err := got.Digest(); err != nil || d != want {
			t.Errorf("%s: got %v, %v, want %v", node, d, err, want)
		}
	}
	stack := filepath.Join(l.dir, "shop.yml")
	if err := os.WriteFile(stack, []byte("services:\n  front:\n    image: registry.cluster:7702/shop/front:1\n    deploy: {replicas: 2}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.run("deploy", "-f", stack, "shop")
	l.await("two instances of the pushed image", func(st api.Status) bool {
		running := 0
		for _, s := range st.Services {
			for _, in := range s.Instances {
				if s.Stack == "shop" && in.State == cluster.InstanceRunning {
					running++
				}
			}
		}
		return running == 2
	})
	if out, err := l.try(time.Minute, "image", "rm", "shop/front:1"); err == nil || !strings.Contains(out, "service shop/front") {
		t.Errorf("removal of what is used: got %v, %s", err, out)
	}
	if err := crane.Delete("n2:7702/shop/front:1", as(password)...); err == nil {
		t.Error("deletion of what is used by way of the registry: got no error")
	}
	l.run("rm", "shop")
	l.await("no service", func(st api.Status) bool { return len(st.Services) == 0 })
	for deadline := time.Now().Add(2 * time.Minute); ; { // its instances need time to end
		out, err := l.try(time.Minute, "image", "prune", "--all")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, "shop/front:1") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the image stays: %s", out)
		}
	}
	if _, err := crane.Digest("n1:7702/shop/front:1", as(password)...); err == nil {
		t.Error("a removed image is still in the registry")
	}
}
