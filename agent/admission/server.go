package admission

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// Ledger is what admission needs of the store.
type Ledger interface {
	Read(context.Context) (*cluster.State, error)
	Get(ctx context.Context, key string, into any) (revision int64, err error)
	Secret(ctx context.Context, name string) ([]byte, error)
	Commit(context.Context, cluster.Txn) (revision int64, ok bool, err error)
	Endpoints() []string
}

// Survivor is a Ledger that may have lost its majority for good. Then it admits nobody, but remembers who
// asks: a machine that asks in a new boot has ended its old one, and when every machine has promised to
// follow this member, it may go on alone.
type Survivor interface {
	// Stranded tells that it is so, and what to promise.
	Stranded() (cluster.Pledge, bool)
	LocalSecret(ctx context.Context, name string) ([]byte, error)
	// Asked takes a machine that has proved the token just now, with what it has promised.
	Asked(node, machineID, bootID string, p cluster.Pledge)
}

// keyAllotted is written by every admission, so that no two allot the same number at once.
const keyAllotted = cluster.KeyRoot + "allotted"

// allotted is the last admission.
type allotted struct {
	Node   string `json:"node"`
	Number uint8  `json:"number"`
}

// maxNumber is the highest number of a node: 251 to 254 of the cluster's network are kept free.
const maxNumber = 250

// Limits on strangers. A machine needs one request; guessing a 256-bit token is hopeless at any rate, so
// this only keeps strangers from using up the node's processor and the event log.
const (
	requestsPerSecond = 5 // of one address
	requestBurst      = 10
	knownAddresses    = 1024
	requestTime       = 15 * time.Second // to send a request, which is one packet
	eventEvery        = 10 * time.Second // an event of a refusal, on average
	eventBurst        = 5
)

// Server admits machines and operators. Any member can be one.
type Server struct {
	// Heard tells whether heartbeats of that boot of a node arrive here now; nil: nobody knows. To be set
	// before the first request. A machine that comes in another boot than one that is heard is a copy of it,
	// or has the same id: its admission would count as proof that the one that is heard has ended.
	Heard func(ctx context.Context, node, bootID string) bool

	node   string
	ledger Ledger
	log    *slog.Logger
	now    func() time.Time
	within time.Duration // requestTime

	mu       sync.Mutex
	limits   map[string]*rate.Limiter
	events   *rate.Limiter
	silenced int // refusals since the last one that became an event

	applicants applicants
	news       *rate.Limiter // events of machines that begin to wait
}

// NewServer makes the handler of POST /v1/join on a node. It must be reached over TLS 1.3.
func NewServer(node string, l Ledger, log *slog.Logger) *Server {
	return &Server{node: node, ledger: l, log: log, now: time.Now, within: requestTime,
		limits: make(map[string]*rate.Limiter), events: rate.NewLimiter(rate.Every(eventEvery), eventBurst),
		news: rate.NewLimiter(rate.Every(eventEvery), eventBurst)}
}

// refused is an error with its HTTP status.
type refused struct {
	status int
	err    error
}

func (r *refused) Error() string { return r.err.Error() }
func (r *refused) Unwrap() error { return r.err }

func refuse(status int, format string, a ...any) error {
	return &refused{status, fmt.Errorf(format, a...)}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	w.Header().Set("Content-Type", "application/json")
	if !s.allow(host) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		_ = json.NewEncoder(w).Encode(refusal{Error: "too many requests to join from " + host})
		return
	}
	serve := s.serve
	if r.URL.Path == AskPath {
		serve = s.serveAsk
	}
	data, subject, err := serve(w, r)
	if err != nil {
		status := http.StatusInternalServerError
		var re *refused
		if errors.As(err, &re) {
			status = re.status
		}
		s.log.Warn("not admitted", "from", host, "name", subject, "err", err)
		if status < http.StatusInternalServerError {
			s.refusalEvent(r.Context(), host, subject, err)
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(refusal{Error: err.Error()}) // the caller has gone: nobody left to tell
		return
	}
	_, _ = w.Write(data)
}

// serve answers one request. Nothing of a request is looked at before its proof was found right, except
// for the envelope.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) (reply []byte, subject string, err error) {
	ch, err := channel(r.TLS)
	if err != nil {
		return nil, "", refuse(http.StatusBadRequest, "%w", err)
	}
	env, err := s.readEnvelope(w, r)
	if err != nil {
		return nil, "", err
	}
	alone, to, stranded := s.stranded()
	secret := s.ledger.Secret
	if stranded {
		secret = alone.LocalSecret
	}
	token, err := secret(r.Context(), secretToken)
	if err != nil {
		return nil, "", fmt.Errorf("this member cannot admit now: %w", err)
	}
	if !hmac.Equal(env.Proof, proveRequest(token, ch, env.Body)) {
		return nil, "", refuse(http.StatusUnauthorized, "the machine does not have this cluster's token, or somebody is between it and this member: check the token in its seed")
	}
	req, err := parseRequest(env.Body)
	if err != nil {
		return nil, "", refuse(http.StatusBadRequest, "%w", err)
	}
	var ans *answer
	switch {
	case !stranded:
		ans, err = s.admit(r.Context(), req, tokenGrant)
	case req.Role == RoleNode:
		ans, err = s.askAgain(alone, to, req)
	default:
		err = errors.New("this member cannot admit now: the ledger has lost its majority")
	}
	if err != nil {
		return nil, req.Name, err
	}
	body, err := json.Marshal(ans)
	if err != nil {
		return nil, req.Name, fmt.Errorf("answer: %w", err)
	}
	reply, err = json.Marshal(envelope{Body: body, Proof: proveAnswer(token, ch, env.Body, body)})
	return reply, req.Name, err
}

// readEnvelope reads what a stranger sends: a stranger that sends slowly, or nothing, must not be waited for without end.
func (s *Server) readEnvelope(w http.ResponseWriter, r *http.Request) (*envelope, error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.within))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		return nil, refuse(http.StatusRequestEntityTooLarge, "request is incomplete or longer than %d bytes: %w", maxMessage, err)
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // of what follows; the decision may take longer
	env, err := parseEnvelope(data)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%w", err)
	}
	return env, nil
}

func (s *Server) stranded() (alone Survivor, to cluster.Pledge, ok bool) {
	if alone, ok = s.ledger.(Survivor); ok {
		to, ok = alone.Stranded()
	}
	return alone, to, ok
}

// askAgain answers a machine that cannot be admitted before the ledger is restored, or has a leader again.
func (s *Server) askAgain(alone Survivor, to cluster.Pledge, req *Request) (*answer, error) {
	var promised cluster.Pledge
	if req.Pledge != nil {
		promised = *req.Pledge
	}
	if promised.ClusterID == to.ClusterID && promised.Node != s.node {
		return nil, promisedElsewhere(req)
	}
	alone.Asked(req.Name, req.MachineID, req.BootID, promised)
	return &answer{Version: Version, AdmittedBy: s.node, Stranded: &to}, nil
}

func promisedElsewhere(req *Request) error {
	return refuse(http.StatusConflict, "this machine has promised to follow %s, which may be restoring the ledger: it must join there, or reboot", req.Pledge.Node)
}

func (s *Server) allow(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limits[host]
	if l == nil {
		if len(s.limits) >= knownAddresses {
			clear(s.limits) // forgetting is cheaper than being exact, and bounded
		}
		l = rate.NewLimiter(requestsPerSecond, requestBurst)
		s.limits[host] = l
	}
	return l.Allow()
}

// refusalEvent tells the cluster of a refusal, unless there were many.
func (s *Server) refusalEvent(ctx context.Context, host, subject string, why error) {
	s.mu.Lock()
	if !s.events.Allow() {
		s.silenced++
		s.mu.Unlock()
		return
	}
	more := s.silenced
	s.silenced = 0
	s.mu.Unlock()
	e := cluster.Event{Time: s.now(), Node: s.node, Kind: cluster.EventNode, Subject: subject,
		Text: "a machine at " + host + " was not admitted", Why: why.Error()}
	if e.Subject == "" {
		e.Subject = host
	}
	if more > 0 {
		e.Text += fmt.Sprintf(" (and %d more refusals before)", more)
	}
	if _, _, stranded := s.stranded(); stranded {
		return // nothing can be recorded, and the one who asks is not to wait for it
	}
	if _, _, err := s.ledger.Commit(ctx, cluster.Txn{Events: []cluster.Event{e}}); err != nil {
		s.log.Warn("refusal could not be recorded", "err", err)
	}
}

func (s *Server) admit(ctx context.Context, req *Request, g grant) (*answer, error) {
	csr, err := pki.ParseCSR(req.CSR)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%w", err)
	}
	caCert, err := s.ledger.Secret(ctx, secretCACert)
	if err != nil {
		return nil, fmt.Errorf("this member cannot admit now: %w", err)
	}
	caKey, err := s.ledger.Secret(ctx, secretCAKey)
	if err != nil {
		return nil, fmt.Errorf("this member cannot admit now: %w", err)
	}
	ca, err := pki.ParseCA(caCert, caKey)
	if err != nil {
		return nil, err
	}
	var meta cluster.Meta
	if rev, err := s.ledger.Get(ctx, cluster.KeyMeta, &meta); err != nil || rev == 0 {
		return nil, fmt.Errorf("this member cannot admit now: the ledger has no cluster: %w", err)
	}
	if req.Cluster != meta.Name {
		return nil, refuse(http.StatusConflict, "this is cluster %q, not %q: check the cluster in the machine's seed", meta.Name, req.Cluster)
	}
	// Who waits for another member's ledger must not enter this one meanwhile: they may be two.
	if p := req.Pledge; p != nil && p.ClusterID == meta.ID && p.Node != s.node {
		return nil, promisedElsewhere(req)
	}
	ans := &answer{Version: Version, CA: caCert, Meta: meta, AdmittedBy: s.node}
	if req.Role == RoleOperator {
		return ans, s.admitOperator(ctx, ca, req, ans)
	}
	node, err := s.admitNode(ctx, req, g)
	if err != nil {
		return nil, err
	}
	ans.Node = *node
	if ans.Cert, err = ca.SignNode(csr, node.Name, addresses(meta, node), s.now()); err != nil {
		return nil, err
	}
	if ans.HeartbeatKey, err = s.ledger.Secret(ctx, secretHeartbeat); err != nil {
		return nil, fmt.Errorf("this member cannot admit now: %w", err)
	}
	ans.Endpoints = s.ledger.Endpoints()
	return ans, nil
}

func (s *Server) admitOperator(ctx context.Context, ca *pki.CA, req *Request, ans *answer) error {
	csr, err := pki.ParseCSR(req.CSR)
	if err != nil {
		return refuse(http.StatusBadRequest, "%w", err)
	}
	hash, err := pki.KeyHash(csr.PublicKey)
	if err != nil {
		return err
	}
	list, err := s.ledger.Secret(ctx, secretOperators)
	if err != nil {
		return fmt.Errorf("this member cannot admit now: %w", err)
	}
	var operators []string
	if err := json.Unmarshal(list, &operators); err != nil {
		return fmt.Errorf("list of operators in the ledger: %w", err)
	}
	if !slices.Contains(operators, hash) {
		return refuse(http.StatusForbidden, "the key %.16s... is not one of this cluster's operators: the seed that formed the cluster must list its hash", hash)
	}
	if ans.Cert, err = ca.SignOperator(csr, req.Name, s.now()); err != nil {
		return err
	}
	_, _, err = s.ledger.Commit(ctx, cluster.Txn{Events: []cluster.Event{{Time: s.now(), Node: s.node, Kind: cluster.EventCluster,
		Subject: req.Name, Text: "operator " + req.Name + " was given a certificate", Why: "holds the operator key " + hash[:16]}}})
	return err
}

// admitNode writes the machine's node record, by compare-and-swap against everything it was decided on.
func (s *Server) admitNode(ctx context.Context, req *Request, g grant) (*cluster.Node, error) {
	for {
		// Read first: if another admission comes between, this key has moved on and the commit is refused.
		var last allotted
		lastRev, err := s.ledger.Get(ctx, keyAllotted, &last)
		if err != nil {
			return nil, fmt.Errorf("this member cannot admit now: %w", err)
		}
		st, err := s.ledger.Read(ctx)
		if err != nil {
			return nil, fmt.Errorf("this member cannot admit now: %w", err)
		}
		node, event, err := decideNode(st, req)
		if err != nil || event == "" {
			return node, err
		}
		if old := st.Node(req.Name); old != nil && s.Heard != nil && s.Heard(ctx, old.Name, old.BootID) {
			return nil, refuse(http.StatusConflict, "node %s is heard in another boot (%.8s): if this machine has just rebooted, it is admitted in a moment; else it is a copy of that machine, or has the same id (%s)",
				old.Name, old.BootID, req.MachineID)
		}
		var rev int64
		if old := st.Node(req.Name); old != nil {
			rev = old.Revision
		}
		t := cluster.Txn{
			Conditions: []cluster.Condition{{Key: node.Key(), Revision: rev}, {Key: keyAllotted, Revision: lastRev}},
			Puts: []cluster.Put{{Key: node.Key(), Value: node},
				{Key: keyAllotted, Value: allotted{Node: node.Name, Number: node.Number}}},
			Events: []cluster.Event{{Time: s.now(), Node: s.node, Kind: cluster.EventNode, Subject: node.Name,
				Text: event, Why: g.why}},
		}
		if g.used != nil {
			t.Conditions = append(t.Conditions, cluster.Condition{Key: cluster.KeyAdmission, Revision: g.revision})
			t.Puts = append(t.Puts, cluster.Put{Key: cluster.KeyAdmission, Value: g.used})
		}
		_, ok, err := s.ledger.Commit(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("this member cannot admit now: %w", err)
		}
		if ok {
			return node, nil
		}
		if g.used != nil {
			return nil, refuse(http.StatusServiceUnavailable, "somebody else decided about a machine at the same moment: ask again")
		}
	}
}

// decideNode decides on a machine that proved the token. No event: its record stays as it is.
func decideNode(st *cluster.State, req *Request) (node *cluster.Node, event string, err error) {
	for _, n := range st.Nodes {
		if n.Name != req.Name && n.MachineID == req.MachineID && n.State != cluster.NodeLost {
			return nil, "", refuse(http.StatusConflict, "this machine (id %s) is node %s already, which is %s: it cannot be %s too; if it is a copy of that machine, give it an id of its own",
				req.MachineID, n.Name, n.State, req.Name)
		}
	}
	// Higher than the epoch of any earlier incarnation: that one was written at a later revision than its
	// epoch and before this revision.
	epoch := uint64(st.Revision)
	old := st.Node(req.Name)
	if old == nil {
		number, err := freeNumber(st)
		if err != nil {
			return nil, "", err
		}
		n := req.node(number, epoch)
		n.Fetching = len(st.Images) > 0 && !n.Witness
		as := ""
		if n.Witness {
			as = ", a witness: it votes and runs no services"
		}
		return &n, fmt.Sprintf("%s was admitted as node %d%s", &n, number, as), nil
	}
	n := req.node(old.Number, epoch)
	n.Fetching = len(st.Images) > 0 && !n.Witness
	switch {
	case old.MachineID != req.MachineID && old.State != cluster.NodeLost:
		return nil, "", refuse(http.StatusConflict, "the name %s belongs to another machine (id %s), which is %s: give this machine another name, or remove that node first with 'skein node rm %s'",
			req.Name, old.MachineID, old.State, req.Name)
	case old.MachineID != req.MachineID && !provenOff(st, old):
		// A record in another boot counts as proof that the boot before has ended (package takeover). It is
		// one only if the machine is the same.
		return nil, "", refuse(http.StatusConflict, "the name %s belongs to another machine (id %s), which is lost and may still run: give this machine another name; or, if you know that %[1]s is off, say so with 'skein fence confirm %[1]s'",
			req.Name, old.MachineID)
	case old.MachineID != req.MachineID:
		return &n, fmt.Sprintf("%s was admitted on another machine, in place of the lost one", &n), nil
	case old.BootID == req.BootID && old.State == cluster.NodeLost:
		return nil, "", refuse(http.StatusConflict, "node %s was declared lost in this boot (%s): reboot it", old.Name, old.Reason)
	case old.BootID == req.BootID: // its agent was restarted, or its certificate is about to end
		same := *old
		return &same, "", nil
	}
	// A voter is one again, unless another has taken its place meanwhile. A node that was drained stays
	// drained: somebody wanted it so.
	n.Voter = old.Voter
	n.Returns(old)
	if old.State == cluster.NodeDraining || old.State == cluster.NodeDrained {
		n.State, n.Reason = cluster.NodeDrained, "drained before it rebooted"
	}
	event = fmt.Sprintf("%s was admitted again after a reboot", &n)
	if q := n.Quarantine(); q != "" {
		event += ", " + q
	}
	return &n, event, nil
}

// provenOff tells whether the power controller of a node, or an operator, has said that its boot has ended.
func provenOff(st *cluster.State, n *cluster.Node) bool {
	f := st.Fence(n.Name)
	return f != nil && f.BootID == n.BootID && f.State == cluster.FenceOff
}

func freeNumber(st *cluster.State) (uint8, error) {
	var used [maxNumber + 1]bool
	for _, n := range st.Nodes {
		if n.Number <= maxNumber {
			used[n.Number] = true
		}
	}
	for i := 1; i <= maxNumber; i++ {
		if !used[i] {
			return uint8(i), nil
		}
	}
	return 0, refuse(http.StatusConflict, "the cluster has %d nodes, and no number is left", maxNumber)
}
