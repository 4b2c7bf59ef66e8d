package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/disks"
	"github.com/skein-os/skein/storage/reserve"
)

// otherPaths are the paths of one other node to a disk: a self-test needs a second initiator.
func (s *Server) otherPaths(r *http.Request, wwn string) []reserve.Nexus {
	st := s.backend.State()
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.Name == s.backend.Self() || n.State != cluster.NodeOnline {
			continue
		}
		p := &peerPath{s: s, r: r, node: n}
		var seen []disks.Seen
		if err := p.call(r.Context(), http.MethodGet, "/disks", nil, &seen); err != nil {
			s.log.Warn("another node's paths take no part in a disk's self-test", "disk", wwn, "node", n.Name, "err", err)
			continue
		}
		at := slices.IndexFunc(seen, func(d disks.Seen) bool { return d.WWN == wwn })
		if at < 0 {
			continue
		}
		var all []reserve.Nexus
		for _, path := range seen[at].Paths {
			all = append(all, &peerPath{s: s, r: r, node: n, wwn: wwn, path: path.Name})
		}
		return all
	}
	return nil
}

// peerPath is another node's path to a disk.
type peerPath struct {
	s         *Server
	r         *http.Request // for whom it is done
	node      *cluster.Node
	wwn, path string
}

// Name is for messages.
func (p *peerPath) Name() string { return p.node.Name + ":/dev/" + p.path }

// Away tells that it is not this node's.
func (p *peerPath) Away() bool { return true }

// Exec has the other node send the command.
func (p *peerPath) Exec(ctx context.Context, c reserve.Command) (reserve.Answer, error) {
	var o reserve.Outcome
	if err := p.call(ctx, http.MethodPost, "/disks/"+url.PathEscape(p.wwn)+"/paths/"+url.PathEscape(p.path)+"/test-command", c, &o); err != nil {
		return reserve.Answer{}, err
	}
	return o.Result(p.Name(), c.Op)
}

// maxPeerAnswer bounds an answer of another node, bytes.
const maxPeerAnswer = 4 << 20

func (p *peerPath) call(ctx context.Context, method, path string, in, out any) error {
	transport, base := p.s.backend.Peer(p.node)
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, base+"/v1/nodes/"+url.PathEscape(p.node.Name)+path, &body)
	if err != nil {
		return err
	}
	req.Header.Set(ForwardedHeader, p.s.backend.Self())
	req.Header.Set(OperatorHeader, p.s.asker(p.r))
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask node %s: %w", p.node.Name, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxPeerAnswer))
	if err != nil {
		return fmt.Errorf("ask node %s: %w", p.node.Name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("node %s says: %s", p.node.Name, bytes.TrimSpace(data))
	}
	return json.Unmarshal(data, out)
}

// testCommand does a command of another node's self-test.
func (s *Server) testCommand(w http.ResponseWriter, r *http.Request) error {
	var c reserve.Command
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&c); err != nil {
		return badRequest("command of a self-test: %w", err)
	}
	wwn := r.PathValue("disk")
	if user := s.backend.State().UserOf(wwn); user != "" {
		return conflict("disk %s has %s's volume: a test would take it away", wwn, user)
	}
	o, err := s.backend.Disks().TestCommand(r.Context(), wwn, r.PathValue("path"), c)
	if err != nil {
		return conflict("%w", err)
	}
	writeJSON(w, http.StatusOK, o)
	return nil
}
