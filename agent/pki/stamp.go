package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Stamp says out of which state of the ledger a certificate was signed. Whoever checks the certificate compares it with
// the ledger as it is now (package access). No wall clock is in it: a machine whose clock is years off must be able to
// check and to be checked.
type Stamp struct {
	Incarnation uint64 // cluster.Meta's
	Revision    int64  // of the ledger, not before the record that entitles to the certificate
	Age         int64  // the cluster's, hours (cluster.Age)
	Boot        string // BootMark of the node's boot; empty in a person's
}

// BootMark names a boot in a certificate, in 16 hexadecimal digits.
func BootMark(bootID string) string {
	sum := sha256.Sum256([]byte("skein boot " + bootID))
	return hex.EncodeToString(sum[:8])
}

// String is how a stamp is written into the subject's serialNumber (X.520, at most 64 characters).
func (s Stamp) String() string {
	out := fmt.Sprintf("i=%d/r=%d/a=%d", s.Incarnation, s.Revision, s.Age)
	if s.Boot != "" {
		out += "/b=" + s.Boot
	}
	return out
}

// StampOf reads a certificate's stamp. ok is false for a certificate that was signed by a version that wrote none.
func StampOf(c *x509.Certificate) (s Stamp, ok bool) {
	s, err := parseStamp(c.Subject.SerialNumber)
	return s, err == nil
}

func parseStamp(text string) (s Stamp, err error) {
	fail := fmt.Errorf("%q is no stamp of a certificate", text)
	parts := strings.Split(text, "/")
	if len(parts) < 3 || len(parts) > 4 {
		return s, fail
	}
	value := func(i int, name string) string {
		v, ok := strings.CutPrefix(parts[i], name)
		if !ok {
			err = fail
		}
		return v
	}
	i, r, a := value(0, "i="), value(1, "r="), value(2, "a=")
	if len(parts) == 4 {
		s.Boot = value(3, "b=")
	}
	if err != nil {
		return Stamp{}, err
	}
	var e1, e2, e3 error
	s.Incarnation, e1 = strconv.ParseUint(i, 10, 64)
	s.Revision, e2 = strconv.ParseInt(r, 10, 64)
	s.Age, e3 = strconv.ParseInt(a, 10, 64)
	// Written in one way only, so that no two texts mean the same.
	if e1 != nil || e2 != nil || e3 != nil || s.Revision < 0 || s.Age < 0 || s.String() != text {
		return Stamp{}, fail
	}
	return s, nil
}
