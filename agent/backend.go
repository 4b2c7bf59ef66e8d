package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/balance"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/plan"
)

// backend is what the API serves: this node.
type backend struct{ *parts }

var _ api.Backend = (*backend)(nil)

func (b *backend) Self() string          { return b.a.id.Name }
func (b *backend) State() *cluster.State { return b.state.Load() }
func (b *backend) Coordinator() string   { return b.store.Coordinator() }

func (b *backend) Memory() api.Memory {
	return api.Memory{Agent: residentBytes("self"), PID1: residentBytes("1")}
}

// residentBytes is VmRSS of a process, 0 if it cannot be read.
func residentBytes(pid string) int64 {
	data, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// askTimeout bounds a question to the brain; a loop that takes longer is not well.
const askTimeout = time.Second

func (b *backend) Observe() api.Observation {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	type answer struct {
		view    member.View
		pending []plan.Pending
	}
	got := make(chan answer, 1)
	if err := b.a.loop.ask(ctx, func(br *node.Brain) { got <- answer{br.View(), br.Pending()} }); err != nil {
		return api.Observation{Frozen: b.frozen()}
	}
	seen := <-got
	out := api.Observation{Frozen: b.frozen(), Links: map[api.PeerLink]api.LinkStatus{}, Pending: map[string][]string{}, Restarting: map[string]bool{}, Heard: map[string]bool{}}
	for _, p := range seen.pending {
		name := p.Stack + "/" + p.Service
		out.Pending[name] = append(out.Pending[name], p.String())
	}
	st, own := b.State(), b.a.links.List()
	for i := range seen.view.Peers {
		peer := &seen.view.Peers[i]
		n := st.Node(peer.Name)
		if n == nil {
			continue
		}
		if !peer.Alive && balance.Now() < peer.RestartingUntil {
			out.Restarting[peer.Name] = true
		}
		for _, l := range peer.Links {
			if l.Receiving && peer.BootID == n.BootID {
				out.Heard[n.Name] = true
			}
		}
		// Links of the two nodes belong together if they are on the same subnet.
		for _, theirs := range n.Links {
			ours := sameSubnet(own, theirs.Addr)
			for _, l := range peer.Links {
				if ours != nil && l.Link == ours.Name {
					out.Links[api.PeerLink{Node: n.Name, Link: theirs.Name}] = api.LinkStatus{State: linkState(l), LossPercent: l.LossPercent}
				}
			}
		}
	}
	return out
}

// frozen is what a ledger without a majority waits for, nil if it has one.
func (b *backend) frozen() []string {
	since, waits := b.store.Frozen()
	if since == 0 && b.State().Meta.Incarnation < b.store.Incarnation() {
		return []string{"it was restored a moment ago, and is being read"}
	}
	if since == 0 {
		return nil
	}
	if len(waits) == 0 { // no voter, or one that is about to look
		waits = []string{fmt.Sprintf("no leader for %s; a node that votes can tell what is missing", since.Round(time.Second))}
	}
	return waits
}

func linkState(l member.LinkView) string {
	switch {
	case l.Flapping:
		return "flapping"
	case l.Receiving && l.Sending && l.LossPercent >= member.LossHigh:
		return "lossy"
	case l.Receiving && l.Sending:
		return "up"
	case l.Receiving || l.Sending:
		return "one-way"
	default:
		return "silent"
	}
}

func (b *backend) Commit(ctx context.Context, t cluster.Txn) (bool, error) {
	_, ok, err := b.store.Commit(ctx, t)
	return ok, err
}

func (b *backend) CommitAt(ctx context.Context, t cluster.Txn) (int64, bool, error) {
	return b.store.Commit(ctx, t)
}

func (b *backend) Disks() api.Disks { return b.disks }

func (b *backend) Events(ctx context.Context, after uint64, follow bool, fn func(cluster.Event) error) error {
	return b.store.Events(ctx, after, follow, fn)
}

func (b *backend) LoadImage(ctx context.Context, archive io.Reader) ([]cluster.Image, error) {
	return b.images.Load(ctx, archive)
}

func (b *backend) PullImage(ctx context.Context, ref string) (cluster.Image, error) {
	return b.images.Pull(ctx, ref)
}

// AwaitCopy asks the other nodes until one of them has all blobs of the image. They fetch it by
// themselves as soon as they read of it in the ledger.
func (b *backend) AwaitCopy(ctx context.Context, im cluster.Image) error {
	for {
		others := 0
		st := b.State()
		for i := range st.Nodes {
			n := &st.Nodes[i]
			if n.Name == b.a.id.Name || n.State == cluster.NodeLost || n.State == cluster.NodeJoining {
				continue
			}
			others++
			if b.peers.has(ctx, n, im.Blobs) {
				return nil
			}
		}
		if others == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (b *backend) Blob(digest string) (io.ReadSeekCloser, int64, error) {
	return b.images.Blob(digest)
}

func (b *backend) Logs(ctx context.Context, id string, follow bool, tail int, fn func(string) error) error {
	return b.runtime.Logs(ctx, id, follow, tail, fn)
}

func (b *backend) Exec(ctx context.Context, id string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	return b.runtime.Exec(ctx, id, argv, stdin, stdout, stderr)
}

func (b *backend) Peer(n *cluster.Node) (http.RoundTripper, string) {
	return b.peers.transport, b.peers.url(n)
}

// answerTime is how long an answer gets to leave before the agent that gave it ends.
const answerTime = 200 * time.Millisecond

// RestartAgent ends the agent as a crash would, for PID 1 to start a new one.
func (b *backend) RestartAgent(reason string) {
	time.AfterFunc(answerTime, func() { b.a.fail(fmt.Errorf("restart of the agent: %s", reason)) })
}

func (b *backend) Reboot(reason string) {
	if err := b.a.opts.PID1.Reboot(reason); err != nil {
		b.a.log.Error("reboot", "err", errors.Join(err, fmt.Errorf("wanted because: %s", reason)))
	}
}

func (b *backend) PowerOff(reason string) {
	if err := b.a.opts.PID1.Poweroff(reason); err != nil {
		b.a.log.Error("power off", "err", errors.Join(err, fmt.Errorf("wanted because: %s", reason)))
	}
}
