package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// Files says where the certificates of this machine are.
type Files struct {
	CA, Cert, Key string // PEM
}

// FilesIn names the files in a directory as a node keeps them.
func FilesIn(dir string) Files {
	return Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "node.pem"), Key: filepath.Join(dir, "node.key")}
}

// Write stores certificates, each file at once: a reader sees the old or the new one.
func (f Files) Write(ca, cert, key []byte) error {
	if err := os.MkdirAll(filepath.Dir(f.Key), 0o700); err != nil {
		return fmt.Errorf("folder for certificates: %w", err)
	}
	for _, w := range []struct {
		path string
		data []byte
	}{{f.CA, ca}, {f.Key, key}, {f.Cert, cert}} {
		tmp := w.path + ".new"
		if err := os.WriteFile(tmp, w.data, 0o600); err != nil {
			return fmt.Errorf("write certificates: %w", err)
		}
		if err := os.Rename(tmp, w.path); err != nil {
			return fmt.Errorf("write certificates: %w", err)
		}
	}
	return nil
}

func (f Files) roots() (*x509.CertPool, error) {
	data, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate", f.CA)
	}
	return pool, nil
}

func (f Files) load() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate of this machine: %w", err)
	}
	return &c, nil
}

// loadChain is load with the CA's certificate at its end: a machine that knows only the CA's fingerprint needs it.
func (f Files) loadChain() (*tls.Certificate, error) {
	c, err := f.load()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	ca, err := ParseCert(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.CA, err)
	}
	c.Certificate = append(c.Certificate, ca.Raw)
	return c, nil
}

// ServerTLS is for the API's listener: a caller may come without a certificate (to join), but one that
// it brings must be the cluster's. The certificate is read again at every handshake, so that a renewed
// one is used.
func ServerTLS(f Files) (*tls.Config, error) {
	roots, err := f.roots()
	if err != nil {
		return nil, err
	}
	if _, err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      roots,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.loadChain() },
		// Joining is bound to its connection; a resumed one would be as good, but there is no use for it.
		SessionTicketsDisabled: true,
	}, nil
}

// ClientTLS is for calling nodes, as the node or operator that the files are of.
func ClientTLS(f Files) (*tls.Config, error) {
	roots, err := f.roots()
	if err != nil {
		return nil, err
	}
	if _, err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		RootCAs:              roots,
		ServerName:           ServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.load() },
	}, nil
}

// Caller tells who sent a request, from the certificate that TLS has verified. Without one: no role.
func Caller(r *http.Request) (role, name string) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return string(RoleNone), ""
	}
	ro, n := RoleOf(r.TLS.VerifiedChains[0][0])
	return string(ro), n
}

// CheckKeyPair tells whether a certificate is for a key and signed by a CA, as a server and as a client.
func CheckKeyPair(caPEM, certPEM, keyPEM []byte) error {
	ca, err := ParseCert(caPEM)
	if err != nil {
		return fmt.Errorf("CA: %w", err)
	}
	cert, err := ParseCert(certPEM)
	if err != nil {
		return err
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return errors.New("the certificate is for another key")
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	_, err = cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}
