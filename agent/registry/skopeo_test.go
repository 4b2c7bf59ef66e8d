package registry

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// findSkopeo is Debian's, installed or unpacked into the cache by 'make skopeo'.
func findSkopeo(t *testing.T) (path string, env []string) {
	t.Helper()
	if dir := filepath.Join(os.Getenv("SKEIN_CACHE_DIR"), "skopeo"); os.Getenv("SKEIN_CACHE_DIR") != "" {
		p := filepath.Join(dir, "usr/bin/skopeo")
		if _, err := os.Stat(p); err == nil {
			return p, append(os.Environ(), "LD_LIBRARY_PATH="+dir+"/usr/lib/x86_64-linux-gnu:"+dir+"/lib/x86_64-linux-gnu")
		}
	}
	p, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("no skopeo: 'make skopeo' fetches it; set SKEIN_CACHE_DIR")
	}
	return p, os.Environ()
}

// TestSkopeo: what skopeo copies in and out, over TLS with the server's CA and with a password, is what it was.
func TestSkopeo(t *testing.T) {
	skopeo, env := findSkopeo(t)
	n := newCluster(t, 1, Limits{})[0]
	dir := t.TempDir()
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), skopeo, append([]string{"--insecure-policy"}, args...)...)
		cmd.Stdin = strings.NewReader("push\n")
		cmd.Env = append(env, "HOME="+dir, "REGISTRY_AUTH_FILE="+dir+"/auth.json", "XDG_RUNTIME_DIR="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("skopeo %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return out
	}
	certs := filepath.Join(dir, "certs")
	if err := os.Mkdir(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, typeManifest), "application/vnd.oci.image.config.v1+json")
	for range 3 {
		layer, err := random.Layer(200_000, "application/vnd.oci.image.layer.v1.tar")
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	src := filepath.Join(dir, "src")
	p, err := layout.Write(src, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "one"})); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(n.server.URL, "https://")
	to := "docker://" + host + "/demo/web:1"
	if out, err := run("copy", "--dest-cert-dir", certs, "oci:"+src+":one", to); err == nil {
		t.Fatalf("without a password: got no error: %s", out)
	}
	must("login", "--cert-dir", certs, "--username", "ann", "--password-stdin", host)
	must("copy", "--preserve-digests", "--dest-cert-dir", certs, "oci:"+src+":one", to)
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := crane.Digest(n.host()+"/demo/web:1", n.ann()...); err != nil || got != want.String() {
		t.Errorf("after skopeo's push: got %s, %v, want %s", got, err, want)
	}
	must("copy", "--src-cert-dir", certs, to, "oci:"+filepath.Join(dir, "out")+":one")
	out, err := layout.ImageIndexFromPath(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := out.Image(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	if tags := must("list-tags", "--cert-dir", certs, "docker://"+host+"/demo/web"); !strings.Contains(tags, `"1"`) {
		t.Errorf("tags: got %s", tags)
	}
	// From one repository to another of this registry: layers are mounted.
	must("copy", "--src-cert-dir", certs, "--dest-cert-dir", certs, to, "docker://"+host+"/other/web:2")
	must("inspect", "--cert-dir", certs, "docker://"+host+"/other/web:2")
	// Docker's own format of manifests.
	must("copy", "--format", "v2s2", "--dest-cert-dir", certs, "oci:"+src+":one", "docker://"+host+"/demo/docker:1")
	// All parts of an index.
	index, err := random.Index(1000, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(n.host() + "/demo/multi:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index, crane.GetOptions(n.ann()...).Remote...); err != nil {
		t.Fatal(err)
	}
	must("copy", "--all", "--src-cert-dir", certs, "--dest-cert-dir", certs, "docker://"+host+"/demo/multi:1", "docker://"+host+"/demo/multi:2")
	must("delete", "--cert-dir", certs, to)
	if _, err := crane.Digest(n.host()+"/demo/web:1", n.ann()...); err == nil {
		t.Error("what skopeo deleted is still there")
	}
}
