package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
)

// ledger is what the nodes of a test's cluster share.
type ledger struct {
	mu     sync.Mutex
	images map[string]cluster.Image
	inUse  map[string]bool // digests
	nodes  map[string]*testNode
}

// testNode is a node with a real image store; only the ledger is a map.
type testNode struct {
	*container.Images
	ledger   *ledger
	name     string
	registry *Registry
	server   *httptest.Server
}

func (n *testNode) Login(user, password string) Access {
	switch user + ":" + password {
	case "ann:push":
		return AccessPush
	case "bob:pull":
		return AccessPull
	}
	return AccessNone
}

// backend is testNode as the registry sees it: its store's own name collides with a method.
type backend struct{ *testNode }

func (b backend) Images() []cluster.Image {
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	var out []cluster.Image
	for _, im := range b.ledger.images {
		out = append(out, im)
	}
	slices.SortFunc(out, func(x, y cluster.Image) int { return strings.Compare(x.Ref, y.Ref) })
	return out
}

// fetch gets a blob from another node of the test.
func (b backend) fetch(_ context.Context, digest string) (io.ReadCloser, error) {
	for _, n := range b.ledger.nodes {
		if n != b.testNode {
			if f, _, err := n.Blob(digest); err == nil {
				return f, nil
			}
		}
	}
	return nil, fmt.Errorf("blob %s: %w", digest, container.ErrNotFound)
}

func (b backend) Open(ctx context.Context, digest string) (io.ReadSeekCloser, int64, error) {
	f, size, err := b.Blob(digest)
	if !errors.Is(err, container.ErrNotFound) {
		return f, size, err
	}
	if err := b.Bring(ctx, digest, 1<<30, b.fetch); err != nil {
		return nil, 0, err
	}
	return b.Blob(digest)
}

func (b backend) NewUpload(limit int64) (Upload, error) { return b.testNode.Images.NewUpload(limit) }

func (b backend) Tag(ctx context.Context, _, ref, digest string) error {
	im, err := b.Record(ctx, ref, digest, container.SourcePush, b.fetch)
	if err != nil {
		return err
	}
	if err := b.Add(im); err != nil {
		return err
	}
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	if old, ok := b.ledger.images[ref]; ok && old.Top() != im.Top() {
		old = old.ByDigest()
		b.ledger.images[old.Ref] = old
	}
	b.ledger.images[ref] = im
	return nil
}

func (b backend) Untag(_ context.Context, _ string, refs []string) error {
	b.ledger.mu.Lock()
	defer b.ledger.mu.Unlock()
	for _, r := range refs {
		if b.ledger.inUse[b.ledger.images[r].Digest] {
			return fmt.Errorf("image %s is in use by demo/web: %w", r, ErrInUse)
		}
	}
	for _, r := range refs {
		delete(b.ledger.images, r)
		if err := b.Remove(r); err != nil {
			return err
		}
	}
	return nil
}

func (b backend) Forward(node string) http.Handler {
	if n := b.ledger.nodes[node]; n != nil {
		return n.registry
	}
	return nil
}

// newCluster makes nodes n1, n2, ... that answer over TLS.
func newCluster(t testing.TB, nodes int, limits Limits) []*testNode {
	t.Helper()
	l := &ledger{images: map[string]cluster.Image{}, inUse: map[string]bool{}, nodes: map[string]*testNode{}}
	var out []*testNode
	for i := range nodes {
		store, err := container.OpenImages(t.TempDir(), container.Limits{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		n := &testNode{Images: store, ledger: l, name: fmt.Sprintf("n%d", i+1)}
		n.registry = New(n.name, backend{n}, limits, slog.New(slog.DiscardHandler))
		n.server = httptest.NewTLSServer(n.registry)
		t.Cleanup(n.server.Close)
		l.nodes[n.name] = n
		out = append(out, n)
	}
	return out
}

// host is a name in the certificate of httptest's servers: crane takes a loopback address for a server without TLS.
func (n *testNode) host() string { return "example.com" }

func (n *testNode) options(user, password string) []crane.Option {
	return []crane.Option{crane.WithTransport(n.server.Client().Transport),
		crane.WithAuth(authn.FromConfig(authn.AuthConfig{Username: user, Password: password}))}
}

func (n *testNode) ann() []crane.Option { return n.options("ann", "push") }

// answer is a whole answer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// code is the specification's code of an error answer.
func (a answer) code() string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &e) != nil || len(e.Errors) != 1 || e.Errors[0].Message == "" {
		return ""
	}
	return e.Errors[0].Code
}

// do sends a request as ann, who may push.
func (n *testNode) do(t testing.TB, method, path string, body []byte, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, n.server.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("ann", "push")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := n.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, data}
}

func want(t testing.TB, what string, a answer, status int, code string) {
	t.Helper()
	if a.status != status || code != "" && a.code() != code {
		t.Fatalf("%s: got %d %s %s, want %d %s", what, a.status, a.code(), a.body, status, code)
	}
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

func randomImage(t testing.TB, size int64, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(size, layers)
	if err != nil {
		t.Fatal(err)
	}
	return img
}
