package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
)

// Access is what a user may do.
type Access int

// Each allows what is before it, too.
const (
	AccessNone Access = iota
	AccessPull
	AccessPush
)

// Upload is a blob that arrives in pieces: container.Upload.
type Upload interface {
	io.Writer
	Size() int64
	// Commit puts the blob into the store if it has this digest. The upload is over, whatever comes of it.
	Commit(digest string) error
	Cancel() error
}

// Backend is what the registry is made of. "Not there" is container.ErrNotFound.
type Backend interface {
	// Login tells what a user may do, AccessNone if name or password are wrong.
	Login(user, password string) Access
	// Images are all that the cluster has.
	Images() []cluster.Image
	// Open opens a blob, from another node if it is not on this one.
	Open(ctx context.Context, digest string) (io.ReadSeekCloser, int64, error)
	// Hold keeps a blob of this node for some time without a name, and tells its size.
	Hold(digest string) (int64, error)
	NewUpload(limit int64) (Upload, error)
	// Tag gives a manifest or index a normalized name. Blobs that are not on this node it fetches. It returns when the
	// ledger and another node have it.
	Tag(ctx context.Context, user, ref, digest string) error
	// Untag removes names. ErrInUse if a service or a job needs one of them.
	Untag(ctx context.Context, user string, refs []string) error
	// Forward is a handler that passes a request on to another node, nil if there is no such node.
	Forward(node string) http.Handler
}

// Limits bound what clients may take. The zero value of a field means its default.
type Limits struct {
	Document int64         // bytes of a manifest or index; 4 MiB
	Blob     int64         // bytes of a blob; 4 GiB
	Uploads  int           // that are open on one node; 64
	Idle     time.Duration // without a byte, after which an upload is removed; 1 h
	Stall    time.Duration // without a byte, after which a connection is given up; 1 min
	Page     int           // entries of one answer to a list; 1,000
}

func (l Limits) withDefaults() Limits {
	l.Document = cmp.Or(l.Document, 4<<20)
	l.Blob = cmp.Or(l.Blob, 4<<30)
	l.Uploads = cmp.Or(l.Uploads, 64)
	l.Idle = cmp.Or(l.Idle, time.Hour)
	l.Stall = cmp.Or(l.Stall, time.Minute)
	l.Page = cmp.Or(l.Page, 1000)
	return l
}

// Registry answers clients on one node.
type Registry struct {
	self    string
	backend Backend
	limits  Limits
	log     *slog.Logger

	mu      sync.Mutex
	uploads map[string]*session
}

// New makes the handler for the node self.
func New(self string, b Backend, limits Limits, log *slog.Logger) *Registry {
	return &Registry{self: self, backend: b, limits: limits.withDefaults(), log: log, uploads: map[string]*session{}}
}

// From the distribution specification, "Pulling manifests".
var (
	nameForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// request is a request taken apart.
type request struct {
	*http.Request
	w    http.ResponseWriter
	user string
	name string // repository as the client wrote it, for locations
	repo string // as it is in references
	rest string // what follows: the digest, tag or upload's id
}

func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := g.serve(w, r); err != nil {
		g.log.Debug("registry", "request", r.Method+" "+r.URL.Path, "err", err)
		writeError(w, err)
	}
}

func (g *Registry) serve(w http.ResponseWriter, r *http.Request) error {
	user, password, ok := r.BasicAuth()
	access := AccessNone
	if ok {
		access = g.backend.Login(user, password)
	}
	if access == AccessNone {
		w.Header().Set("Www-Authenticate", `Basic realm="skein", charset="UTF-8"`)
		return refuse(http.StatusUnauthorized, codeUnauthorized, "a user and a password are needed; 'skein registry user add NAME' makes them")
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case r.URL.Path == "/v2" || ok && path == "":
		if !read {
			return notAllowed("GET")
		}
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, "{}\n")
		return ignoreGone(err)
	case ok && path == "_catalog":
		if !read {
			return notAllowed("GET")
		}
		return g.catalog(&request{Request: r, w: w, user: user})
	case !ok:
		return refuse(http.StatusNotFound, codeUnsupported, "there is nothing at %.200q; the registry is below /v2/", r.URL.Path)
	}
	name, kind, rest := split(path)
	if kind == "" {
		return refuse(http.StatusNotFound, codeUnsupported, "%.200q is no path of the distribution specification", r.URL.Path)
	}
	repo, err := repository(name)
	if err != nil {
		return err
	}
	q := &request{Request: r, w: w, user: user, name: name, repo: repo, rest: rest}
	// An upload's state is for who may push, even to read.
	if access < AccessPush && (!read || kind == "uploads") {
		return refuse(http.StatusForbidden, codeDenied, "user %s may pull, not push", user)
	}
	switch kind {
	case "blobs":
		return g.blob(q, read)
	case "uploads":
		return g.upload(q)
	case "manifests":
		return g.manifest(q, read)
	case "tags":
		if !read {
			return notAllowed("GET")
		}
		return g.tags(q)
	default: // referrers
		if !read {
			return notAllowed("GET")
		}
		return g.referrers(q)
	}
}

// split takes a path apart. A repository's name may have any number of parts, among them "blobs" or "tags": so it is
// looked at from its end.
func split(path string) (name, kind, rest string) {
	if name, ok := strings.CutSuffix(path, "/tags/list"); ok {
		return name, "tags", ""
	}
	for _, end := range []string{"/blobs/uploads/", "/blobs/uploads"} {
		if name, ok := strings.CutSuffix(path, end); ok {
			return name, "uploads", ""
		}
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", "", ""
	}
	rest = path[i+1:]
	for _, k := range []struct{ end, kind string }{{"/blobs/uploads", "uploads"}, {"/blobs", "blobs"}, {"/manifests", "manifests"}, {"/referrers", "referrers"}} {
		if name, ok := strings.CutSuffix(path[:i], k.end); ok {
			return name, k.kind, rest
		}
	}
	return "", "", ""
}

// repository is how a repository's name begins the references of its images.
func repository(name string) (string, error) {
	if len(name) > 255 || !nameForm.MatchString(name) {
		return "", refuse(http.StatusBadRequest, codeNameInvalid, "repository %.260q: a name has lower-case letters, digits and single separators between them, like demo/web", name)
	}
	ref, err := container.Normalize(name + ":x")
	if err != nil {
		return "", refuse(http.StatusBadRequest, codeNameInvalid, "repository %s: %v", name, err)
	}
	return strings.TrimSuffix(ref, ":x"), nil
}

// ours tells whether a name can be pushed to: one that begins with another registry's host is of images from there.
func ours(repo string) bool {
	host, _, ok := strings.Cut(repo, "/")
	return !ok || host != "localhost" && !strings.ContainsAny(host, ".:")
}

func notAllowed(methods string) error {
	return refuse(http.StatusMethodNotAllowed, codeUnsupported, "only %s is possible here", methods)
}

func (q *request) location(format string, a ...any) {
	q.w.Header().Set("Location", "/v2/"+q.name+fmt.Sprintf(format, a...))
}

// ignoreGone: an answer that its reader does not take is nobody's error, and nothing more can be said.
func ignoreGone(error) error { return nil }

// storeError is how an error of the store or the ledger is answered.
func storeError(err error, unknown string) error {
	switch {
	case errors.Is(err, container.ErrNotFound):
		return refuse(http.StatusNotFound, unknown, "%v", err)
	case errors.Is(err, container.ErrDigest):
		return refuse(http.StatusBadRequest, codeDigestInvalid, "%v", err)
	case errors.Is(err, container.ErrManifest):
		return refuse(http.StatusBadRequest, codeManifestInvalid, "%v", err)
	case errors.Is(err, container.ErrTooLarge):
		return refuse(http.StatusRequestEntityTooLarge, codeSizeInvalid, "%v", err)
	case errors.Is(err, ErrInUse):
		return refuse(http.StatusForbidden, codeDenied, "%v", err)
	case errors.Is(err, ErrConflict):
		return refuse(http.StatusConflict, codeDenied, "%v", err)
	case isFull(err):
		return refuse(http.StatusInsufficientStorage, codeUnavailable, "%v", err)
	}
	return err
}
