package admission

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
)

// Token is the shared secret of a cluster's machines, 32 random bytes. It is never sent and never used
// itself: every purpose has a key of its own derived from it.
type Token []byte

// ParseToken reads the token as it is in a seed.
func ParseToken(s string) (Token, error) {
	t, err := hex.DecodeString(s)
	if err != nil || len(t) != 32 {
		return nil, errors.New("token must be 64 hex digits")
	}
	return t, nil
}

// Purposes of derived keys.
const (
	purposeMark    = "skein v1 mark"
	purposeBeacon  = "skein v1 beacon"
	purposeRequest = "skein v1 join request"
	purposeAnswer  = "skein v1 join answer"
)

// Mark tells clusters of one name apart, in public: 8 hex digits that say nothing of the token.
func (t Token) Mark() string { return hex.EncodeToString(t.key(purposeMark)[:4]) }

func (t Token) key(purpose string) []byte {
	k, err := hkdf.Key(sha256.New, t, nil, purpose, sha256.Size)
	if err != nil { // only for lengths that SHA-256 cannot give
		panic("admission: " + err.Error())
	}
	return k
}

func (t Token) mac(purpose string, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, t.key(purpose))
	for _, p := range parts {
		// Each part is hashed first, so that no two lists of parts have the same bytes.
		sum := sha256.Sum256(p)
		m.Write(sum[:])
	}
	return m.Sum(nil)
}

// exporterLabel names what is exported of the TLS connection (RFC 5705, RFC 8446 section 7.5).
const exporterLabel = "EXPORTER-skein-join-v1"

// channel is a value that only the two ends of this TLS connection know. A proof over it is worth nothing
// on any other connection, so a man in the middle, who has two of them, cannot pass it on.
func channel(cs *tls.ConnectionState) ([]byte, error) {
	if cs == nil || cs.Version < tls.VersionTLS13 {
		return nil, errors.New("joining needs TLS 1.3")
	}
	b, err := cs.ExportKeyingMaterial(exporterLabel, nil, 32)
	if err != nil {
		return nil, fmt.Errorf("bind to the TLS connection: %w", err)
	}
	return b, nil
}

func proveRequest(t Token, channel, request []byte) []byte {
	return t.mac(purposeRequest, channel, request)
}

// proveAnswer covers the request too: an answer belongs to what was asked.
func proveAnswer(t Token, channel, request, answer []byte) []byte {
	return t.mac(purposeAnswer, channel, request, answer)
}
