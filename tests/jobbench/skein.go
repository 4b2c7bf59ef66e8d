package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/balance"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/job"
	"github.com/skein-os/skein/agent/job/dispatch"
	"github.com/skein-os/skein/agent/job/execute"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/store"
)

// node is a node as far as jobs go.
type node struct {
	api.Backend // of which jobs use what is below
	*dispatch.Dispatch
	state  *cluster.State
	output *execute.Output
}

func (n *node) Self() string                  { return "n1" }
func (n *node) Coordinator() string           { return "n1" }
func (n *node) State() *cluster.State         { return n.state }
func (n *node) List() ([]job.Progress, error) { return n.Dispatch.List() }
func (n *node) Output(id string, from, to int32, fn func(execute.Text) error) error {
	return n.output.Read(id, from, to, fn)
}

const bootID = "0b0073d0-0000"

// newSkein starts a cluster of one node on loopback.
func newSkein(ctx context.Context, dir string) (*contestant, error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	now := time.Now()
	ca, err := pki.NewCA("bench", "bench", now)
	if err != nil {
		return nil, err
	}
	self := netip.MustParseAddr("127.0.0.1")
	nodeFiles, err := certificate(ca, filepath.Join(dir, "node"), func(csr *x509.CertificateRequest) ([]byte, error) {
		return ca.SignNode(csr, "n1", []netip.Addr{self}, now)
	})
	if err != nil {
		return nil, err
	}
	operatorFiles, err := certificate(ca, filepath.Join(dir, "operator"), func(csr *x509.CertificateRequest) ([]byte, error) {
		return ca.SignOperator(csr, "bench", now)
	})
	if err != nil {
		return nil, err
	}
	n := &node{state: &cluster.State{
		Nodes:  []cluster.Node{{Name: "n1", Number: 1, BootID: bootID, State: cluster.NodeOnline, CPUs: 1024, Memory: 8 << 30}},
		Images: []cluster.Image{{Ref: "none:1", Digest: "sha256:0"}},
	}}
	ports := [2]int{}
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		ports[i] = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	ledger, err := store.Bootstrap(ctx, store.Config{Name: "n1", BootID: bootID, DataDir: filepath.Join(dir, "etcd"), Addr: self, ClientPort: ports[0], PeerPort: ports[1],
		CAFile: nodeFiles.CA, CertFile: nodeFiles.Cert, KeyFile: nodeFiles.Key, Log: log}, cluster.Meta{Name: "bench", ID: "bench"}, cluster.Txn{})
	if err != nil {
		return nil, err
	}
	n.Dispatch = dispatch.New(dispatch.Config{Self: "n1", Ledger: ledger, State: n.State, Leader: ledger.Leader, Changes: ledger.Changes, Now: balance.Now, Log: log})
	server := api.NewServer(n, http.NotFoundHandler(), pki.Caller, log)
	server.HandleJobs(n)
	serverTLS, err := pki.ServerTLS(nodeFiles)
	if err != nil {
		return nil, err
	}
	serverTLS.NextProtos = []string{"h2", "http/1.1"}
	l, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: server}
	go srv.Serve(l)
	base := "https://" + l.Addr().String()
	as := func(f pki.Files) (http.RoundTripper, error) {
		cfg, err := pki.ClientTLS(f)
		return &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}, err
	}
	nodeTransport, err := as(nodeFiles)
	if err != nil {
		return nil, err
	}
	operator, err := as(operatorFiles)
	if err != nil {
		return nil, err
	}
	if n.output, err = execute.OpenOutput(filepath.Join(dir, "output"), 32<<20, 96<<20); err != nil {
		return nil, err
	}
	runCtx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { n.Dispatch.Run(runCtx) })
	life := 0
	client := &api.Client{Endpoints: []string{base}, HTTP: &http.Client{Transport: operator}}
	return &contestant{name: "skein", slots: []int{2, 4, 8}, run: func(ctx context.Context, slots int) (time.Duration, error) {
		// A new life of the node for each run: another number of slots.
		life++
		nodeCtx, end := context.WithCancel(ctx)
		defer end()
		var node sync.WaitGroup
		r := execute.New(execute.Config{Node: "n1", Life: fmt.Sprint(bootID, ".", life), CPUs: float64(slots), Memory: 8 << 30,
			Ask: func(ctx context.Context, p *job.Pull) (job.Answer, error) {
				return api.PullJobs(ctx, nodeTransport, base, p)
			},
			Launch: launch, Output: n.output, Log: log})
		node.Go(func() { r.Run(nodeCtx) })
		defer node.Wait()
		defer end()
		for { // until the node has been heard: it is there before the job on a cluster, too
			list, err := client.Jobs(ctx)
			if err == nil && (len(list) == 0 || list[len(list)-1].Slots == slots) {
				break
			}
			if len(list) == 0 {
				time.Sleep(50 * time.Millisecond)
			} else {
				time.Sleep(10 * time.Millisecond)
			}
		}
		began := time.Now()
		j, err := client.Submit(ctx, api.Submission{Spec: job.Spec{Name: "true", Image: "none:1", Command: []string{"/bin/true"}, CPUs: 1,
			Indices: job.Indices{{First: 1, Last: int64(*tasks)}}}})
		if err != nil {
			return 0, err
		}
		for {
			d, err := client.Job(ctx, j.ID, false)
			if err != nil {
				return 0, err
			}
			if d.State.Ended() {
				took := time.Since(began)
				if d.OK != *tasks {
					return 0, fmt.Errorf("job %s: %s with %d of %d done", j.ID, d.State, d.OK, *tasks)
				}
				return took, nil
			}
			time.Sleep(20 * time.Millisecond)
		}
	}, close: func() {
		stop()
		wg.Wait()
		srv.Close()
		ledger.Close()
	}}, nil
}

// certificate makes a key and has it signed.
func certificate(ca *pki.CA, dir string, sign func(*x509.CertificateRequest) ([]byte, error)) (pki.Files, error) {
	f := pki.FilesIn(dir)
	key, err := pki.NewKey()
	if err != nil {
		return f, err
	}
	der, err := pki.NewCSR(key, "bench")
	if err != nil {
		return f, err
	}
	csr, err := pki.ParseCSR(der)
	if err != nil {
		return f, err
	}
	cert, err := sign(csr)
	if err != nil {
		return f, err
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		return f, err
	}
	return f, f.Write(ca.CertPEM(), cert, keyPEM)
}

// process is a worker without a container.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
	end func() error
}

func (p *process) In() io.Writer  { return p.in }
func (p *process) Out() io.Reader { return p.out }
func (p *process) Close() error   { return p.end() }

func launch(_ context.Context, _ string, _ *job.Job) (execute.Worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self)}
	p.cmd.Args[0] = "skein-worker"
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	p.end = sync.OnceValue(func() error {
		p.in.Close() // it ends by itself, and kills what it runs
		go io.Copy(io.Discard, p.out)
		return p.cmd.Wait()
	})
	return p, p.cmd.Start()
}
