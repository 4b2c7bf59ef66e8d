package admission

import (
	"crypto/ecdsa"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// codeAlphabet is Crockford's base 32: none of its characters is taken for another one.
const codeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// codeRounds makes a guess at a code expensive: who wants to be approved in another machine's place has to find a key
// with the same 50 bits, and each try costs this many rounds (2^65 hashes in all). One code takes some 10 ms.
const codeRounds = 1 << 14

// codeLength is without the dash in the middle.
const codeLength = 10

// Code is what a machine shows on its console and an operator compares: of its public key and of the cluster's CA,
// both as pki.KeyHash. Somebody in the middle has another key or another CA, and so another code.
func Code(caHash, keyHash string) string {
	raw, err := pbkdf2.Key(sha256.New, keyHash, []byte("skein v1 code "+caHash), codeRounds, 7)
	if err != nil { // only for lengths that SHA-256 cannot give
		panic("admission: " + err.Error())
	}
	var bits uint64
	for _, b := range raw {
		bits = bits<<8 | uint64(b)
	}
	var out strings.Builder
	for i := range codeLength {
		if i == codeLength/2 {
			out.WriteByte('-')
		}
		out.WriteByte(codeAlphabet[bits>>(51-5*i)&31])
	}
	return out.String()
}

// ParseCode reads a code as people type it. ok is false for what is none, such as a node's name.
func ParseCode(s string) (code string, ok bool) {
	s = strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(s))
	if len(s) != codeLength || strings.Trim(s, codeAlphabet) != "" {
		return "", false
	}
	return s[:codeLength/2] + "-" + s[codeLength/2:], true
}

// askLabel begins what a machine signs when it asks.
const askLabel = "skein v1 ask to join"

// askDigest is what a machine without a token signs with its key: this request on this connection, so that nobody
// can replay it and be given what is for that machine.
func askDigest(channel, body []byte) []byte {
	c, b := sha256.Sum256(channel), sha256.Sum256(body)
	sum := sha256.Sum256(append(append([]byte(askLabel), c[:]...), b[:]...))
	return sum[:]
}

func verifyAsk(key any, channel, body, signature []byte) error {
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(pub, askDigest(channel, body), signature) {
		return errors.New("the request is not signed by the machine's key on this connection: it is a replay, or somebody is between")
	}
	return nil
}

// Words of a kernel's command line for a machine without a token.
const (
	wordCA   = "skein.ca="
	wordJoin = "skein.join="
)

// Pin is what such a machine is told: nothing of it is secret.
type Pin struct {
	CA   string   // SHA-256 of the CA's public key, 64 hex digits
	Join []string // addresses of members; empty: it listens for them
}

// ParsePin reads a kernel's command line; nil if it names no CA.
func ParsePin(cmdline string) (*Pin, error) {
	var p Pin
	for word := range strings.FieldsSeq(cmdline) {
		if v, ok := strings.CutPrefix(word, wordCA); ok {
			if raw, err := hex.DecodeString(v); err != nil || len(raw) != sha256.Size {
				return nil, fmt.Errorf("kernel's command line: %s%.80s must be the CA's fingerprint, 64 hexadecimal digits ('skein cluster ca' prints it)", wordCA, v)
			}
			p.CA = strings.ToLower(v)
		}
		if v, ok := strings.CutPrefix(word, wordJoin); ok {
			for a := range strings.SplitSeq(v, ",") {
				if a != "" {
					p.Join = append(p.Join, a)
				}
			}
		}
	}
	if p.CA == "" {
		return nil, nil
	}
	return &p, nil
}

// Words are the words of the kernel's command line.
func (p Pin) Words() string {
	s := wordCA + p.CA
	if len(p.Join) > 0 {
		s += " " + wordJoin + strings.Join(p.Join, ",")
	}
	return s
}

func printable(s string, most int) bool {
	return len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
