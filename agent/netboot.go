package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/netboot"
)

// This file has a member boot other machines from the network, if the ledger says so and it is one of the best.

// rankDelay is between the answers of two servers: one that is dead costs a machine this and no more.
const rankDelay = 200 * time.Millisecond

// strayTime is how long a file that the ledger does not name is kept: it may be one that is being enabled.
const strayTime = 10 * time.Minute

// netboots is this node as one that boots machines.
type netboots struct {
	p     *parts
	dir   string // of the files, each under its SHA-256
	woken chan struct{}

	mu     sync.Mutex
	server *netboot.Server // nil: not serving
	pace   *rate.Limiter   // of boot files between nodes, all together
	begun  time.Time       // when it began to serve
	why    string          // it does not serve
}

const (
	// transferRate is how fast this node takes boot files from others and gives them, bytes a second: nobody waits for them, and
	// TLS at full speed would keep the processor of a small machine from its heartbeats.
	transferRate  = 4 << 20
	transferPiece = 64 << 10
)

// paced reads no faster than the node may transfer boot files.
type paced struct {
	io.Reader
	pace *rate.Limiter
}

func (r paced) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), transferPiece)])
	if werr := r.pace.WaitN(context.Background(), n); werr != nil { // never: a piece is not larger than the limiter's burst
		return n, werr
	}
	return n, err
}

// pacedFile is a file that is read by paced.
type pacedFile struct {
	*os.File
	paced
}

func (f pacedFile) Read(p []byte) (int, error) { return f.paced.Read(p) }

func (p *parts) openNetboot() *netboots {
	return &netboots{p: p, dir: p.a.path("netboot"), woken: make(chan struct{}, 1), pace: rate.NewLimiter(transferRate, transferPiece)}
}

// Netboot implements api.Backend.
func (b *backend) Netboot() api.Netboot { return b.boots }

// run follows the ledger until ctx ends.
func (n *netboots) run(ctx context.Context) {
	var stop func()
	end := func() {
		if stop != nil {
			stop()
			stop = nil
		}
	}
	defer end()
	failed := make(chan error, 1)
	retry := time.NewTicker(5 * time.Second) // a file whose holder was down, a port that had no address
	defer retry.Stop()
	var served string
	for {
		want, cfg, err := n.wanted(ctx)
		switch {
		case err != nil || want == "":
			end()
			served = ""
			n.state(nil, err)
		case want != served:
			end()
			if stop, err = n.start(ctx, cfg, failed); err == nil {
				served = want
			} else {
				served = ""
				n.state(nil, err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case err := <-failed:
			end()
			served = ""
			n.state(nil, err)
			select { // a port that fails at once must not be tried without a pause
			case <-ctx.Done():
				return
			case <-retry.C:
			}
		case <-n.woken:
		case <-retry.C:
		}
	}
}

// state notes whether this node serves, and tells of a failure when it is a new one.
func (n *netboots) state(s *netboot.Server, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.why
	n.server, n.why = s, ""
	if err != nil {
		n.why = err.Error()
		if n.why != was {
			n.p.a.log.Warn("this node boots no machines", "err", err)
		}
	}
}

// wanted is what to serve, and a text that differs when it does; empty: nothing. It fetches the files that are missing.
func (n *netboots) wanted(ctx context.Context) (string, netboot.Config, error) {
	var cfg netboot.Config
	st := n.p.state.Load()
	rec := st.Netboot
	n.drop(rec)
	if rec == nil || !slices.ContainsFunc(st.NetbootServers(), func(o *cluster.Node) bool { return o.Name == n.p.a.id.Name }) {
		return "", cfg, nil
	}
	cfg = netboot.Config{Folder: netboot.Folder{}, HTTPPort: rec.Port, Cmdline: rec.Cmdline}
	for _, f := range rec.Files {
		if err := n.fetch(ctx, st, f); err != nil {
			return "", cfg, err
		}
		cfg.Folder[f.Name] = n.path(f.Digest)
	}
	links := n.p.a.links.List()
	for _, name := range rec.Interfaces {
		if !slices.ContainsFunc(links, func(l cluster.Link) bool { return l.Name == name }) {
			return "", cfg, fmt.Errorf("interface %s is not there or has no address yet; this node has: %s", name, linkNames(links))
		}
	}
	for _, l := range links {
		if len(rec.Interfaces) == 0 || slices.Contains(rec.Interfaces, l.Name) {
			cfg.Interfaces = append(cfg.Interfaces, netboot.Interface{Name: l.Name, Addr: l.Addr})
		}
	}
	return fmt.Sprint(rec.Revision, cfg.Interfaces), cfg, nil
}

func linkNames(links []cluster.Link) (out string) {
	for _, l := range links {
		out += l.Name + " "
	}
	return out
}

// start serves until the function that it returns is called, which waits for the end.
func (n *netboots) start(ctx context.Context, cfg netboot.Config, failed chan<- error) (func(), error) {
	cfg.Log = n.p.a.log.With("part", "netboot")
	cfg.Servers = n.servers
	cfg.Delay = n.delay
	cfg.Changed = func(m netboot.Machine) {
		cfg.Log.Info("machine boots", "mac", m.MAC, "stage", m.Stage, "detail", m.Detail)
	}
	s, err := netboot.NewServer(cfg)
	if err != nil {
		return nil, err
	}
	n.state(s, nil)
	n.mu.Lock()
	n.begun = time.Now()
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil && ctx.Err() == nil {
			select {
			case failed <- err:
			default: // the first one is being looked after
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}

// delay is how long a machine's question waits here.
func (n *netboots) delay(mac net.HardwareAddr) time.Duration {
	order := cluster.NetbootOrder(n.p.state.Load().NetbootServers(), mac)
	rank := slices.IndexFunc(order, func(o *cluster.Node) bool { return o.Name == n.p.a.id.Name })
	return time.Duration(max(rank, 0)) * rankDelay
}

// servers are where a machine fetches: from the one that it asks, which lives, and then from the others that it reaches on the
// same network.
func (n *netboots) servers(mac net.HardwareAddr, self netip.Addr) []netip.AddrPort {
	st := n.p.state.Load()
	if st.Netboot == nil {
		return nil
	}
	out := []netip.AddrPort{netip.AddrPortFrom(self, st.Netboot.Port)}
	var net netip.Prefix
	for _, l := range n.p.a.links.List() {
		if l.Addr.Addr() == self {
			net = l.Addr.Masked()
		}
	}
	for _, o := range cluster.NetbootOrder(st.NetbootServers(), mac) {
		for _, l := range o.Links {
			if o.Name != n.p.a.id.Name && net.IsValid() && l.Addr.Masked() == net {
				out = append(out, netip.AddrPortFrom(l.Addr.Addr(), st.Netboot.Port))
			}
		}
	}
	return out
}

func (n *netboots) path(digest string) string { return filepath.Join(n.dir, digest) }

// fetch gets a file that is not here from a node that has it.
func (n *netboots) fetch(ctx context.Context, st *cluster.State, f cluster.NetbootFile) error {
	if n.has(f) {
		return nil
	}
	errs := []error{fmt.Errorf("boot file %s is on no node that answers; 'skein netboot enable' sends it again", f.Name)}
	for i := range st.Nodes {
		o := &st.Nodes[i]
		if o.Name == n.p.a.id.Name || o.State == cluster.NodeLost {
			continue
		}
		err := n.fetchFrom(ctx, o, f)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("node %s: %w", o.Name, err))
	}
	return errors.Join(errs...)
}

func (n *netboots) fetchFrom(ctx context.Context, o *cluster.Node, f cluster.NetbootFile) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.p.peers.url(o)+"/v1/netboot/files/"+f.Digest, nil)
	if err != nil {
		return err
	}
	resp, err := n.p.peers.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	got, err := n.Store(resp.Body)
	if err == nil && got.Digest != f.Digest {
		err = fmt.Errorf("sent another file: SHA-256 %.12s…, want %.12s…", got.Digest, f.Digest)
	}
	return err
}

// has tells whether a file is here; what is under its digest was verified when it was written.
func (n *netboots) has(f cluster.NetbootFile) bool {
	info, err := os.Stat(n.path(f.Digest))
	return err == nil && info.Size() == f.Size
}

// drop removes files that the ledger does not name and that are not on their way into it.
func (n *netboots) drop(rec *cluster.NetbootRecord) {
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return // there are none
	}
	for _, e := range entries {
		info, err := e.Info()
		named := rec != nil && slices.ContainsFunc(rec.Files, func(f cluster.NetbootFile) bool { return f.Digest == e.Name() })
		if err == nil && !named && time.Since(info.ModTime()) > strayTime {
			_ = os.Remove(filepath.Join(n.dir, e.Name())) // tried again the next time
		}
	}
}

// Store implements api.Netboot.
func (n *netboots) Store(r io.Reader) (f cluster.NetbootFile, err error) {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return f, err
	}
	tmp, err := os.CreateTemp(n.dir, "new-")
	if err != nil {
		return f, err
	}
	defer os.Remove(tmp.Name()) // there is none after the rename
	sum := sha256.New()
	f.Size, err = io.Copy(io.MultiWriter(tmp, sum), io.LimitReader(paced{r, n.pace}, cluster.MaxNetbootFile+1))
	if err := errors.Join(err, tmp.Close()); err != nil {
		return f, err
	}
	if f.Size > cluster.MaxNetbootFile {
		return f, fmt.Errorf("a boot file has %d bytes at most", cluster.MaxNetbootFile)
	}
	f.Digest = hex.EncodeToString(sum.Sum(nil))
	return f, os.Rename(tmp.Name(), n.path(f.Digest))
}

// Open implements api.Netboot.
func (n *netboots) Open(digest string) (io.ReadSeekCloser, error) {
	if !cluster.IsSHA256(digest) {
		return nil, fmt.Errorf("%q is no SHA-256 in hex", digest)
	}
	f, err := os.Open(n.path(digest))
	if err != nil {
		return nil, err
	}
	return pacedFile{f, paced{f, n.pace}}, nil
}

// Status implements api.Netboot.
func (n *netboots) Status() api.NodeNetboot {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := api.NodeNetboot{Serving: n.server != nil, Problem: n.why, Machines: []api.BootingMachine{}}
	if n.server == nil {
		return out
	}
	machines, dropped := n.server.Machines()
	out.Unreadable = dropped
	for _, m := range machines {
		out.Machines = append(out.Machines, api.BootingMachine{Machine: m, At: n.begun.Add(m.Since).UTC()})
	}
	return out
}
