package admission

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/pki"
)

// Waiting is the answer of a member to a machine that no operator has decided on yet.
type Waiting struct{ Member string }

func (e *Waiting) Error() string { return "waits for an operator's approval (asked " + e.Member + ")" }

// Denied is the answer to a machine that an operator does not want.
type Denied struct{ Member, Reason string }

func (e *Denied) Error() string { return e.Member + " does not admit this machine: " + e.Reason }

// Ask asks the member at addr to admit this machine, which has no token but knows the fingerprint of the cluster's CA
// (pki.KeyHash of its key). The errors Waiting and Denied are the member's answers; whoever has no certificate of that
// CA is not believed.
func Ask(ctx context.Context, addr netip.AddrPort, ca string, key *ecdsa.PrivateKey, req Request) (*Admitted, error) {
	return AskVia(ctx, (&net.Dialer{}).DialContext, addr, ca, key, req)
}

// AskVia is Ask for who does not reach the member directly.
func AskVia(ctx context.Context, dial Dial, addr netip.AddrPort, ca string, key *ecdsa.PrivateKey, req Request) (*Admitted, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, joinTimeout)
		defer cancel()
	}
	req.Version, req.Role = Version, RoleNode
	var err error
	if req.CSR, err = pki.NewCSR(key, req.Name); err != nil {
		return nil, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	raw, err := dial(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("reach the member: %w", err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: pki.ServerName,
		VerifyConnection: func(cs tls.ConnectionState) error { return verifyMember(cs.PeerCertificates, ca) }})
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	cs := c.ConnectionState()
	ch, err := channel(&cs)
	if err != nil {
		return nil, err
	}
	signature, err := ecdsa.SignASN1(rand.Reader, key, askDigest(ch, body))
	if err != nil {
		return nil, fmt.Errorf("sign the request: %w", err)
	}
	data, err := exchange(c, addr, AskPath, envelope{Body: body, Proof: signature})
	if err != nil {
		return nil, err
	}
	var ans askAnswer
	if err := json.Unmarshal(data, &ans); err != nil {
		return nil, fmt.Errorf("answer of %s is unreadable: %w", addr, err)
	}
	switch ans.State {
	case stateWaiting:
		return nil, &Waiting{ans.Member}
	case stateDenied:
		return nil, &Denied{ans.Member, ans.Reason}
	case stateAdmitted:
	default:
		return nil, fmt.Errorf("answer of %s: %q is not known here", addr, ans.State)
	}
	if ans.Answer == nil || len(ans.Token) != 32 {
		return nil, fmt.Errorf("answer of %s is incomplete", addr)
	}
	if hash, err := certHash(ans.Answer.CA); err != nil || hash != ca {
		return nil, fmt.Errorf("answer of %s is for another cluster's CA: %s", addr, hash)
	}
	inner, err := json.Marshal(ans.Answer)
	if err != nil {
		return nil, err
	}
	adm, err := admitted(addr, inner, key)
	if err != nil {
		return nil, err
	}
	adm.Token = ans.Token
	return adm, nil
}

// verifyMember checks that who answers is a node of the cluster whose CA has this fingerprint. The time is not
// checked: this machine's clock may be anything before it has joined.
func verifyMember(chain []*x509.Certificate, ca string) error {
	if len(chain) < 2 {
		return errors.New("who answers does not show its cluster's CA: its software may be too old")
	}
	root := chain[len(chain)-1]
	hash, err := pki.KeyHash(root.PublicKey)
	if err != nil {
		return err
	}
	if hash != ca || !root.IsCA {
		return fmt.Errorf("who answers is of another cluster: its CA has the fingerprint %s, not %s", hash, ca)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	leaf := chain[0]
	at := leaf.NotAfter
	if root.NotAfter.Before(at) {
		at = root.NotAfter
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: pki.ServerName, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

// PeekBeacon reads where a member can be asked out of a beacon that cannot be checked without the token. It is a hint:
// who answers there has to show the cluster's CA.
func PeekBeacon(data []byte) []netip.Addr {
	const head = len(BeaconMagic) + 32
	if len(data) < head || len(data) > maxBeacon || !bytes.HasPrefix(data, []byte(BeaconMagic)) {
		return nil
	}
	var b Beacon
	if json.Unmarshal(data[head:], &b) != nil || !b.Member() || len(b.Addrs) > 16 {
		return nil
	}
	return b.Addrs
}
