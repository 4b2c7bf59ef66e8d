package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Role is what a certificate entitles to. The values are those that the API knows.
type Role string

const (
	RoleNone     Role = ""
	RoleNode     Role = "node"
	RoleOperator Role = "operator"
)

// Organisations in certificates.
const (
	orgNode     = "skein:node"
	orgOperator = "skein:operator"
	orgCA       = "skein:ca"
)

// ServerName is in every node's certificate and in no operator's. Clients check it instead of an
// address, so a node answers under any of its addresses.
const ServerName = "skein"

const (
	caValidity = 10 * 365 * 24 * time.Hour
	// nodeValidity: nodes run from memory and join anew at every boot; one that runs longer joins again
	// with the same boot id to get a new certificate.
	nodeValidity     = 90 * 24 * time.Hour
	operatorValidity = 365 * 24 * time.Hour
)

// notBefore is the beginning of all validity. Machines whose clock battery is dead start at their
// firmware's build date; none of those is older than Skein.
var notBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// CA signs certificates. Key and certificate are kept in the ledger, so every voter can be one.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewCA makes the CA of a new cluster. The cluster's name is in it for people; id tells clusters of one
// name apart.
func NewCA(clusterName, id string, now time.Time) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "skein " + clusterName, Organization: []string{orgCA}, SerialNumber: id},
		NotBefore:             notBefore,
		NotAfter:              after(now, caValidity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	return &CA{Cert: cert, Key: key}, nil
}

// after is the end of a validity counted from now, or from notBefore if the clock is further back.
func after(now time.Time, d time.Duration) time.Time {
	if now.Before(notBefore) {
		now = notBefore
	}
	return now.Add(d)
}

// ParseCA reads what CertPEM and KeyPEM wrote.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := ParseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("the cluster's CA: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the key of the cluster's CA: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the key of the cluster's CA is not the one of its certificate")
	}
	return &CA{Cert: cert, Key: key}, nil
}

// CertPEM is the CA's certificate.
func (ca *CA) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw})
}

// KeyPEM is the CA's key: a secret.
func (ca *CA) KeyPEM() ([]byte, error) { return KeyPEM(ca.Key) }

// ParseCSR reads a request, DER, and checks that its sender has the key. Only ECDSA P-256 is taken.
func ParseCSR(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request is unreadable: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request is not signed by its own key: %w", err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("certificate request must be for an ECDSA P-256 key")
	}
	return csr, nil
}

// SignNode signs a node's key. Only the key is taken of the request; who the node is the signer says.
func (ca *CA) SignNode(csr *x509.CertificateRequest, name string, addrs []netip.Addr, now time.Time) ([]byte, error) {
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{orgNode}},
		NotAfter:    after(now, nodeValidity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{ServerName, name, cluster.RegistryName},
	}
	for _, a := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	return ca.sign(t, csr)
}

// SignOperator signs an operator's key, for a client only.
func (ca *CA) SignOperator(csr *x509.CertificateRequest, name string, now time.Time) ([]byte, error) {
	return ca.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{orgOperator}},
		NotAfter:    after(now, operatorValidity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, csr)
}

func (ca *CA) sign(t *x509.Certificate, csr *x509.CertificateRequest) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t.SerialNumber, t.NotBefore, t.BasicConstraintsValid = serial, notBefore, true
	if t.NotAfter.After(ca.Cert.NotAfter) {
		t.NotAfter = ca.Cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.Cert, csr.PublicKey, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", t.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// RoleOf tells the role and the name in a certificate. That it was signed by the cluster's CA is for TLS
// to check.
func RoleOf(c *x509.Certificate) (Role, string) {
	if c == nil || c.IsCA || len(c.Subject.Organization) != 1 || c.Subject.CommonName == "" {
		return RoleNone, ""
	}
	switch c.Subject.Organization[0] {
	case orgNode:
		return RoleNode, c.Subject.CommonName
	case orgOperator:
		return RoleOperator, c.Subject.CommonName
	}
	return RoleNone, ""
}

// NewKey makes an ECDSA P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

// NewCSR makes a certificate request, DER, for a key. The name is for people; the signer decides.
func NewCSR(key crypto.Signer, name string) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return der, nil
}

// KeyHash is the SHA-256, in hex, of a public key (SPKI, DER): how a seed names an operator.
func KeyHash(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("hash of a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// KeyPEM writes a private key (PKCS #8).
func KeyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("write a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads what KeyPEM wrote.
func ParseKey(data []byte) (*ecdsa.PrivateKey, error) {
	b, _ := pem.Decode(data)
	if b == nil || b.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM private key")
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key is unreadable: %w", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("private key is not ECDSA")
	}
	return key, nil
}

// ParseCert reads one PEM certificate.
func ParseCert(data []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(data)
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate is unreadable: %w", err)
	}
	return c, nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil // never zero
}
