package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
)

// Net is what the API needs to know of this node's own ports and links.
type Net interface {
	// LocalNet is how they are now. It asks the goroutine that sends the heartbeats.
	LocalNet(ctx context.Context) NodeNet
}

// NodeNet is what one node sees of its ports and links.
type NodeNet struct {
	Node  string            `json:"node"`
	State cluster.NodeState `json:"state"`
	// Live: the node itself has said so just now. Else its ports are as it told them last, and nothing is known
	// of its links: Error says why.
	Live   bool                   `json:"live"`
	Error  string                 `json:"error,omitempty"`
	Ports  []cluster.EthernetPort `json:"ports"`
	Links  []NetLink              `json:"links"` // by link and peer
	Faults []string               `json:"faults"`
}

// NetLink is one link of a node to one peer, by heartbeats.
type NetLink struct {
	Link        string  `json:"link"` // the port, or the bond
	Peer        string  `json:"peer"`
	PeerLink    string  `json:"peer_link,omitempty"` // what it is called there
	Receiving   bool    `json:"receiving"`           // the node hears the peer
	Sending     bool    `json:"sending"`             // the peer says that it hears the node
	LossPercent int     `json:"loss_percent"`        // of the last 64 heartbeats, the worse direction
	RTTMs       float64 `json:"rtt_ms,omitempty"`    // 0: not known
	Flapping    bool    `json:"flapping,omitempty"`  // it goes up and down: nothing relies on it
	Lost        bool    `json:"lost,omitempty"`      // the peer is not heard on any link: its links are not judged
}

// Good tells whether heartbeats pass in both directions.
func (l *NetLink) Good() bool { return l.Receiving && l.Sending && !l.Flapping }

// Trouble is a clause about what is wrong with the link, empty if nothing is.
func (l *NetLink) Trouble() string {
	switch {
	case l.Lost:
		return ""
	case l.Flapping:
		return fmt.Sprintf("the link to %s goes up and down", l.Peer)
	case !l.Receiving && !l.Sending:
		return fmt.Sprintf("nothing gets through to %s or back", l.Peer)
	case !l.Sending:
		return fmt.Sprintf("%s does not hear it", l.Peer)
	case !l.Receiving:
		return fmt.Sprintf("it does not hear %s", l.Peer)
	case l.LossPercent >= member.LossHigh:
		return fmt.Sprintf("%d%% of the heartbeats from or to %s get lost", l.LossPercent, l.Peer)
	}
	return ""
}

// netPatience is how long a node may take to tell of its links.
const netPatience = 2 * time.Second

// HandleNet adds what concerns ports and links.
func (s *Server) HandleNet(n Net) {
	s.handle("GET /v1/net", func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.Query().Get("local") != "" {
			writeJSON(w, http.StatusOK, s.localNet(r.Context(), n))
			return nil
		}
		writeJSON(w, http.StatusOK, s.allNet(r.Context(), n))
		return nil
	})
}

func (s *Server) localNet(ctx context.Context, n Net) NodeNet {
	out := n.LocalNet(ctx)
	out.Faults = []string{}
	if told := s.backend.State().PortsOf(out.Node); told != nil {
		out.Faults = append(out.Faults, told.Faults...)
	}
	return out
}

// allNet asks all nodes at once. What one does not answer is taken from the ledger.
func (s *Server) allNet(ctx context.Context, n Net) []NodeNet {
	ctx, cancel := context.WithTimeout(ctx, netPatience)
	defer cancel()
	st := s.backend.State()
	out := make([]NodeNet, len(st.Nodes))
	var wg sync.WaitGroup
	for i := range st.Nodes {
		node := &st.Nodes[i]
		wg.Go(func() {
			if node.Name == s.backend.Self() {
				out[i] = s.localNet(ctx, n)
				return
			}
			told := NodeNet{Node: node.Name, State: node.State, Ports: []cluster.EthernetPort{}, Links: []NetLink{}, Faults: []string{}}
			if p := st.PortsOf(node.Name); p != nil {
				told.Ports, told.Faults = p.Ports, append(told.Faults, p.Faults...)
			}
			if node.State == cluster.NodeLost {
				told.Error = "it is lost: " + node.Reason
				out[i] = told
				return
			}
			got, err := s.askNet(ctx, node)
			if err != nil {
				told.Error = err.Error()
				got = told
			}
			out[i] = got
		})
	}
	wg.Wait()
	return out
}

func (s *Server) askNet(ctx context.Context, node *cluster.Node) (out NodeNet, err error) {
	transport, base := s.backend.Peer(node)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/net?local=1", nil)
	if err != nil {
		return out, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return out, fmt.Errorf("ask node %s: %w", node.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return out, fmt.Errorf("ask node %s: %s: is it of an older version?", node.Name, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&out); err != nil {
		return out, fmt.Errorf("answer of node %s: %w", node.Name, err)
	}
	return out, nil
}

// cablingWarnings are what is wrong with the cables of nodes that are there, in sentences.
func cablingWarnings(st *cluster.State) []string {
	var out []string
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if p := st.PortsOf(n.Name); p != nil && n.State != cluster.NodeLost {
			out = append(out, p.Faults...)
		}
	}
	return out
}

// Net asks for the ports and links of all nodes.
func (c *Client) Net(ctx context.Context) ([]NodeNet, error) {
	var out []NodeNet
	return out, c.get(ctx, http.MethodGet, "/v1/net", nil, nil, &out)
}
