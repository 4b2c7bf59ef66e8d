package admission_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/access"
	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/seed"
	"github.com/skein-os/skein/agent/store"
)

// node is a member with a real ledger, API and gate on loopback.
type node struct {
	api.Backend // what is not asked for
	t           *testing.T
	store       *store.Store
	gate        *access.Gate
	addr        netip.AddrPort
	token       []byte
	adm         *admission.Admitted
	door        *admission.Server
}

func (n *node) Self() string          { return "n1" }
func (n *node) Coordinator() string   { return "n1" }
func (n *node) Memory() api.Memory    { return api.Memory{} }
func (n *node) State() *cluster.State { return n.read() }
func (n *node) Observe() api.Observation {
	return api.Observation{}
}
func (n *node) Commit(ctx context.Context, t cluster.Txn) (bool, error) {
	_, ok, err := n.store.Commit(ctx, t)
	n.read()
	return ok, err
}

// read brings the gate up to date, as the watch of the ledger does.
func (n *node) read() *cluster.State {
	st, err := n.store.Read(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	n.gate.Update(st)
	return st
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func csrOf(t *testing.T, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := pki.NewCSR(k, "x")
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func startNode(t *testing.T, operator *ecdsa.PrivateKey) *node {
	t.Helper()
	n := &node{t: t, gate: access.NewGate(), token: make([]byte, 32)}
	n.token[1] = byte(os.Getpid())
	hash, err := pki.KeyHash(operator.Public())
	if err != nil {
		t.Fatal(err)
	}
	sd := &seed.Seed{Cluster: "lab", Token: hex.EncodeToString(n.token), Expect: 1, Operators: []string{hash},
		Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(1 + (os.Getpid()+131)%250), 0, 0}), 16)}
	adm, txn, err := admission.Found(sd, admission.Request{Cluster: "lab", Name: "n1", MachineID: "machine-n1", BootID: "boot-of-n1"}, newKey(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n.adm = adm
	dir := t.TempDir()
	files := pki.FilesIn(filepath.Join(dir, "pki"))
	if err := files.Write(adm.CA, adm.Cert, adm.Key); err != nil {
		t.Fatal(err)
	}
	n.store, err = store.Bootstrap(t.Context(), store.Config{Name: "n1", BootID: adm.Node.BootID, DataDir: filepath.Join(dir, "etcd"),
		Addr: adm.Meta.Network.NodeAddr(1), ClientPort: 33379, PeerPort: 33380, CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key}, adm.Meta, txn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.store.Close)
	conf, err := pki.ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	n.door = admission.NewServer("n1", n.store, slog.New(slog.DiscardHandler))
	s := httptest.NewUnstartedServer(n.gate.Handler(api.NewServer(n, n.door, access.Caller, slog.New(slog.DiscardHandler))))
	s.TLS = conf
	s.StartTLS()
	t.Cleanup(s.Close)
	n.addr = netip.MustParseAddrPort(s.Listener.Addr().String())
	n.read()
	return n
}

// as is an API client with a certificate.
func (n *node) as(cert []byte, key *ecdsa.PrivateKey) *api.Client {
	n.t.Helper()
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		n.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, keyPEM)
	if err != nil {
		n.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(n.adm.CA)
	tr := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: pki.ServerName, MinVersion: tls.VersionTLS13}}
	n.t.Cleanup(tr.CloseIdleConnections)
	return &api.Client{Endpoints: []string{"https://" + n.addr.String()}, HTTP: &http.Client{Transport: tr}}
}

func status(err error) int {
	var r *api.ResponseError
	if errors.As(err, &r) {
		return r.Status
	}
	return 0
}

func TestPeople(t *testing.T) {
	ctx := t.Context()
	founder := newKey(t)
	n := startNode(t, founder)
	enrol := func() (*admission.Admitted, error) {
		return admission.Join(ctx, n.addr, n.token, founder, admission.Request{Cluster: "lab", Role: admission.RoleOperator, Name: "root"})
	}
	adm, err := enrol()
	if err != nil {
		t.Fatal(err)
	}
	root := n.as(adm.Cert, founder)
	add := func(by *api.Client, name, role string) (*api.Client, error) {
		key := newKey(t)
		c, err := by.AddUser(ctx, name, api.NewUser{Role: role, CSR: csrOf(t, key)})
		if err != nil {
			return nil, err
		}
		return n.as(c.Cert, key), nil
	}
	ann, err := add(root, "ann", "reader")
	if err != nil {
		t.Fatal(err)
	}
	bob, err := add(root, "bob", "operator")
	if err != nil {
		t.Fatal(err)
	}
	// What each may: look, drain, and add people.
	for _, tt := range []struct {
		name                  string
		c                     *api.Client
		look, drain, addition bool
	}{{"reader", ann, true, false, false}, {"operator", bob, true, true, false}, {"admin", root, true, true, true}} {
		_, err := tt.c.Users(ctx)
		if got := err == nil; got != tt.look {
			t.Errorf("%s lists people: %v", tt.name, err)
		}
		err = tt.c.NodeAction(ctx, "no-such-node", "drain")
		if got := status(err) == http.StatusNotFound; got != tt.drain || !got && status(err) != http.StatusForbidden {
			t.Errorf("%s drains: %v", tt.name, err)
		}
		_, err = add(tt.c, "new-"+tt.name, "admin")
		if got := err == nil; got != tt.addition || !got && status(err) != http.StatusForbidden {
			t.Errorf("%s adds people: %v", tt.name, err)
		}
	}
	if _, err := add(root, "ann", "admin"); status(err) != http.StatusConflict {
		t.Errorf("a name that is taken: %v", err)
	}
	if _, err := add(root, "eve", "node"); status(err) != http.StatusBadRequest {
		t.Errorf("a person with a node's role: %v", err)
	}
	if _, err := root.AddUser(ctx, "eve", api.NewUser{Role: "reader", CSR: []byte("none")}); status(err) != http.StatusBadRequest {
		t.Errorf("no certificate request: %v", err)
	}
	// Removed: at once, with the connection that is open.
	if err := root.RemoveUser(ctx, "ann"); err != nil {
		t.Fatal(err)
	}
	n.read()
	if _, err := ann.Users(ctx); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "is no user") {
		t.Errorf("ann after the removal: %v", err)
	}
	// A new person of that name: the old certificate stays what it is.
	if _, err := add(root, "ann", "admin"); err != nil {
		t.Fatal(err)
	}
	n.read()
	if _, err := ann.Users(ctx); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "another key") {
		t.Errorf("the ann before: %v", err)
	}
	// The founder has no way back with the token, and somebody stays who can let others in.
	for _, name := range []string{"ann", "new-admin"} {
		if err := root.RemoveUser(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.RemoveUser(ctx, "root"); status(err) != http.StatusConflict || !strings.Contains(err.Error(), "last administrator") {
		t.Errorf("the last administrator: %v", err)
	}
	carl, err := add(root, "carl", "admin")
	if err != nil {
		t.Fatal(err)
	}
	if err := carl.RemoveUser(ctx, "root"); err != nil {
		t.Fatal(err)
	}
	n.read()
	if _, err := enrol(); err == nil || !strings.Contains(err.Error(), "not one of this cluster's operators") {
		t.Errorf("who was removed asks again with the token: %v", err)
	}
	if _, err := carl.Users(ctx); err != nil {
		t.Error(err)
	}
}

// A node's certificate is renewed for its key, and the renewed one is good when the old one has ended.
func TestRenewal(t *testing.T) {
	ctx := t.Context()
	n := startNode(t, newKey(t))
	key := newKey(t)
	adm, err := admission.Join(ctx, n.addr, n.token, key, admission.Request{Cluster: "lab", Name: "n2", MachineID: "machine-n2", BootID: "boot-of-n2"})
	if err != nil {
		t.Fatal(err)
	}
	age := func(hours int64) {
		if _, err := n.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: cluster.KeyAge, Value: cluster.Age{Hours: hours}}}}); err != nil {
			t.Fatal(err)
		}
	}
	age(access.NodeLife - 1)
	old := n.as(adm.Cert, key)
	if _, err := old.RenewCertificate(ctx, csrOf(t, newKey(t))); status(err) != http.StatusForbidden {
		t.Errorf("renewed for another key: %v", err)
	}
	renewed, err := old.RenewCertificate(ctx, csrOf(t, key))
	if err != nil {
		t.Fatal(err)
	}
	age(access.NodeLife + 1)
	if _, err := old.Users(ctx); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("the one that has ended: %v", err)
	}
	if _, err := old.RenewCertificate(ctx, csrOf(t, key)); status(err) != http.StatusForbidden {
		t.Errorf("renewed after its end: %v", err)
	}
	if _, err := n.as(renewed.Cert, key).Users(ctx); err != nil {
		t.Errorf("the renewed one: %v", err)
	}
	cert, err := pki.ParseCert(renewed.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if c := n.read().Certs("n2"); c == nil || len(c.Current) != 2 || c.Current[1] != pki.SerialOf(cert) {
		t.Errorf("the ledger knows %+v, want two certificates, the second %s", c, pki.SerialOf(cert))
	}
	// Its next boot ends both, and its removal that one.
	again, err := admission.Join(ctx, n.addr, n.token, newKey(t), admission.Request{Cluster: "lab", Name: "n2", MachineID: "machine-n2", BootID: "next-boot-of-n2"})
	if err != nil {
		t.Fatal(err)
	}
	if c := n.read().Certs("n2"); c == nil || len(c.Current) != 1 || len(c.Revoked) != 2 {
		t.Errorf("after a reboot the ledger knows %+v, want one certificate and two revoked", c)
	}
	if _, err := n.as(renewed.Cert, key).Users(ctx); status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "another boot") {
		t.Errorf("a certificate of the boot before: %v", err)
	}
	if again.Node.Epoch <= adm.Node.Epoch {
		t.Errorf("epoch %d after %d", again.Node.Epoch, adm.Node.Epoch)
	}
}
