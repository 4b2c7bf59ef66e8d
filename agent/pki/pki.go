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
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Role is what a certificate entitles to. The values are those that the API knows.
type Role string

const (
	RoleNone     Role = ""
	RoleNode     Role = "node"
	RoleAdmin    Role = "admin"    // a person: everything
	RoleOperator Role = "operator" // a person: what runs, and where
	RoleReader   Role = "reader"   // a person: looks on
)

// Organisations in certificates.
const (
	orgNode   = "skein:node"
	orgPerson = "skein:" // and the role
	orgCA     = "skein:ca"
)

// ServerName is in every node's certificate and in no operator's. Clients check it instead of an
// address, so a node answers under any of its addresses.
const ServerName = "skein"

// All certificates are valid at any time that a clock can show. What a wall clock says must not decide who is in: a
// machine whose battery is dead starts in 1970 or in its firmware's year, and one that is set to a wrong year would
// fall out, or let nobody in. A certificate's life is bounded by the ledger instead (Stamp, package access).
// The end is that of RFC 5280, 4.1.2.5, for certificates without one.
var (
	notBefore = time.Unix(0, 0).UTC()
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// CA signs certificates. Key and certificate are kept in the ledger, so every voter can be one.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewCA makes the CA of a new cluster. The cluster's name is in it for people; id tells clusters of one
// name apart.
func NewCA(clusterName, id string) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	serial, _ := new(big.Int).SetString(NewSerial(), 16)
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "skein " + clusterName, Organization: []string{orgCA}, SerialNumber: id},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
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

// SignNode signs a node's key. Only the key is taken of the request; who the node is the signer says. serial is one of
// NewSerial that the ledger knows as the node's.
func (ca *CA) SignNode(csr *x509.CertificateRequest, name string, addrs []netip.Addr, serial string, stamp Stamp) ([]byte, error) {
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{orgNode}, SerialNumber: stamp.String()},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{ServerName, name, cluster.RegistryName},
	}
	for _, a := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	return ca.sign(t, csr, serial)
}

// SignPerson signs a person's key, for a client only.
func (ca *CA) SignPerson(csr *x509.CertificateRequest, name string, role Role, stamp Stamp) ([]byte, error) {
	if !role.Person() {
		return nil, fmt.Errorf("sign the certificate of %s: %q is no role of a person", name, role)
	}
	return ca.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{orgPerson + string(role)}, SerialNumber: stamp.String()},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, csr, NewSerial())
}

// Person tells whether the role is one of people.
func (r Role) Person() bool { return r == RoleAdmin || r == RoleOperator || r == RoleReader }

func (ca *CA) sign(t *x509.Certificate, csr *x509.CertificateRequest, serial string) ([]byte, error) {
	n, ok := new(big.Int).SetString(serial, 16)
	if !ok || n.Sign() <= 0 {
		return nil, fmt.Errorf("sign the certificate of %s: serial number %q is none", t.Subject.CommonName, serial)
	}
	t.SerialNumber, t.BasicConstraintsValid = n, true
	t.NotBefore, t.NotAfter = ca.Cert.NotBefore, ca.Cert.NotAfter // an older CA's end: RFC 5280 has no chain outlive it
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
	if c.Subject.Organization[0] == orgNode {
		return RoleNode, c.Subject.CommonName
	}
	if role, ok := strings.CutPrefix(c.Subject.Organization[0], orgPerson); ok && Role(role).Person() {
		return Role(role), c.Subject.CommonName
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

// NewSerial makes a certificate's serial number, 16 random bytes in hexadecimal digits. The first bits are 01, so that
// it is positive and of one length.
func NewSerial() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	b[0] = b[0]&0x3f | 0x40
	return hex.EncodeToString(b)
}

// SerialOf is a certificate's serial number as NewSerial writes it.
func SerialOf(c *x509.Certificate) string { return fmt.Sprintf("%032x", c.SerialNumber) }
