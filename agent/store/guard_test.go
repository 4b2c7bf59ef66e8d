package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// doorman is a Guard that refuses some names.
type doorman struct {
	mu    sync.Mutex
	no    map[string]bool
	ends  map[string][]func()
	asked int
}

func (d *doorman) Admit(c *x509.Certificate) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	if d.no[c.Subject.CommonName] {
		return errors.New(c.Subject.CommonName + " was removed")
	}
	return nil
}

func (d *doorman) Hold(c *x509.Certificate, _ time.Duration, end func()) (func(), error) {
	if err := d.Admit(c); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ends[c.Subject.CommonName] = append(d.ends[c.Subject.CommonName], end)
	return func() {}, nil
}

func (d *doorman) refuse(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.no[name] = true
	for _, end := range d.ends[name] {
		end()
	}
}

// A node whose certificate is revoked reads and writes the ledger no more, on the connection that it has, and its watch
// ends; at the port between voters it is refused at the handshake, and a connection that was open is closed.
func TestRevokedNodeLosesTheLedger(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tc := newTestCluster(t)
	guard := &doorman{no: map[string]bool{}, ends: map[string][]func(){}}
	cfg := tc.config(1, 1)
	cfg.Guard, cfg.RevokedFile = guard, cfg.CAFile+".revoked"
	s1, err := Bootstrap(ctx, cfg, tc.meta, cluster.Txn{})
	if err != nil {
		t.Fatal(err)
	}
	defer s1.Close()
	theirs := tc.config(2, 1)
	theirs.ClientPort, theirs.PeerPort = cfg.ClientPort, cfg.PeerPort
	u := cfg.clientURL()
	s2, err := OpenClient(ctx, theirs, []string{u.String()})
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	if _, err := s2.Read(ctx); err != nil {
		t.Fatal(err)
	}
	watch := s2.order()[0].client.Watch(ctx, "/skein/x")
	if _, _, err := s1.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: "/skein/x", Value: 1}}}); err != nil {
		t.Fatal(err)
	}
	if r := <-watch; r.Err() != nil || len(r.Events) != 1 {
		t.Fatalf("watch: %+v", r)
	}

	// The port between voters, with n2's certificate.
	conf, err := pki.ClientTLS(pki.Files{CA: theirs.CAFile, Cert: theirs.CertFile, Key: theirs.KeyFile})
	if err != nil {
		t.Fatal(err)
	}
	pu := cfg.peerURL()
	talk := func(c net.Conn) error {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, "GET /members HTTP/1.1\r\nHost: skein\r\n\r\n"); err != nil {
			return err
		}
		buf := make([]byte, 512)
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200") {
			return errors.New(string(buf[:n]))
		}
		return nil
	}
	open, err := tls.Dial("tcp", pu.Host, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := talk(open); err != nil {
		t.Fatalf("before the revocation: %v", err)
	}

	guard.refuse("n2")
	cert, err := conf.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteRevoked(cfg.RevokedFile, []string{pki.SerialOf(leaf)}); err != nil {
		t.Fatal(err)
	}
	if err := s1.DropPeers(); err != nil {
		t.Fatal(err)
	}
	if _, err := s2.Read(ctx); err == nil || !strings.Contains(err.Error(), "n2 was removed") {
		t.Errorf("read: got %v, want a refusal", err)
	}
	if _, _, err := s2.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: "/skein/y", Value: 1}}}); err == nil {
		t.Error("a revoked node wrote the ledger")
	}
	if _, _, err := s1.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: "/skein/x", Value: 2}}}); err != nil {
		t.Fatal(err)
	}
	select {
	case r, ok := <-watch:
		if ok && len(r.Events) > 0 {
			t.Error("a revoked node still sees what happens")
		}
	case <-ctx.Done():
		t.Error("the watch goes on")
	}
	if err := talk(open); err == nil {
		t.Error("a revoked node still talks to the port between voters")
	}
	if again, err := tls.Dial("tcp", pu.Host, conf); err == nil { // TLS 1.3: the server's refusal is seen at the first read
		if err := talk(again); err == nil {
			t.Error("a revoked node was let in at the port between voters")
		}
		again.Close()
	}
	// The voter itself is well.
	if _, err := s1.Read(ctx); err != nil {
		t.Error(err)
	}
}

// onlySerial is a Guard that lets one certificate in.
type onlySerial struct{ serial chan string }

func (o *onlySerial) Admit(c *x509.Certificate) error {
	want := <-o.serial
	o.serial <- want
	if got := pki.SerialOf(c); want != "" && got != want {
		return errors.New("certificate " + got + " is an old one")
	}
	return nil
}

func (o *onlySerial) Hold(c *x509.Certificate, _ time.Duration, _ func()) (func(), error) {
	return func() {}, o.Admit(c)
}

// A certificate that was renewed in its file is used after Reconnect, and the watch goes on.
func TestReconnectUsesTheRenewedCertificate(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tc := newTestCluster(t)
	guard := &onlySerial{make(chan string, 1)}
	guard.serial <- ""
	cfg := tc.config(1, 1)
	cfg.Guard = guard
	s1, err := Bootstrap(ctx, cfg, tc.meta, cluster.Txn{})
	if err != nil {
		t.Fatal(err)
	}
	defer s1.Close()
	theirs := tc.config(2, 1)
	u := cfg.clientURL()
	s2, err := OpenClient(ctx, theirs, []string{u.String()})
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	revisions := make(chan int64, 1000)
	wctx, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() {
		watched <- s2.Watch(wctx, func(st *cluster.State, _ bool) error { revisions <- st.Revision; return nil })
	}()
	<-revisions

	keyPEM, err := os.ReadFile(theirs.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	der, err := pki.NewCSR(key, "n2")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(der)
	if err != nil {
		t.Fatal(err)
	}
	serial := pki.NewSerial()
	cert, err := tc.ca.SignNode(csr, "n2", nil, serial, pki.Stamp{})
	if err != nil {
		t.Fatal(err)
	}
	if err := (pki.Files{Cert: theirs.CertFile}).Renew(cert); err != nil {
		t.Fatal(err)
	}
	<-guard.serial
	guard.serial <- serial
	if _, err := s2.Read(ctx); err == nil || !strings.Contains(err.Error(), "is an old one") {
		t.Errorf("on the connection of before: got %v, want a refusal", err)
	}
	s2.Reconnect()
	if _, err := s2.Read(ctx); err != nil {
		t.Errorf("on the new one: %v", err)
	}
	at, _, err := s2.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: cluster.KeyAge, Value: cluster.Age{Hours: 1}}}})
	if err != nil {
		t.Fatal(err)
	}
	for seen := int64(0); seen < at; {
		select {
		case seen = <-revisions:
		case <-ctx.Done():
			t.Fatalf("the watch does not go on: it has seen revision %d of %d", seen, at)
		}
	}
	stop()
	<-watched
}
