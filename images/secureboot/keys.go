package secureboot

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/foxboron/go-uefi/authenticode"
)

// Names of the keys, which are those of the variables that they are in.
const (
	PK  = "PK"
	KEK = "KEK"
	DB  = "db"
)

const (
	keyBits = 2048 // what all firmware takes
	// validity is long because firmware looks at no clock, but tools do.
	validity = 30 * 365 * 24 * time.Hour
	ownerKey = "owner"
)

// Keys sign images.
type Keys struct {
	// Signer is db's certificate.
	Signer    *x509.Certificate
	key       crypto.Signer
	enrolment []File
}

// File is a file with a key in one of the forms that firmware takes.
type File struct {
	Name string
	Data []byte
}

// Create makes the keys of a site in a new folder: NAME.key (private, PEM), NAME.crt (PEM), NAME.cer (DER, what most
// firmware menus take), NAME.esl (a list of one) and NAME.auth (the list as a signed update of the variable).
func Create(dir, site string, now time.Time) error {
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("the folder for the keys must be new: %w", err)
	}
	var owner guid
	if _, err := rand.Read(owner[:]); err != nil {
		return err
	}
	owner[7], owner[8] = owner[7]&0x0f|0x40, owner[8]&0x3f|0x80
	write := func(name string, mode os.FileMode, data []byte) error {
		return os.WriteFile(filepath.Join(dir, name), data, mode)
	}
	if err := write(ownerKey, 0o644, []byte(hex.EncodeToString(owner[:])+"\n")); err != nil {
		return err
	}
	now = now.UTC().Truncate(time.Second)
	made := map[string]*Keys{}
	for _, name := range []string{PK, KEK, DB} {
		k, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			return err
		}
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil {
			return err
		}
		t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: site + " Secure Boot " + name},
			NotBefore: now, NotAfter: now.Add(validity), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
		der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
		if err != nil {
			return err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		made[name] = &Keys{Signer: cert, key: k}
		private, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return err
		}
		if err := errors.Join(
			write(name+".key", 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
			write(name+".crt", 0o644, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
			write(name+".cer", 0o644, der),
		); err != nil {
			return err
		}
	}
	// Each is let in by the one above, the platform key by itself.
	for name, by := range map[string]string{PK: PK, KEK: PK, DB: KEK} {
		list := signatureList(owner, made[name].Signer.Raw)
		auth, err := update(variables[name], list, now, made[by])
		if err != nil {
			return err
		}
		if err := errors.Join(write(name+".esl", 0o644, list), write(name+".auth", 0o644, auth)); err != nil {
			return err
		}
	}
	return nil
}

// Load reads what signs images and what is put onto them for enrolment; the private keys of PK and KEK need not be
// there.
func Load(dir string) (*Keys, error) {
	read := func(name string) ([]byte, error) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read the site's Secure Boot keys (skein image keys new makes them): %w", err)
		}
		return data, nil
	}
	pemBytes := func(name, kind string) ([]byte, error) {
		data, err := read(name)
		if err != nil {
			return nil, err
		}
		b, _ := pem.Decode(data)
		if b == nil || b.Type != kind {
			return nil, fmt.Errorf("%s: want PEM with %s", filepath.Join(dir, name), kind)
		}
		return b.Bytes, nil
	}
	der, err := pemBytes(DB+".crt", "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	k := &Keys{}
	if k.Signer, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, DB+".crt"), err)
	}
	private, err := pemBytes(DB+".key", "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, DB+".key"), err)
	}
	rsaKey, ok := parsed.(*rsa.PrivateKey)
	if !ok || !rsaKey.PublicKey.Equal(k.Signer.PublicKey) {
		return nil, fmt.Errorf("%s: it is not the RSA key of %s", filepath.Join(dir, DB+".key"), DB+".crt")
	}
	k.key = rsaKey
	for _, name := range []string{PK, KEK, DB} {
		for _, form := range []string{".auth", ".cer", ".esl"} {
			data, err := read(name + form)
			if err != nil {
				return nil, err
			}
			k.enrolment = append(k.enrolment, File{name + form, data})
		}
	}
	return k, nil
}

// Enrolment are the files for firmware, in a fixed order. None is secret.
func (k *Keys) Enrolment() []File { return k.enrolment }

// enrolled is the content of a variable.
func (k *Keys) enrolled(name string) ([]byte, error) {
	for _, f := range k.enrolment {
		if f.Name == name+".esl" {
			return f.Data, nil
		}
	}
	return nil, fmt.Errorf("no %s.esl among the keys", name)
}

// Sign signs a program for UEFI.
func (k *Keys) Sign(program []byte) ([]byte, error) {
	image, err := authenticode.Parse(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	content, err := authenticode.CreateSpcIndirectDataContent(image.Hash(crypto.SHA256), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	signature, err := signContent(k, authenticode.OIDSpcIndirectDataContent, content, true)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if err := image.AppendSignature(signature); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	out := image.Bytes()
	// What firmware would refuse must not leave the house.
	return out, Verify(out, k.Signer)
}

// Verify tells whether a program is signed by the key of a certificate.
func Verify(program []byte, by *x509.Certificate) error {
	image, err := authenticode.Parse(bytes.NewReader(program))
	if err != nil {
		return err
	}
	if ok, err := image.Verify(by); err != nil {
		return fmt.Errorf("the signature by %q: %w", strings.TrimSpace(by.Subject.CommonName), err)
	} else if !ok {
		return fmt.Errorf("no signature by %q", by.Subject.CommonName)
	}
	return nil
}
