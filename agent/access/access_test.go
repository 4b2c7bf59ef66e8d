package access

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// bench is a CA and what it has signed.
type bench struct {
	t  testing.TB
	ca *pki.CA
}

func newBench(t testing.TB) *bench {
	t.Helper()
	ca, err := pki.NewCA("lab", "0123")
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, ca}
}

// holder is who has a certificate.
type holder struct {
	files pki.Files
	cert  *x509.Certificate
	key   string // hash
}

func (b *bench) sign(role pki.Role, name string, stamp pki.Stamp) holder {
	b.t.Helper()
	fatal := func(err error) {
		if err != nil {
			b.t.Fatal(err)
		}
	}
	key, err := pki.NewKey()
	fatal(err)
	der, err := pki.NewCSR(key, name)
	fatal(err)
	csr, err := pki.ParseCSR(der)
	fatal(err)
	var data []byte
	if role == pki.RoleNode {
		data, err = b.ca.SignNode(csr, name, nil, pki.NewSerial(), stamp)
	} else {
		data, err = b.ca.SignPerson(csr, name, role, stamp)
	}
	fatal(err)
	keyPEM, err := pki.KeyPEM(key)
	fatal(err)
	h := holder{files: pki.FilesIn(filepath.Join(b.t.TempDir(), "pki"))}
	fatal(h.files.Write(b.ca.CertPEM(), data, keyPEM))
	h.cert, err = pki.ParseCert(data)
	fatal(err)
	h.key, err = pki.KeyHash(key.Public())
	fatal(err)
	return h
}

func stamp(revision, age int64, boot string) pki.Stamp {
	s := pki.Stamp{Incarnation: 1, Revision: revision, Age: age}
	if boot != "" {
		s.Boot = pki.BootMark(boot)
	}
	return s
}

func state(revision, age int64) *cluster.State {
	return &cluster.State{Revision: revision, Meta: cluster.Meta{Incarnation: 1}, Age: cluster.Age{Hours: age},
		Nodes: []cluster.Node{{Name: "n1", BootID: "b1"}, {Name: "n2", BootID: "b2", State: cluster.NodeLost}}}
}

func TestCheck(t *testing.T) {
	b := newBench(t)
	n1 := b.sign(pki.RoleNode, "n1", stamp(10, 0, "b1"))
	ann := b.sign(pki.RoleOperator, "ann", stamp(10, 0, ""))
	withAnn := func(st *cluster.State, role, key string) *cluster.State {
		st.Users = []cluster.User{{Name: "ann", Role: role, Keys: []string{key}}}
		return st
	}
	removed := state(20, 0)
	removed.Nodes, removed.NodeCerts = removed.Nodes[1:], []cluster.NodeCerts{{Node: "n1", Removed: true}}
	restored := state(20, 0)
	restored.Meta.Incarnation = 2
	restoredWithout := state(5, 0)
	restoredWithout.Meta.Incarnation, restoredWithout.Nodes = 2, nil
	tests := []struct {
		name string
		st   *cluster.State
		cert *x509.Certificate
		role pki.Role
		why  string // empty: it is good
	}{
		{"a node", state(20, 0), n1.cert, pki.RoleNode, ""},
		{"a node that is lost", state(20, 0), b.sign(pki.RoleNode, "n2", stamp(10, 0, "b2")).cert, pki.RoleNode, ""},
		{"a node that was removed", removed, n1.cert, "", "was removed"},
		{"a forged name", state(20, 0), b.sign(pki.RoleNode, "n9", stamp(10, 0, "b9")).cert, "", "is no node"},
		{"of an earlier boot, or a copied disk", state(20, 0), b.sign(pki.RoleNode, "n1", stamp(9, 0, "b0")).cert, "", "another boot"},
		{"newer than this copy of the ledger", state(9, 0), b.sign(pki.RoleNode, "n3", stamp(10, 0, "b3")).cert, pki.RoleNode, ""},
		{"of a boot newer than this copy", state(9, 0), b.sign(pki.RoleNode, "n1", stamp(10, 0, "b4")).cert, pki.RoleNode, ""},
		{"no ledger yet", nil, n1.cert, pki.RoleNode, ""},
		{"the ledger was restored", restored, n1.cert, pki.RoleNode, ""},
		{"restored without the node, at an earlier revision", restoredWithout, n1.cert, "", "is no node"},
		{"its last hour", state(20, NodeLife), n1.cert, pki.RoleNode, ""},
		{"ended", state(20, NodeLife+1), n1.cert, "", "has ended"},
		{"the CA's own", state(20, 0), b.ca.Cert, "", "neither"},
		{"a person", withAnn(state(20, 0), "operator", ann.key), ann.cert, pki.RoleOperator, ""},
		{"a person with another role now", withAnn(state(20, 0), "reader", ann.key), ann.cert, pki.RoleReader, ""},
		{"a person who is none any more", state(20, 0), ann.cert, "", "is no user"},
		{"a person of the same name with another key", withAnn(state(20, 0), "operator", "00"), ann.cert, "", "another key"},
		{"a person whose certificate has ended", withAnn(state(20, PersonLife+1), "operator", ann.key), ann.cert, "", "has ended"},
		{"a person newer than this copy", state(9, 0), ann.cert, pki.RoleOperator, ""},
	}
	for _, tt := range tests {
		role, _, err := Check(tt.st, tt.cert)
		switch {
		case tt.why == "" && (err != nil || role != tt.role):
			t.Errorf("%s: got %s, %v, want the role %s", tt.name, role, err, tt.role)
		case tt.why != "" && (!IsRefused(err) || !strings.Contains(err.Error(), tt.why)):
			t.Errorf("%s: got %v, want refused: %s", tt.name, err, tt.why)
		}
	}
}

func TestRenewalDue(t *testing.T) {
	b := newBench(t)
	c := b.sign(pki.RoleNode, "n1", stamp(10, 100, "b1")).cert
	for age, want := range map[int64]bool{100: false, 100 + RenewAfter - 1: false, 100 + RenewAfter: true, 5000: true} {
		if got := RenewalDue(c, age); got != want {
			t.Errorf("at the age of %d hours: got %v, want %v", age, got, want)
		}
	}
}

// server is a node's API behind a gate, over real TLS and HTTP/2.
func (b *bench) server(g *Gate, h http.Handler) string {
	b.t.Helper()
	files := b.sign(pki.RoleNode, "n1", stamp(10, 0, "b1")).files
	conf, err := pki.ServerTLS(files)
	if err != nil {
		b.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(g.Handler(h))
	s.EnableHTTP2 = true
	s.TLS = conf
	s.StartTLS()
	b.t.Cleanup(s.Close)
	return s.URL
}

func (b *bench) client(h holder) *http.Client {
	b.t.Helper()
	conf, err := pki.ClientTLS(h.files)
	if err != nil {
		b.t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	b.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func get(c *http.Client, url string) (int, string, error) {
	r, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, string(body), err
}

// A node that is removed is refused on the connection that it has open, what it reads breaks off, and it is an event.
func TestRemovedNodeIsRefusedAtOnce(t *testing.T) {
	b := newBench(t)
	g := NewGate()
	told := make(chan cluster.Event, 100)
	g.Report("n1", func(e cluster.Event) { told <- e })
	st := state(20, 0)
	g.Update(st)
	began, ended := make(chan struct{}), make(chan error, 1)
	url := b.server(g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		role, name := Caller(r)
		if r.URL.Path == "/follow" {
			fmt.Fprintln(w, "first")
			http.NewResponseController(w).Flush()
			close(began)
			<-r.Context().Done()
			ended <- context.Cause(r.Context())
			return
		}
		fmt.Fprint(w, role, " ", name)
	}))
	n2 := b.client(b.sign(pki.RoleNode, "n2", stamp(10, 0, "b2")))
	if code, body, err := get(n2, url); err != nil || code != 200 || body != "node n2" {
		t.Fatalf("before: %d %q %v", code, body, err)
	}
	r, err := n2.Get(url + "/follow")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	lines := bufio.NewReader(r.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	<-began

	next := *st
	next.Revision, next.Nodes = 21, st.Nodes[:1]
	next.NodeCerts = []cluster.NodeCerts{{Node: "n2", Removed: true}}
	g.Update(&next)
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("the handler was ended by %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("what the node was reading went on")
	}
	if _, err := lines.ReadString('\n'); err == nil {
		t.Error("the stream went on")
	}
	for range 20 { // new requests, on whatever connection
		code, body, err := get(n2, url)
		if err != nil || code != http.StatusForbidden || !strings.Contains(body, "was removed from the cluster") {
			t.Fatalf("after: %d %q %v", code, body, err)
		}
	}
	if n := len(told); n == 0 || n > eventBurst {
		t.Errorf("%d events of 20 knocks, want 1 to %d", n, eventBurst)
	}
	if e := <-told; e.Subject != "n2" || !strings.Contains(e.Why, "was removed") {
		t.Errorf("event: %+v", e)
	}
	// Others are not concerned, and who has no certificate may come to ask.
	if code, body, err := get(b.client(b.sign(pki.RoleNode, "n1", stamp(10, 0, "b1"))), url); err != nil || body != "node n1" {
		t.Errorf("n1: %d %q %v", code, body, err)
	}
	conf, err := pki.ClientTLS(b.sign(pki.RoleNode, "n1", stamp(10, 0, "b1")).files)
	if err != nil {
		t.Fatal(err)
	}
	conf.GetClientCertificate = nil
	anonymous := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	defer anonymous.CloseIdleConnections()
	if code, body, err := get(anonymous, url); err != nil || code != 200 || body != " " {
		t.Errorf("nobody: %d %q %v", code, body, err)
	}
}

// A person whose role changes has it at once; one who follows something with the old one is broken off.
func TestRoleChangesAtOnce(t *testing.T) {
	b := newBench(t)
	g := NewGate()
	ann := b.sign(pki.RoleAdmin, "ann", stamp(10, 0, ""))
	with := func(revision int64, role string) *cluster.State {
		st := state(revision, 0)
		if role != "" {
			st.Users = []cluster.User{{Name: "ann", Role: role, Keys: []string{ann.key}}}
		}
		return st
	}
	g.Update(with(20, "admin"))
	url := b.server(g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		role, _ := Caller(r)
		fmt.Fprint(w, role)
	}))
	c := b.client(ann)
	for i, role := range []string{"admin", "reader", "operator"} {
		g.Update(with(int64(30+i), role))
		if code, body, err := get(c, url); err != nil || code != 200 || body != role {
			t.Errorf("got %d %q %v, want %s", code, body, err, role)
		}
	}
	ended := make(chan struct{})
	release, err := g.Hold(ann.cert, 0, func() { close(ended) })
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	g.Update(with(40, ""))
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("what a person had open was not closed")
	}
	if code, body, err := get(c, url); err != nil || code != http.StatusForbidden {
		t.Errorf("after the removal: %d %q %v", code, body, err)
	}
}

// What was over before the revocation is not touched after it.
func TestReleasedIsNotEnded(t *testing.T) {
	b := newBench(t)
	g := NewGate()
	g.Update(state(20, 0))
	n1 := b.sign(pki.RoleNode, "n1", stamp(10, 0, "b1"))
	ended := make(chan struct{}, 1)
	release, err := g.Hold(n1.cert, 0, func() { ended <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	release()
	g.Update(&cluster.State{Revision: 21, Meta: cluster.Meta{Incarnation: 1}})
	if _, err := g.Hold(n1.cert, 0, func() {}); !IsRefused(err) {
		t.Errorf("got %v, want refused", err)
	}
	if len(g.holds) != 0 || len(ended) != 0 {
		t.Errorf("%d holds, %d ended, want none", len(g.holds), len(ended))
	}
}
