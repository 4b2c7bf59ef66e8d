package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestCrane: what is pushed to one node is pulled, whole, from another one.
func TestCrane(t *testing.T) {
	nodes := newCluster(t, 2, Limits{})
	a, b := nodes[0], nodes[1]
	img := randomImage(t, 50_000, 3)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(img, a.host()+"/demo/web:1", a.ann()...); err != nil {
		t.Fatal(err)
	}
	got, err := crane.Pull(b.host()+"/demo/web:1", b.options("bob", "pull")...)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	if d, err := got.Digest(); err != nil || d != digest {
		t.Errorf("got %v, %v, want %v", d, err, digest)
	}
	if err := crane.Tag(a.host()+"/demo/web:1", "latest", a.ann()...); err != nil {
		t.Error(err)
	}
	if tags, err := crane.ListTags(b.host()+"/demo/web", b.ann()...); err != nil || !slices.Equal(tags, []string{"1", "latest"}) {
		t.Errorf("tags: got %q, %v", tags, err)
	}
	// The part of a repository's name that is only its default is the same repository.
	if err := crane.Copy(a.host()+"/demo/web:1", a.host()+"/library/nginx:1", a.ann()...); err != nil {
		t.Error(err)
	}
	if repos, err := crane.Catalog(a.host(), a.ann()...); err != nil || !slices.Equal(repos, []string{"demo/web", "nginx"}) {
		t.Errorf("catalog: got %q, %v", repos, err)
	}
	if d, err := crane.Digest(b.host()+"/nginx:1", b.ann()...); err != nil || d != digest.String() {
		t.Errorf("got %s, %v, want %s", d, err, digest)
	}
	if err := crane.Delete(a.host()+"/nginx:1", a.ann()...); err != nil {
		t.Error(err)
	}
	if _, err := crane.Digest(a.host()+"/nginx:1", a.ann()...); err == nil {
		t.Error("a deleted image is still there")
	}
	// A service is made of it.
	a.ledger.inUse[digest.String()] = true
	want(t, "delete of what is in use", a.do(t, "DELETE", "/v2/demo/web/manifests/1", nil), 403, codeDenied)
}

// TestIndex: an index of several platforms is kept whole, and its part for these machines can be deployed.
func TestIndex(t *testing.T) {
	n := newCluster(t, 1, Limits{})[0]
	index := mutate.IndexMediaType(empty.Index, typeIndex)
	for _, arch := range []string{"s390x", "amd64", "arm64"} {
		img := randomImage(t, 1000, 1)
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config.OS, config.Architecture = "linux", arch
		img, err = mutate.ConfigFile(img, config)
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ref, err := name.ParseReference(n.host() + "/demo/multi:1")
	if err != nil {
		t.Fatal(err)
	}
	auth := crane.GetOptions(n.ann()...)
	if err := remote.WriteIndex(ref, index, auth.Remote...); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(ref, auth.Remote...)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(got); err != nil {
		t.Error(err)
	}
	top, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	im := n.ledger.images["demo/multi:1"]
	if im.Index != top.String() || im.Artifact || im.Digest == im.Index {
		t.Errorf("got %+v, want an index with a part for this machine", im)
	}
	if _, err := n.Prepare(t.Context(), im.Digest); err != nil {
		t.Error(err)
	}
}

// TestArtifact: what is no image is kept and never taken for one; who refers to a digest is listed.
func TestArtifact(t *testing.T) {
	n := newCluster(t, 1, Limits{})[0]
	img := randomImage(t, 100, 1)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(img, n.host()+"/demo/web:1", n.ann()...); err != nil {
		t.Fatal(err)
	}
	config := []byte("{}")
	want(t, "config", n.do(t, "POST", "/v2/demo/web/blobs/uploads/?digest="+digestOf(config), config), 201, "")
	sig := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"application/x.sig","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"a":"b"}}`,
		typeManifest, digestOf(config), typeManifest, digest)
	a := n.do(t, "PUT", "/v2/demo/web/manifests/"+digestOf(sig), sig, "Content-Type", typeManifest)
	want(t, "artifact", a, 201, "")
	if got := a.header.Get("Oci-Subject"); got != digest.String() {
		t.Errorf("OCI-Subject: got %q, want %s", got, digest)
	}
	if im := n.ledger.images["demo/web@"+digestOf(sig)]; !im.Artifact {
		t.Errorf("got %+v, want an artifact", im)
	}
	for query, count := range map[string]int{"": 1, "?artifactType=application/x.sig": 1, "?artifactType=other": 0} {
		a := n.do(t, "GET", "/v2/demo/web/referrers/"+digest.String()+query, nil)
		if want(t, "referrers", a, 200, ""); bytes.Count(a.body, []byte(digestOf(sig))) != count || a.header.Get("Content-Type") != typeIndex {
			t.Errorf("%s: got %s, want %d", query, a.body, count)
		}
	}
}

// TestResume: an upload whose connection is cut goes on at the byte at which it ended.
func TestResume(t *testing.T) {
	n := newCluster(t, 1, Limits{})[0]
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	a := n.do(t, "POST", "/v2/demo/web/blobs/uploads/", nil)
	want(t, "begin", a, 202, "")
	at := a.header.Get("Location")
	// The body ends with an error after 1 MB of what was announced: the client has lost its connection.
	r, err := http.NewRequestWithContext(t.Context(), "PATCH", n.server.URL+at, io.MultiReader(bytes.NewReader(data[:1<<20]), brokenReader{}))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = int64(len(data))
	r.SetBasicAuth("ann", "push")
	if resp, err := n.server.Client().Do(r); err == nil {
		resp.Body.Close()
		t.Fatal("a cut connection was answered")
	}
	// How much came the client asks; the server may still be reading what was on its way.
	var have int
	for deadline := time.Now().Add(20 * time.Second); ; {
		a = n.do(t, "GET", at, nil)
		want(t, "state", a, 204, "")
		if _, err := fmt.Sscanf(a.header.Get("Range"), "0-%d", &have); err != nil {
			t.Fatalf("Range %q: %v", a.header.Get("Range"), err)
		}
		if have++; have > 1 || time.Now().After(deadline) {
			break
		}
	}
	if have <= 1 || have > 1<<20 {
		t.Fatalf("got %d bytes, want some of the first piece", have)
	}
	piece := func(from, to int) answer {
		return n.do(t, "PATCH", at, data[from:to], "Content-Range", fmt.Sprintf("%d-%d", from, to-1), "Content-Type", "application/octet-stream")
	}
	// The next piece waits for the cut one's end, so what is said then is what counts.
	if a := piece(2<<20, 3<<20); a.status != 416 || a.code() != codeUploadInvalid || a.header.Get("Location") == "" {
		t.Fatalf("a piece that leaves a gap: got %d %s", a.status, a.body)
	} else if _, err := fmt.Sscanf(a.header.Get("Range"), "0-%d", &have); err != nil {
		t.Fatal(err)
	}
	have++
	want(t, "next piece", piece(have, 2<<20), 202, "")
	want(t, "the same piece again", piece(have, 2<<20), 416, codeUploadInvalid)
	want(t, "last piece", n.do(t, "PUT", at+"?digest="+digestOf(data), data[2<<20:], "Content-Range", fmt.Sprintf("%d-%d", 2<<20, len(data)-1)), 201, "")
	if a := n.do(t, "GET", "/v2/demo/web/blobs/"+digestOf(data), nil); !bytes.Equal(a.body, data) {
		t.Error("the blob is not what was sent")
	}
	want(t, "ended upload", n.do(t, "PATCH", at, nil), 404, codeUploadUnknown)
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestAnotherNode: a client that is sent to another node in the middle of a push does not notice.
func TestAnotherNode(t *testing.T) {
	nodes := newCluster(t, 3, Limits{})
	config, layer := []byte(`{"architecture":"amd64","os":"linux"}`), []byte("layer")
	for i, data := range [][]byte{config, layer} {
		at := nodes[i].do(t, "POST", "/v2/demo/web/blobs/uploads/", nil).header.Get("Location")
		want(t, "piece to another node", nodes[2].do(t, "PATCH", at, data), 202, "")
		want(t, "end at another node", nodes[1-i].do(t, "PUT", at+"?digest="+digestOf(data), nil), 201, "")
	}
	m := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		digestOf(config), len(config), digestOf(layer), len(layer))
	want(t, "manifest", nodes[2].do(t, "PUT", "/v2/demo/web/manifests/1", m, "Content-Type", typeManifest), 201, "")
	want(t, "blob from a node that has it", nodes[1].do(t, "GET", "/v2/demo/web/blobs/"+digestOf(config), nil), 200, "")
	want(t, "upload of a node that has gone", nodes[0].do(t, "GET", "/v2/demo/web/blobs/uploads/n9.ABC", nil), 404, codeUploadUnknown)
}

func TestBlobs(t *testing.T) {
	n := newCluster(t, 1, Limits{})[0]
	data := []byte("0123456789")
	d := digestOf(data)
	blob := "/v2/demo/web/blobs/"
	want(t, "unknown", n.do(t, "GET", blob+d, nil), 404, codeBlobUnknown)
	want(t, "whole", n.do(t, "POST", blob+"uploads/?digest="+d, data), 201, "")
	if a := n.do(t, "HEAD", blob+d, nil); a.status != 200 || a.header.Get("Content-Length") != "10" || a.header.Get("Docker-Content-Digest") != d {
		t.Errorf("HEAD: got %d %v", a.status, a.header)
	}
	if a := n.do(t, "GET", blob+d, nil, "Range", "bytes=3-5"); a.status != 206 || string(a.body) != "345" || a.header.Get("Content-Range") != "bytes 3-5/10" {
		t.Errorf("part: got %d %q %v", a.status, a.body, a.header)
	}
	want(t, "part beyond the end", n.do(t, "GET", blob+d, nil, "Range", "bytes=10-"), 416, "")
	want(t, "no digest", n.do(t, "GET", blob+"sha256:xyz", nil), 400, codeDigestInvalid)
	want(t, "delete", n.do(t, "DELETE", blob+d, nil), 405, codeUnsupported)
	if a := n.do(t, "POST", "/v2/other/blobs/uploads/?mount="+d+"&from=demo/web", nil); a.status != 201 || a.header.Get("Location") != "/v2/other/blobs/"+d {
		t.Errorf("mount: got %d %v", a.status, a.header)
	}
	a := n.do(t, "POST", "/v2/other/blobs/uploads/?mount="+digestOf(nil)+"&from=demo/web", nil)
	want(t, "mount of what is not there", a, 202, "")
	want(t, "given up", n.do(t, "DELETE", a.header.Get("Location"), nil), 204, "")
	want(t, "after it was given up", n.do(t, "GET", a.header.Get("Location"), nil), 404, codeUploadUnknown)
	// The same data under another name.
	wrong := digestOf([]byte("other"))
	want(t, "wrong digest, whole", n.do(t, "POST", blob+"uploads/?digest="+wrong, data), 400, codeDigestInvalid)
	a = n.do(t, "POST", blob+"uploads/", nil)
	want(t, "wrong digest, in pieces", n.do(t, "PUT", a.header.Get("Location")+"?digest="+wrong, data), 400, codeDigestInvalid)
	want(t, "it is not stored", n.do(t, "GET", blob+wrong, nil), 404, codeBlobUnknown)
	want(t, "nor is the upload still there", n.do(t, "GET", a.header.Get("Location"), nil), 404, codeUploadUnknown)
}

func TestManifestsRefused(t *testing.T) {
	n := newCluster(t, 1, Limits{Document: 1000})[0]
	layer := digestOf([]byte("never sent"))
	at := "/v2/demo/web/manifests/1"
	ok := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":10},"layers":[]}`, layer)
	for _, c := range []struct {
		name, path, kind string
		data             []byte
		status           int
		code             string
	}{
		{"blob that never came", at, typeManifest, ok, 400, codeManifestBlobUnknown},
		{"other digest", "/v2/demo/web/manifests/" + layer, typeManifest, ok, 400, codeDigestInvalid},
		{"other type", at, typeIndex, ok, 400, codeManifestInvalid},
		{"no JSON", at, typeManifest, []byte("{"), 400, codeManifestInvalid},
		{"old schema", at, typeManifest, []byte(`{"schemaVersion":1,"config":{}}`), 400, codeManifestInvalid},
		{"both kinds", at, typeManifest, []byte(`{"schemaVersion":2,"config":{},"manifests":[]}`), 400, codeManifestInvalid},
		{"large", at, typeManifest, bytes.Repeat([]byte(" "), 1001), 413, codeSizeInvalid},
		{"bad tag", "/v2/demo/web/manifests/-1", typeManifest, ok, 400, codeManifestInvalid},
		{"upper case", "/v2/Demo/web/manifests/1", typeManifest, ok, 400, codeNameInvalid},
		{"another registry's name", "/v2/registry.example.org/web/manifests/1", typeManifest, ok, 403, codeDenied},
		{"index of a part that never came", at, typeIndex, fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"digest":%q,"size":1}]}`, layer), 400, codeManifestBlobUnknown},
		{"config's digest is a path", at, typeManifest, []byte(`{"schemaVersion":2,"config":{"digest":"sha256:../../../etc/passwd","size":1},"layers":[]}`), 400, codeManifestInvalid},
	} {
		want(t, c.name, n.do(t, "PUT", c.path, c.data, "Content-Type", c.kind), c.status, c.code)
	}
	if len(n.ledger.images) != 0 {
		t.Errorf("got %v, want no image", n.ledger.images)
	}
	want(t, "unknown repository", n.do(t, "GET", at, nil), 404, codeNameUnknown)
	want(t, "tags of an unknown repository", n.do(t, "GET", "/v2/demo/web/tags/list", nil), 404, codeNameUnknown)
}

func TestAccess(t *testing.T) {
	n := newCluster(t, 1, Limits{})[0]
	for _, c := range []struct {
		user, password, method, path string
		status                       int
	}{
		{"", "", "GET", "/v2/", 401},
		{"ann", "wrong", "GET", "/v2/", 401},
		{"ann", "push", "GET", "/v2/", 200},
		{"bob", "pull", "GET", "/v2/", 200},
		{"bob", "pull", "POST", "/v2/a/blobs/uploads/", 403},
		{"bob", "pull", "PUT", "/v2/a/manifests/1", 403},
		{"bob", "pull", "DELETE", "/v2/a/manifests/1", 403},
		{"bob", "pull", "GET", "/v2/a/blobs/uploads/n1.A", 403},
		{"ann", "push", "POST", "/v2/a/blobs/uploads/", 202},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, n.server.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.user != "" {
			r.SetBasicAuth(c.user, c.password)
		}
		resp, err := n.server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status || c.status == 401 && !strings.HasPrefix(resp.Header.Get("Www-Authenticate"), "Basic ") {
			t.Errorf("%s %s as %q: got %d, want %d", c.method, c.path, c.user, resp.StatusCode, c.status)
		}
	}
}

func TestPages(t *testing.T) {
	n := newCluster(t, 1, Limits{Page: 3})[0]
	img := randomImage(t, 10, 1)
	var all []string
	for i := range 8 {
		all = append(all, fmt.Sprintf("v%d", i))
		if err := crane.Push(img, n.host()+"/demo/web:"+all[i], n.ann()...); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := crane.ListTags(n.host()+"/demo/web", n.ann()...); err != nil || !slices.Equal(got, all) {
		t.Errorf("got %q, %v, want %q", got, err, all)
	}
	a := n.do(t, "GET", "/v2/demo/web/tags/list?n=2&last=v4", nil)
	if want(t, "page", a, 200, ""); !strings.Contains(string(a.body), `["v5","v6"]`) || !strings.Contains(a.header.Get("Link"), "last=v6") {
		t.Errorf("got %s, Link %q", a.body, a.header.Get("Link"))
	}
	want(t, "no number", n.do(t, "GET", "/v2/demo/web/tags/list?n=x", nil), 400, codeUnsupported)
}

// TestConcurrent: pushes at once of images that have layers in common.
func TestConcurrent(t *testing.T) {
	nodes := newCluster(t, 2, Limits{})
	base := randomImage(t, 20_000, 3)
	var wg sync.WaitGroup
	for i := range 12 {
		n := nodes[i%2]
		wg.Go(func() {
			layer, err := random.Layer(1000, "application/vnd.oci.image.layer.v1.tar")
			if err != nil {
				t.Error(err)
				return
			}
			img, err := mutate.AppendLayers(base, layer)
			if err != nil {
				t.Error(err)
				return
			}
			if err := crane.Push(img, fmt.Sprintf("%s/demo/many:%d", n.host(), i), n.ann()...); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 12 {
		n := nodes[(i+1)%2]
		img, err := crane.Pull(fmt.Sprintf("%s/demo/many:%d", n.host(), i), n.ann()...)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img); err != nil {
			t.Error(err)
		}
	}
	for _, n := range nodes {
		if len(n.registry.uploads) != 0 {
			t.Errorf("%s: %d uploads are left", n.name, len(n.registry.uploads))
		}
	}
}

func TestLimits(t *testing.T) {
	n := newCluster(t, 1, Limits{Blob: 1000, Uploads: 2, Stall: 50 * time.Millisecond})[0]
	begin := func() answer { return n.do(t, "POST", "/v2/a/blobs/uploads/", nil) }
	first := begin()
	want(t, "first", first, 202, "")
	want(t, "second", begin(), 202, "")
	if a := begin(); a.status != 429 || a.code() != codeTooMany || a.header.Get("Retry-After") == "" {
		t.Errorf("third: got %d %s", a.status, a.body)
	}
	at := first.header.Get("Location")
	want(t, "large piece", n.do(t, "PATCH", at, make([]byte, 1001)), 413, codeSizeInvalid)
	// One that does not say how much it will be.
	send := func(body io.Reader) (answer, error) {
		r, err := http.NewRequestWithContext(t.Context(), "PATCH", n.server.URL+at, body)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("ann", "push")
		resp, err := n.server.Client().Do(r)
		if err != nil {
			return answer{}, err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		return answer{resp.StatusCode, resp.Header, data}, err
	}
	if a, err := send(io.LimitReader(endless{}, 64<<20)); err == nil {
		want(t, "endless piece", a, 413, codeSizeInvalid)
	}
	stopped, w := io.Pipe()
	defer w.Close()
	if a, err := send(stopped); err == nil {
		want(t, "silent connection", a, 408, codeUploadInvalid)
	}
	if got := n.registry.Sweep(time.Now().Add(59 * time.Minute)); got != 0 {
		t.Errorf("removed %d uploads that are not abandoned", got)
	}
	if got := n.registry.Sweep(time.Now().Add(61 * time.Minute)); got != 2 {
		t.Errorf("removed %d abandoned uploads, want 2", got)
	}
	want(t, "after it was abandoned", n.do(t, "GET", at, nil), 404, codeUploadUnknown)
	want(t, "room again", begin(), 202, "")
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// FuzzRequests: whatever is asked is answered by success or by the specification's error, never by trouble of the server.
func FuzzRequests(f *testing.F) {
	for _, s := range []struct{ method, path, body string }{
		{"GET", "/v2/demo/web/manifests/1", ""}, {"PUT", "/v2/demo/web/manifests/1", `{"schemaVersion":2,"config":{},"layers":[]}`},
		{"POST", "/v2/demo/web/blobs/uploads/?digest=sha256:", "x"}, {"GET", "/v2/a/tags/list?n=1&last=%ff", ""},
		{"PATCH", "/v2/a/blobs/uploads/n1.x", "x"}, {"GET", "/v2/a/referrers/sha256:0", ""}, {"GET", "/v2/blobs/blobs/../../x", ""},
		{"PUT", "/v2/a/manifests/1", `{"schemaVersion":2,"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `"}]}`},
	} {
		f.Add(s.method, s.path, "0-1", []byte(s.body))
	}
	n := newCluster(f, 1, Limits{Stall: time.Second})[0]
	f.Fuzz(func(t *testing.T, method, path, contentRange string, body []byte) {
		u, err := url.Parse(path)
		if err != nil || len(method) > 10 {
			return
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{"Content-Range": {contentRange}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
		r.SetBasicAuth("ann", "push")
		w := &recorder{header: http.Header{}}
		n.registry.ServeHTTP(w, r.WithContext(t.Context()))
		a := answer{w.status, w.header, w.body.Bytes()}
		if a.status >= 500 || a.status >= 400 && a.status != 416 && method != "HEAD" && a.code() == "" {
			t.Errorf("%s %q %q: got %d %s", method, path, body, a.status, a.body)
		}
		n.registry.Sweep(time.Now().Add(2 * time.Hour))
		if len(n.registry.uploads) != 0 {
			t.Errorf("%s %q: an upload stays for ever", method, path)
		}
	})
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}
