package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

func newCA(t testing.TB) *CA {
	t.Helper()
	ca, err := NewCA("lab", "0123")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newCSR(t testing.TB) (*ecdsa.PrivateKey, *x509.CertificateRequest) {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := NewCSR(key, "n1")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ParseCSR(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

// filesFor are the files of a node of the CA.
func filesFor(t testing.TB, ca *CA, name string, stamp Stamp) (Files, *x509.CertificateRequest) {
	t.Helper()
	key, csr := newCSR(t)
	cert, err := ca.SignNode(csr, name, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, NewSerial(), stamp)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := KeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	f := FilesIn(filepath.Join(t.TempDir(), "pki"))
	if err := f.Write(ca.CertPEM(), cert, keyPEM); err != nil {
		t.Fatal(err)
	}
	return f, csr
}

// handshake connects over loopback; server and client return what they saw of the other.
func handshake(t testing.TB, server, client *tls.Config) (atServer, atClient *x509.Certificate, err error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type result struct {
		cert *x509.Certificate
		err  error
	}
	got := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- result{err: err}
			return
		}
		defer c.Close()
		err = c.(*tls.Conn).Handshake()
		r := result{err: err}
		if certs := c.(*tls.Conn).ConnectionState().PeerCertificates; len(certs) > 0 {
			r.cert = certs[0]
		}
		got <- r
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, client)
	if err := c.Handshake(); err != nil {
		return nil, nil, err
	}
	atClient = c.ConnectionState().PeerCertificates[0]
	r := <-got
	return r.cert, atClient, r.err
}

// No clock that a machine can have may keep nodes from each other.
func TestClocksDoNotMatter(t *testing.T) {
	ca := newCA(t)
	n1, _ := filesFor(t, ca, "n1", Stamp{Revision: 1})
	n2, _ := filesFor(t, ca, "n2", Stamp{Revision: 2})
	clocks := []time.Time{time.Unix(1, 0), time.Date(2011, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2036, 6, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC), time.Date(2106, 2, 7, 6, 28, 16, 0, time.UTC)}
	for _, server := range clocks {
		for _, client := range clocks {
			s, err := ServerTLS(n1)
			if err != nil {
				t.Fatal(err)
			}
			c, err := ClientTLS(n2)
			if err != nil {
				t.Fatal(err)
			}
			s.Time, c.Time = func() time.Time { return server }, func() time.Time { return client }
			atServer, _, err := handshake(t, s, c)
			if err != nil {
				t.Errorf("server in %d, client in %d: %v", server.Year(), client.Year(), err)
				continue
			}
			if role, name := RoleOf(atServer); role != RoleNode || name != "n2" {
				t.Errorf("got %s %q, want node n2", role, name)
			}
		}
	}
}

// A renewed certificate is used by a server and a client that are running.
func TestRenewedCertificateIsUsedWithoutRestart(t *testing.T) {
	ca := newCA(t)
	files, csr := filesFor(t, ca, "n1", Stamp{Revision: 1})
	s, err := ServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ClientTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	revision := func() (int64, int64) {
		atServer, atClient, err := handshake(t, s, c)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := StampOf(atServer)
		b, _ := StampOf(atClient)
		return a.Revision, b.Revision
	}
	if a, b := revision(); a != 1 || b != 1 {
		t.Fatalf("before: got %d and %d, want 1", a, b)
	}
	cert, err := ca.SignNode(csr, "n1", nil, NewSerial(), Stamp{Revision: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Renew(cert); err != nil {
		t.Fatal(err)
	}
	if a, b := revision(); a != 2 || b != 2 {
		t.Errorf("after: got %d and %d, want 2", a, b)
	}
}

// Who has a certificate of another CA, even with the same names, does not get through TLS.
func TestForgedCertificate(t *testing.T) {
	ca := newCA(t)
	node, _ := filesFor(t, ca, "n1", Stamp{Revision: 1})
	forged, _ := filesFor(t, newCA(t), "n2", Stamp{Revision: 1})
	s, err := ServerTLS(node)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ClientTLS(forged)
	if err != nil {
		t.Fatal(err)
	}
	c.RootCAs = s.ClientCAs // it believes the server; the server is who must not believe it
	if _, _, err := handshake(t, s, c); err == nil {
		t.Error("a certificate of another CA was taken")
	}
	// And a person's certificate is no server's.
	key, csr := newCSR(t)
	cert, err := ca.SignPerson(csr, "eve", RoleAdmin, Stamp{})
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := KeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	person := FilesIn(filepath.Join(t.TempDir(), "pki"))
	if err := person.Write(ca.CertPEM(), cert, keyPEM); err != nil {
		t.Fatal(err)
	}
	if s, err = ServerTLS(person); err != nil {
		t.Fatal(err)
	}
	if c, err = ClientTLS(node); err != nil {
		t.Fatal(err)
	}
	if _, _, err := handshake(t, s, c); err == nil {
		t.Error("a person's certificate passes for a node's server")
	}
}

func TestRoles(t *testing.T) {
	ca := newCA(t)
	_, csr := newCSR(t)
	for _, r := range []Role{RoleAdmin, RoleOperator, RoleReader} {
		data, err := ca.SignPerson(csr, "ann", r, Stamp{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseCert(data)
		if err != nil {
			t.Fatal(err)
		}
		if role, name := RoleOf(c); role != r || name != "ann" {
			t.Errorf("got %s %q, want %s ann", role, name, r)
		}
	}
	if _, err := ca.SignPerson(csr, "ann", RoleNode, Stamp{}); err == nil {
		t.Error("a person was given a node's role")
	}
	if role, _ := RoleOf(ca.Cert); role != RoleNone {
		t.Errorf("the CA has the role %s", role)
	}
}

func FuzzStamp(f *testing.F) {
	for _, s := range []Stamp{{}, {Incarnation: 3, Revision: 1234567890123, Age: 87600, Boot: BootMark("b1")}} {
		f.Add(s.String())
	}
	f.Add("i=1/r=+2/a=3")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseStamp(text)
		if err == nil && s.String() != text {
			t.Errorf("%q was read as %q", text, s)
		}
	})
}

func TestStampFitsItsField(t *testing.T) {
	s := Stamp{Incarnation: 999999, Revision: 999999999999999, Age: 999999, Boot: BootMark("b1")}
	if n := len(s.String()); n > 64 {
		t.Errorf("%q is %d characters, X.520 allows 64", s, n)
	}
}
