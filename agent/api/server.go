package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/netip"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/iscsi"
)

// Backend is what the API needs from the node it runs on.
type Backend interface {
	Explainer
	Self() string
	// State is the newest copy of the ledger; never nil.
	State() *cluster.State
	// Coordinator is the node that decides now, empty if there is none.
	Coordinator() string
	// Observe is what this node knows beyond the ledger. It costs a plan on the goroutine that also sends
	// the heartbeats: ask once for an answer.
	Observe() Observation
	// Memory is what Skein takes on this node.
	Memory() Memory

	Commit(ctx context.Context, t cluster.Txn) (ok bool, err error)
	// CommitAt tells the ledger's revision of the change, too.
	CommitAt(ctx context.Context, t cluster.Txn) (revision int64, ok bool, err error)
	// Disks are those of this node.
	Disks() Disks
	SharedFS() SharedFS
	Netboot() Netboot
	// SAN is this node's side of the storage network.
	SAN() NodeSAN
	// DiscoverSAN has this node ask a portal for its targets (SendTargets).
	DiscoverSAN(ctx context.Context, portal netip.AddrPort) ([]iscsi.Portal, error)
	Events(ctx context.Context, after uint64, follow bool, fn func(cluster.Event) error) error

	LoadImage(ctx context.Context, archive io.Reader) ([]cluster.Image, error)
	PullImage(ctx context.Context, ref string) (cluster.Image, error)
	// AwaitCopy returns when another node holds the image too, at once if there is no other node.
	AwaitCopy(ctx context.Context, im cluster.Image) error
	Blob(digest string) (io.ReadSeekCloser, int64, error)

	// Logs and Exec concern instances of this node only.
	Logs(ctx context.Context, instance string, follow bool, tail int, fn func(line string) error) error
	Exec(ctx context.Context, instance string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error)

	// ReadPower asks a node's power controller whether it is on or off, by the way-th of its addresses.
	ReadPower(ctx context.Context, node string, way int) (power string, err error)

	// Peer is a transport to another node's API and its base URL.
	Peer(node *cluster.Node) (http.RoundTripper, string)
	// Reboot and PowerOff act on this node; they return at once.
	Reboot(reason string)
	PowerOff(reason string)
	// RestartAgent ends this node's agent a moment later; a new one goes on, the services do not notice.
	RestartAgent(reason string)
}

// Observation is how one node sees the cluster at one moment.
type Observation struct {
	// Links tells how ports of peers are heard, by node and name of the port; those that are missing are
	// not known.
	Links map[PeerLink]LinkStatus
	// Pending tells why instances are missing, in sentences, by the full name of their service.
	Pending map[string][]string
	// Restarting are the nodes whose agent has ended and is about to be back.
	Restarting map[string]bool
	// Heard are the nodes whose heartbeats are being received here, in the boot that the ledger knows.
	Heard map[string]bool
	// Frozen tells what the ledger waits for that has lost its majority, in clauses; nil while it has one.
	// The state is then this node's copy, and may be old.
	Frozen []string
}

// PeerLink names a port of another node.
type PeerLink struct{ Node, Link string }

// Server answers the API on one node.
type Server struct {
	backend Backend
	log     *slog.Logger
	mux     *http.ServeMux
	// role finds out who calls.
	role func(*http.Request) (role, name string)
	// patterns are those of all routes that need a role.
	patterns []string
}

// NewServer makes the API's handler. join answers POST /v1/join and /v1/ask, the only requests that need no
// certificate; role tells who calls.
func NewServer(b Backend, join http.Handler, role func(*http.Request) (string, string), log *slog.Logger) *Server {
	s := &Server{backend: b, log: log, mux: http.NewServeMux(), role: role}
	s.mux.Handle("POST /v1/join", join)
	s.handle("GET /v1/status", s.status)
	s.handle("GET /v1/events", s.events)
	s.handle("GET /v1/why", s.why)
	s.handle("GET /v1/snapshot", s.snapshot)
	s.handle("GET /v1/decisions", s.decisions)
	s.handle("GET /v1/decisions/{id}", s.decision)
	s.handle("PUT /v1/stacks/{stack}", s.deploy)
	s.handle("DELETE /v1/stacks/{stack}", s.removeStack)
	s.handle("GET /v1/images", s.images)
	s.handle("POST /v1/images", s.loadImage)
	s.handle("POST /v1/images/pull", s.pullImage)
	s.handle("GET /v1/blobs/{digest}", s.blob)
	s.handle("GET /v1/instances/{id}/logs", s.logs)
	s.handle("POST /v1/instances/{id}/exec", s.exec)
	s.handle("POST /v1/nodes/{name}/drain", s.drain)
	s.handle("POST /v1/nodes/{name}/undrain", s.undrain)
	s.handle("POST /v1/nodes/{name}/reboot", s.reboot)
	s.handle("POST /v1/nodes/{name}/poweroff", s.powerOff)
	s.handle("POST /v1/nodes/{name}/release", s.release)
	s.handle("POST /v1/nodes/{name}/restart-agent", s.restartAgent)
	s.handle("DELETE /v1/nodes/{name}", s.removeNode)
	s.handle("PUT /v1/nodes/{name}/bmc", s.setBMC)
	s.handle("GET /v1/nodes/{name}/bmc", s.showBMC)
	s.handle("DELETE /v1/nodes/{name}/bmc", s.removeBMC)
	s.handle("POST /v1/nodes/{name}/bmc/test", s.testBMC)
	s.handle("GET /v1/fences", s.fences)
	s.handle("PUT /v1/nodes/{name}/watchdog", s.setWatchdog)
	s.handle("POST /v1/nodes/{name}/confirm-off", s.confirmOff)
	s.handle("PUT /v1/clusterdisk", s.setClusterDisk)
	s.handle("GET /v1/clusterdisk", s.showClusterDisk)
	s.storageRoutes()
	s.sharedRoutes()
	s.updateRoutes()
	s.netbootRoutes()
	s.admissionRoutes(join)
	s.userRoutes(join)
	s.invitationRoutes()
	// Where a slow agent spends its time, for `go tool pprof`.
	s.handle("GET /debug/pprof/profile", func(w http.ResponseWriter, r *http.Request) error { pprof.Profile(w, r); return nil })
	s.handle("GET /debug/pprof/", func(w http.ResponseWriter, r *http.Request) error { pprof.Index(w, r); return nil })
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// handle registers a handler for callers whose role is enough (routes) and turns its error into an answer.
func (s *Server) handle(pattern string, h func(http.ResponseWriter, *http.Request) error) {
	s.patterns = append(s.patterns, pattern)
	need := needOf(pattern)
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		role, name := s.role(r)
		if !need.permits(role) {
			writeError(w, &statusError{http.StatusForbidden, fmt.Errorf("%s %q may not do this; it needs a certificate with the role %s",
				orUnknown(role), name, need)})
			return
		}
		if err := h(w, r); err != nil {
			s.log.Debug("api", "request", r.Method+" "+r.URL.Path, "caller", name, "err", err)
			writeError(w, err)
		}
	})
}

func orUnknown(role string) string {
	if role == RoleNone {
		return "a caller without a role"
	}
	return role
}

// statusError is an error with the HTTP status it is answered with; other errors are 500.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func notFound(format string, a ...any) error {
	return &statusError{http.StatusNotFound, fmt.Errorf(format, a...)}
}

func badRequest(format string, a ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Errorf(format, a...)}
}

func conflict(format string, a ...any) error {
	return &statusError{http.StatusConflict, fmt.Errorf(format, a...)}
}

func writeError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var se *statusError
	var refused interface{ Status() int } // of package admission
	switch {
	case errors.As(err, &se):
		status = se.status
	case errors.As(err, &refused):
		status = refused.Status()
	}
	writeJSON(w, status, Error{Message: err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller has gone: nobody left to tell
}

// stream writes JSON values, a line each, and flushes after every one.
type stream struct {
	enc *json.Encoder
	rc  *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	st := &stream{enc: json.NewEncoder(w), rc: http.NewResponseController(w)}
	_ = st.rc.Flush() // headers now: a follower of a quiet stream must not look like a hanging request
	return st
}

func (st *stream) send(v any) error {
	if err := st.enc.Encode(v); err != nil {
		return err
	}
	return st.rc.Flush()
}
