package admission

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// joinTimeout bounds one attempt to join when the context does not. Handshakes take long in emulated
// machines.
const joinTimeout = 15 * time.Second

// Refused is a member's refusal, in its own words. The words are not proven: they may be anybody's.
type Refused struct {
	By     netip.AddrPort
	Status int // HTTP status
	Reason string
}

func (e *Refused) Error() string {
	return fmt.Sprintf("%s did not admit this machine: %s", e.By, e.Reason)
}

// Stranded is the answer, proven, of a member that is alone with its copy of the ledger: it admits nobody
// until the ledger has a leader again, or all machines have promised to follow it.
type Stranded struct {
	By     netip.AddrPort
	Pledge cluster.Pledge // what to promise, in Request.Pledge
}

func (e *Stranded) Error() string {
	return fmt.Sprintf("%s (%s) cannot admit this machine yet: its ledger has lost its majority", e.Pledge.Node, e.By)
}

// Join asks the member at addr (its API's port) to admit this machine, or operator, with the given key.
// It trusts nobody: the member must prove the token too, on this very connection. Version, Role (node)
// and CSR are filled in.
func Join(ctx context.Context, addr netip.AddrPort, token Token, key *ecdsa.PrivateKey, req Request) (*Admitted, error) {
	return JoinVia(ctx, (&net.Dialer{}).DialContext, addr, token, key, req)
}

// Dial connects to an address, as net.Dialer.DialContext does.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// JoinVia is Join for who does not reach the member directly.
func JoinVia(ctx context.Context, dial Dial, addr netip.AddrPort, token Token, key *ecdsa.PrivateKey, req Request) (*Admitted, error) {
	a, err := join(ctx, dial, addr, token, key, req)
	if err != nil {
		return nil, fmt.Errorf("join cluster %s: %w", req.Cluster, err)
	}
	return a, nil
}

func join(ctx context.Context, dial Dial, addr netip.AddrPort, token Token, key *ecdsa.PrivateKey, req Request) (*Admitted, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, joinTimeout)
		defer cancel()
	}
	req.Version = Version
	if req.Role == "" {
		req.Role = RoleNode
	}
	var err error
	if req.CSR, err = pki.NewCSR(key, req.Name); err != nil {
		return nil, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	// Whose certificate it is cannot be checked before joining. The proofs do it, on both sides: they are
	// over this connection's exporter.
	raw, err := dial(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("reach the member: %w", err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: pki.ServerName})
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("reach the member: %w", err)
	}
	cs := c.ConnectionState()
	ch, err := channel(&cs)
	if err != nil {
		return nil, err
	}
	data, err := exchange(c, addr, Path, envelope{Body: body, Proof: proveRequest(token, ch, body)})
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return nil, err
	}
	env, err := parseEnvelope(data)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", addr, err)
	}
	if !hmac.Equal(env.Proof, proveAnswer(token, ch, body, env.Body)) {
		return nil, fmt.Errorf("%s does not have this cluster's token, or somebody is between: its answer is ignored", addr)
	}
	return admitted(addr, env.Body, key)
}

// exchange sends one HTTP request on the connection that the proof is bound to.
func exchange(c net.Conn, addr netip.AddrPort, path string, env envelope) ([]byte, error) {
	data, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	r, err := http.NewRequest(http.MethodPost, "https://"+addr.String()+path, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Close = true
	if err := r.Write(c); err != nil {
		return nil, fmt.Errorf("send the request to %s: %w", addr, err)
	}
	// The header too is from a stranger: bounded as a whole.
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, 2*maxMessage)), r)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", addr, err)
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		var ref refusal
		if json.Unmarshal(reply, &ref) != nil || ref.Error == "" {
			ref.Error = resp.Status
		}
		return nil, &Refused{By: addr, Status: resp.StatusCode, Reason: ref.Error}
	}
	return reply, nil
}

// admitted checks what a proven answer brings before anything relies on it.
func admitted(addr netip.AddrPort, body []byte, key *ecdsa.PrivateKey) (*Admitted, error) {
	var ans answer
	if err := json.Unmarshal(body, &ans); err != nil {
		return nil, fmt.Errorf("answer is unreadable: %w", err)
	}
	if ans.Stranded != nil {
		return nil, &Stranded{By: addr, Pledge: *ans.Stranded}
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		return nil, err
	}
	if err := pki.CheckKeyPair(ans.CA, ans.Cert, keyPEM); err != nil {
		return nil, fmt.Errorf("the certificate from %s is of no use here (this machine's clock says %s; is it wrong, or that of %s?): %w",
			ans.AdmittedBy, time.Now().UTC().Format(time.RFC3339), ans.AdmittedBy, err)
	}
	return &Admitted{CA: ans.CA, Cert: ans.Cert, Key: keyPEM, Meta: ans.Meta, Node: ans.Node,
		HeartbeatKey: ans.HeartbeatKey, Endpoints: ans.Endpoints, AdmittedBy: ans.AdmittedBy}, nil
}
