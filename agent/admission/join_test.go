package admission

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/seed"
)

// memory is a ledger in memory, with the same rules as the store.
type memory struct {
	mu      sync.Mutex
	rev     int64
	records map[string][]byte
	revs    map[string]int64
	events  []cluster.Event
	// beforeCommit is called once, before the next commit, by whoever wants to be in between.
	beforeCommit func()
}

func newMemory() *memory {
	return &memory{rev: 1, records: make(map[string][]byte), revs: make(map[string]int64)}
}

func (m *memory) Read(context.Context) (*cluster.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := &cluster.State{Revision: m.rev}
	for k, v := range m.records {
		if strings.HasPrefix(k, cluster.KeyNodes) {
			var n cluster.Node
			if err := json.Unmarshal(v, &n); err != nil {
				return nil, err
			}
			n.Revision = m.revs[k]
			st.Nodes = append(st.Nodes, n)
		}
	}
	if rev := m.revs[cluster.KeyAdmission]; rev > 0 {
		st.Admission = &cluster.Admission{}
		if err := json.Unmarshal(m.records[cluster.KeyAdmission], st.Admission); err != nil {
			return nil, err
		}
		st.Admission.Revision = rev
	}
	slices.SortFunc(st.Nodes, func(a, b cluster.Node) int { return strings.Compare(a.Name, b.Name) })
	return st, nil
}

func (m *memory) Get(_ context.Context, key string, into any) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.revs[key] == 0 {
		return 0, nil
	}
	return m.revs[key], json.Unmarshal(m.records[key], into)
}

func (m *memory) Secret(ctx context.Context, name string) (data []byte, err error) {
	rev, err := m.Get(ctx, cluster.KeySecrets+name, &data)
	if rev == 0 {
		err = fmt.Errorf("no secret %s", name)
	}
	return data, err
}

func (m *memory) Commit(_ context.Context, t cluster.Txn) (int64, bool, error) {
	if f := m.beforeCommit; f != nil {
		m.beforeCommit = nil
		f()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range t.Conditions {
		if m.revs[c.Key] != c.Revision {
			return m.rev, false, nil
		}
	}
	m.rev++
	for _, p := range t.Puts {
		data, err := json.Marshal(p.Value)
		if err != nil {
			return 0, false, err
		}
		m.records[p.Key], m.revs[p.Key] = data, m.rev
	}
	m.events = append(m.events, t.Events...)
	return m.rev, true, nil
}

func (m *memory) Endpoints() []string { return []string{"https://10.80.1.1:2379"} }

func (m *memory) node(t *testing.T, name string) *cluster.Node {
	t.Helper()
	st, err := m.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return st.Node(name)
}

func (m *memory) setState(t *testing.T, name string, s cluster.NodeState) {
	t.Helper()
	n := *m.node(t, name)
	n.State = s
	if _, _, err := m.Commit(context.Background(), cluster.Txn{Puts: []cluster.Put{{Key: n.Key(), Value: n}}}); err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(name, machine, boot string) Request {
	return Request{Cluster: "lab", Role: RoleNode, Name: name, MachineID: "machine-" + machine, BootID: "boot-id-" + boot,
		Links: []cluster.Link{{Name: "eth0", MAC: "52:54:00:00:00:01", Addr: netip.MustParsePrefix("10.77.0.1/24")}}, CPUs: 2, Memory: 1 << 30}
}

// member is a founded cluster whose only node takes requests to join on loopback.
type member struct {
	ledger *memory
	token  Token
	seed   *seed.Seed
	self   *Admitted
	addr   netip.AddrPort
	files  pki.Files
}

func newMember(t *testing.T, operator *ecdsa.PrivateKey) *member {
	t.Helper()
	m := &member{ledger: newMemory(), token: testToken, files: pki.FilesIn(filepath.Join(t.TempDir(), "pki"))}
	m.seed = &seed.Seed{Cluster: "lab", Token: hex.EncodeToString(testToken), Expect: 1, Network: cluster.DefaultNetwork.Prefix}
	if operator != nil {
		h, err := pki.KeyHash(operator.Public())
		if err != nil {
			t.Fatal(err)
		}
		m.seed.Operators = []string{h}
	}
	self, first, err := Found(m.seed, request("n1", "1", "1"), newKey(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m.self = self
	first.Puts = append(first.Puts, cluster.Put{Key: cluster.KeyMeta, Value: self.Meta})
	if _, ok, err := m.ledger.Commit(context.Background(), first); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := m.files.Write(self.CA, self.Cert, self.Key); err != nil {
		t.Fatal(err)
	}
	m.addr = serveTLS(t, m.files, NewServer("n1", m.ledger, slog.New(slog.DiscardHandler)))
	return m
}

func serveTLS(t *testing.T, files pki.Files, h http.Handler) netip.AddrPort {
	t.Helper()
	conf, err := pki.ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener = tls.NewListener(s.Listener, conf)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

func TestJoinAndRejoin(t *testing.T) {
	m := newMember(t, nil)
	ctx := t.Context()
	a, err := Join(ctx, m.addr, m.token, newKey(t), request("n2", "2", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Node.Number != 2 || a.Node.State != cluster.NodeJoining || a.Meta.ID != m.self.Meta.ID || string(a.HeartbeatKey) != string(m.self.HeartbeatKey) || len(a.Endpoints) != 1 {
		t.Errorf("admitted: %+v", a)
	}
	cert, err := pki.ParseCert(a.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if role, name := pki.RoleOf(cert); role != pki.RoleNode || name != "n2" || cert.VerifyHostname("10.80.2.1") != nil || cert.VerifyHostname("skein") != nil {
		t.Errorf("certificate: role %s, name %s, %v %v", role, name, cert.DNSNames, cert.IPAddresses)
	}
	if c, err := Join(ctx, m.addr, m.token, newKey(t), request("n3", "3", "1")); err != nil || c.Node.Number != 3 {
		t.Errorf("third node: %+v, %v", c, err)
	}

	// The same boot again: a new certificate, nothing else.
	before := *m.ledger.node(t, "n2")
	if b, err := Join(ctx, m.addr, m.token, newKey(t), request("n2", "2", "1")); err != nil || b.Node.Epoch != a.Node.Epoch || m.ledger.node(t, "n2").Revision != before.Revision {
		t.Errorf("the same boot again: %+v, %v", b, err)
	}
	// A new boot: the same number, a higher epoch, joining.
	m.ledger.setState(t, "n2", cluster.NodeOnline)
	b, err := Join(ctx, m.addr, m.token, newKey(t), request("n2", "2", "2"))
	if err != nil {
		t.Fatal(err)
	}
	if b.Node.Number != 2 || b.Node.Epoch <= a.Node.Epoch || b.Node.State != cluster.NodeJoining || m.ledger.node(t, "n2").BootID != "boot-id-2" {
		t.Errorf("a new boot: %+v after %+v", b.Node, a.Node)
	}
	// Lost: only a new boot helps.
	m.ledger.setState(t, "n2", cluster.NodeLost)
	if _, err := Join(ctx, m.addr, m.token, newKey(t), request("n2", "2", "2")); err == nil || !strings.Contains(err.Error(), "reboot it") {
		t.Errorf("lost in this boot: got %v", err)
	}
	if c, err := Join(ctx, m.addr, m.token, newKey(t), request("n2", "2", "3")); err != nil || c.Node.Epoch <= b.Node.Epoch {
		t.Errorf("after being lost: %v", err)
	}
	// A drained node stays drained over a reboot.
	m.ledger.setState(t, "n3", cluster.NodeDrained)
	if c, err := Join(ctx, m.addr, m.token, newKey(t), request("n3", "3", "2")); err != nil || c.Node.State != cluster.NodeDrained {
		t.Errorf("drained node after a reboot: %+v, %v", c, err)
	}
}

// Another machine under the name of a lost one: its record would count as the proof that the lost one has
// ended, so there must be a proof before.
func TestAnotherMachineInPlaceOfALostOne(t *testing.T) {
	lost := cluster.Node{Name: "n2", Number: 2, MachineID: "machine-2", BootID: "boot-id-1", State: cluster.NodeLost}
	req := request("n2", "9", "7")
	for _, tt := range []struct {
		name   string
		fences []cluster.Fence
		want   bool
	}{
		{name: "nothing is known of it"},
		{name: "being fenced", fences: []cluster.Fence{{Node: "n2", BootID: "boot-id-1", State: cluster.FenceRunning}}},
		{name: "an earlier boot was off", fences: []cluster.Fence{{Node: "n2", BootID: "boot-id-0", State: cluster.FenceOff}}},
		{name: "another node is off", fences: []cluster.Fence{{Node: "n3", BootID: "boot-id-1", State: cluster.FenceOff}}},
		{name: "it is off", want: true, fences: []cluster.Fence{{Node: "n2", BootID: "boot-id-1", State: cluster.FenceOff}}},
	} {
		st := &cluster.State{Revision: 9, Nodes: []cluster.Node{lost}, Fences: tt.fences}
		n, _, err := decideNode(st, &req)
		if (err == nil) != tt.want {
			t.Errorf("%s: got %v, want admitted %v", tt.name, err, tt.want)
		}
		if tt.want && (n == nil || n.MachineID != req.MachineID || n.BootID != req.BootID) {
			t.Errorf("%s: got %+v, want the new machine", tt.name, n)
		}
		if err != nil && !strings.Contains(err.Error(), "skein fence confirm n2") {
			t.Errorf("%s: got %v, want what the operator can do", tt.name, err)
		}
	}
}

// A copy of a machine, or one with the same id, must not prove that the other has ended while it is heard.
func TestNotAdmittedWhileAnotherBootIsHeard(t *testing.T) {
	m := newMember(t, nil)
	srv := NewServer("n1", m.ledger, slog.New(slog.DiscardHandler))
	heard := ""
	srv.Heard = func(_ context.Context, node, boot string) bool { return node+" "+boot == heard }
	addr := serveTLS(t, m.files, srv)
	for _, step := range []struct {
		boot, heard string
		want        bool
	}{
		{"1", "", true},
		{"1", "n2 boot-id-1", true}, // its certificate is about to end
		{"2", "n2 boot-id-1", false},
		{"2", "", true},
		{"3", "n2 boot-id-1", true}, // of one that is over
		{"4", "n2 boot-id-3", false},
	} {
		heard = step.heard
		_, err := Join(t.Context(), addr, m.token, newKey(t), request("n2", "2", step.boot))
		if (err == nil) != step.want || err != nil && !strings.Contains(err.Error(), "heard in another boot") {
			t.Errorf("boot %s while %q is heard: got %v, want admitted %v", step.boot, step.heard, err, step.want)
		}
	}
}

func TestNotAdmitted(t *testing.T) {
	operator := newKey(t)
	m := newMember(t, operator)
	other := Token(strings.Repeat("x", 32))
	key := newKey(t)
	prod := request("n2", "2", "1")
	prod.Cluster = "prod"
	op := Request{Cluster: "lab", Role: RoleOperator, Name: "eve"}
	tests := []struct {
		name   string
		token  Token
		key    *ecdsa.PrivateKey
		req    Request
		status int
		want   string
	}{
		{"wrong token", other, key, request("n2", "2", "1"), http.StatusUnauthorized, "token"},
		{"wrong cluster", m.token, key, prod, http.StatusConflict, `this is cluster "lab", not "prod"`},
		{"a name that is taken", m.token, key, request("n1", "2", "1"), http.StatusConflict, "belongs to another machine"},
		{"a copied machine", m.token, key, request("n2", "1", "1"), http.StatusConflict, "is node n1 already"},
		{"a bad name", m.token, key, request("N 2", "2", "1"), http.StatusBadRequest, "lower-case"},
		{"no boot id", m.token, key, Request{Cluster: "lab", Role: RoleNode, Name: "n2", MachineID: "machine-2"}, http.StatusBadRequest, "boot id"},
		{"not an operator", m.token, key, op, http.StatusForbidden, "not one of this cluster's operators"},
		{"operator without the token", other, operator, op, http.StatusUnauthorized, "token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m.ledger.mu.Lock()
			nodes, events := len(m.ledger.records), len(m.ledger.events)
			m.ledger.mu.Unlock()
			// A server of its own: the limits on requests are not what is tested here.
			addr := serveTLS(t, m.files, NewServer("n1", m.ledger, slog.New(slog.DiscardHandler)))
			_, err := Join(t.Context(), addr, tt.token, tt.key, tt.req)
			var r *Refused
			if !errors.As(err, &r) || r.Status != tt.status || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %d %s", err, tt.status, tt.want)
			}
			m.ledger.mu.Lock()
			defer m.ledger.mu.Unlock()
			if len(m.ledger.records) != nodes {
				t.Error("something was written")
			}
			if len(m.ledger.events) != events+1 || !strings.Contains(m.ledger.events[events].Text, "not admitted") {
				t.Errorf("events: %+v", m.ledger.events[events:])
			}
		})
	}
}

func TestOperator(t *testing.T) {
	operator := newKey(t)
	m := newMember(t, operator)
	a, err := Join(t.Context(), m.addr, m.token, operator, Request{Cluster: "lab", Role: RoleOperator, Name: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if a.HeartbeatKey != nil || a.Node.Name != "" {
		t.Error("an operator was given what is for nodes")
	}
	files := pki.FilesIn(t.TempDir())
	if err := files.Write(a.CA, a.Cert, a.Key); err != nil {
		t.Fatal(err)
	}
	conf, err := pki.ClientTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	who := serveTLS(t, m.files, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		role, name := pki.Caller(r)
		fmt.Fprintf(w, "%s %s", role, name)
	}))
	ask := func(conf *tls.Config) string {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
		defer c.CloseIdleConnections()
		resp, err := c.Get("https://" + who.String())
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	if got := ask(conf); got != "operator ann" {
		t.Errorf("caller: got %q", got)
	}
	anon := conf.Clone()
	anon.GetClientCertificate = nil
	if got := ask(anon); got != " " {
		t.Errorf("caller without a certificate: got %q", got)
	}
	// A certificate of another cluster's CA is refused in the handshake.
	foreign := newMember(t, operator)
	if err := files.Write(m.self.CA, foreign.self.Cert, foreign.self.Key); err != nil {
		t.Fatal(err)
	}
	if got := ask(conf); !strings.Contains(got, "certificate") {
		t.Errorf("caller of another cluster: got %q", got)
	}
}

// A man in the middle ends TLS on both sides and passes on what is said.
func TestManInTheMiddle(t *testing.T) {
	m := newMember(t, nil)
	stranger := newMember(t, nil) // any certificate will do
	passed := 0
	mitm := serveTLS(t, stranger.files, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		defer c.CloseIdleConnections()
		resp, err := c.Post("https://"+m.addr.String()+Path, "application/json", r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		passed++
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	if _, err := Join(t.Context(), mitm, m.token, newKey(t), request("n2", "2", "1")); err == nil || passed != 1 {
		t.Errorf("joined through a man in the middle: %v, passed on %d", err, passed)
	}
	if m.ledger.node(t, "n2") != nil {
		t.Error("the member admitted the man in the middle")
	}
	// A false member, without the token, that says yes to everything.
	liar := serveTLS(t, stranger.files, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(envelope{Body: []byte(`{"version":1}`), Proof: make([]byte, 32)})
	}))
	if _, err := Join(t.Context(), liar, m.token, newKey(t), request("n2", "2", "1")); err == nil || !strings.Contains(err.Error(), "does not have this cluster's token") {
		t.Errorf("a false member: got %v", err)
	}
}

// Two machines at once must not be given one number.
func TestNumbersAreAllottedOnce(t *testing.T) {
	m := newMember(t, nil)
	m.ledger.beforeCommit = func() {
		if _, err := NewServer("n1", m.ledger, slog.New(slog.DiscardHandler)).admitNode(t.Context(), new(request("n3", "3", "1")), tokenGrant); err != nil {
			t.Error(err)
		}
	}
	a, err := Join(t.Context(), m.addr, m.token, newKey(t), request("n2", "2", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if n3 := m.ledger.node(t, "n3"); n3 == nil || n3.Number == a.Node.Number {
		t.Errorf("n2 is %d, n3 is %+v", a.Node.Number, n3)
	}
}

func TestManyRequestsAreLimited(t *testing.T) {
	m := newMember(t, nil)
	limited := false
	for range 3 * requestBurst {
		_, err := Join(t.Context(), m.addr, Token(strings.Repeat("x", 32)), newKey(t), request("n2", "2", "1"))
		var r *Refused
		limited = limited || errors.As(err, &r) && r.Status == http.StatusTooManyRequests
	}
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	if !limited || len(m.ledger.events) > eventBurst+2 {
		t.Errorf("limited %v, events %d", limited, len(m.ledger.events))
	}
}

// A stranger that begins a request and does not end it is not waited for.
func TestSlowRequestEnds(t *testing.T) {
	m := newMember(t, nil)
	srv := NewServer("n1", m.ledger, slog.New(slog.DiscardHandler))
	srv.within = 20 * time.Millisecond
	c, err := tls.Dial("tcp", serveTLS(t, m.files, srv).String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "POST /v1/join HTTP/1.1\r\nHost: n1\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("got %v, want an answer without the rest of the request", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("got %s, want a refusal of an incomplete request", resp.Status)
	}
}

func TestSilentMemberEndsInTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // accepts, in the kernel, and says nothing
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Join(ctx, netip.MustParseAddrPort(l.Addr().String()), testToken, newKey(t), request("n2", "2", "1")); err == nil {
		t.Error("joined a silent member")
	}
}

func FuzzParseRequest(f *testing.F) {
	good, _ := json.Marshal(envelope{Body: []byte(`{"version":1,"cluster":"lab","role":"node","name":"n2","csr":"AA=="}`), Proof: make([]byte, 32)})
	f.Add(good)
	r := request("n2", "2", "1")
	r.Version, r.CSR = Version, []byte{1}
	body, _ := json.Marshal(r)
	f.Add(body)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseEnvelope(data)
		r, err := parseRequest(data)
		if err != nil {
			return
		}
		if err := r.check(); err != nil {
			t.Errorf("a request that was parsed is not valid: %v", err)
		}
		n := r.node(1, 1)
		addresses(cluster.Meta{Network: cluster.DefaultNetwork}, &n)
		_, _ = pki.ParseCSR(r.CSR)
	})
}
