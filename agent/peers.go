package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// peers talks to the API of other nodes, as this node.
type peers struct {
	network   cluster.Network
	transport *http.Transport
}

func newPeers(m *membership) (*peers, error) {
	cfg, err := pki.ClientTLS(m.files)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		TLSClientConfig:     cfg,
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		IdleConnTimeout:     time.Minute,
	}
	// A node that lost power sends no reset: pings find out.
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second}
	return &peers{network: m.Meta.Network, transport: t}, nil
}

// renewed lets go of connections that were opened with this node's certificate before. One that never falls idle stays:
// it is good for two more months.
func (p *peers) renewed() { p.transport.CloseIdleConnections() }

func (p *peers) url(n *cluster.Node) string {
	return "https://" + netip.AddrPortFrom(p.network.NodeAddr(n.Number), cluster.PortAPI).String()
}

// fetcher gets blobs of images from a node.
func (p *peers) fetcher(n *cluster.Node) func(ctx context.Context, digest string) (io.ReadCloser, error) {
	name, base := n.Name, p.url(n)
	return func(ctx context.Context, digest string) (io.ReadCloser, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/blobs/"+digest, nil)
		if err != nil {
			return nil, err
		}
		resp, err := p.transport.RoundTrip(req)
		if err != nil {
			return nil, fmt.Errorf("get %.19s from node %s: %w", digest, name, err)
		}
		if resp.StatusCode != http.StatusOK {
			resp.Body.Close()
			return nil, fmt.Errorf("get %.19s from node %s: %s", digest, name, resp.Status)
		}
		return resp.Body, nil
	}
}

// has tells whether a node holds all of the blobs.
func (p *peers) has(ctx context.Context, n *cluster.Node, digests []string) bool {
	for _, d := range digests {
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, p.url(n)+"/v1/blobs/"+d, nil)
		if err != nil {
			return false
		}
		resp, err := p.transport.RoundTrip(req)
		if err != nil {
			return false
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return false
		}
	}
	return true
}
