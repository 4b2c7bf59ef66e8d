package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/proxy"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/daemon"
)

// lab is the cluster that is broken: the operator's tool starts it and ends it, faults go to the lab's daemon, and
// questions to the cluster's API.
type lab struct {
	skein, image, demo string
	nodes              int
	seed               uint64
	dir                string // of this run

	daemon *daemon.Client
	state  *daemon.State
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	api    *api.Client
}

// stack is what runs: a small web service for each floating address.
const stack = "chaos"

// addresses of the services, one each.
func addresses(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("10.77.9.%d", 21+i))
	}
	return all
}

func composeFile(n int) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i, a := range addresses(n) {
		fmt.Fprintf(&b, `  web%d:
    image: demo/web:1
    read_only: true
    tmpfs: [/tmp]
    ports: ["80:80"]
    stop_grace_period: 6s
    healthcheck: {interval: 5s, timeout: 5s, retries: 3, start_period: 10s}
    deploy: {resources: {limits: {cpus: "1", memory: 64M, pids: 32}, reservations: {cpus: "0.1", memory: 32M}}}
    x-skein: {addresses: [%s], health: "http://:80/health"}
`, i+1, a)
	}
	return b.String()
}

func (l *lab) labDir() string   { return filepath.Join(l.dir, "lab") }
func (l *lab) contexts() string { return filepath.Join(l.dir, "contexts.json") }

// tool runs the operator's tool.
func (l *lab) tool(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.skein, args...)
	cmd.Env = append(os.Environ(), "SKEIN_LAB_DIR="+l.labDir(), "SKEIN_CONFIG="+l.contexts(), "SKEIN_CONTEXT=")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("skein %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// up starts the lab anew with the services on it. What an earlier run left in the folder ends first.
func (l *lab) up(ctx context.Context, services int) error {
	if err := l.down(); err != nil {
		return err
	}
	if _, err := l.tool(ctx, "lab", "up", "--image", l.image, "--nodes", strconv.Itoa(l.nodes), "--seed", strconv.FormatUint(l.seed, 10)); err != nil {
		return err
	}
	if err := l.connect(ctx); err != nil {
		return err
	}
	if _, err := l.tool(ctx, "image", "load", filepath.Join(l.demo, "web.tar")); err != nil {
		return err
	}
	file := filepath.Join(l.dir, "compose.yaml")
	if err := os.WriteFile(file, []byte(composeFile(services)), 0o644); err != nil {
		return err
	}
	_, err := l.tool(ctx, "deploy", "-f", file, stack)
	return err
}

func (l *lab) down() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := l.tool(ctx, "lab", "down")
	return err
}

// connect makes the ways to the daemon, into the lab's networks and to the cluster.
func (l *lab) connect(ctx context.Context) (err error) {
	l.daemon = daemon.NewClient(l.labDir())
	if l.state, err = l.daemon.State(ctx); err != nil {
		return err
	}
	u, err := url.Parse(l.state.Proxy)
	if err != nil {
		return err
	}
	d, err := proxy.SOCKS5("tcp", u.Host, nil, &net.Dialer{})
	if err != nil {
		return err
	}
	l.dial = d.(proxy.ContextDialer).DialContext
	l.api, err = l.operator()
	return err
}

// operator is a client with the rights that the tool got at `lab up`.
func (l *lab) operator() (*api.Client, error) {
	data, err := os.ReadFile(l.contexts())
	if err != nil {
		return nil, err
	}
	var f struct {
		Current  string
		Contexts map[string]struct {
			Endpoints     []string
			CA, Cert, Key string
		}
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", l.contexts(), err)
	}
	c, ok := f.Contexts[f.Current]
	if !ok {
		return nil, fmt.Errorf("%s names no cluster", l.contexts())
	}
	cert, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(c.CA)) {
		return nil, errors.New("no readable CA certificate in " + l.contexts())
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return l.dial(ctx, network, addr)
		},
		TLSClientConfig:     &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, ServerName: "skein", MinVersion: tls.VersionTLS13},
		TLSHandshakeTimeout: 3 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: time.Second},
	}
	client := &api.Client{HTTP: &http.Client{Transport: transport}, AttemptTimeout: 2 * time.Second}
	for _, e := range c.Endpoints {
		client.Endpoints = append(client.Endpoints, "https://"+e)
	}
	return client, nil
}

// begin does a fault.
func (l *lab) begin(ctx context.Context, f Fault) error {
	call := daemon.Call{Node: f.Node, Interface: f.Link}
	switch f.Kind {
	case PowerCut:
		call.Op = daemon.OpPowerOff
	case FreezeRunning, Stall:
		call.Op, call.Clock = daemon.OpFreeze, qemu.ClockRunning
	case FreezeStanding:
		call.Op, call.Clock = daemon.OpFreeze, qemu.ClockStanding
	case Partition:
		call = daemon.Call{Op: daemon.OpPartition, Groups: [][]string{{f.Node}}}
	case Mute:
		call.Op, call.Loss, call.Directions = daemon.OpImpair, 1, []string{"out"}
	case Deaf:
		call.Op, call.Loss, call.Directions = daemon.OpImpair, 1, []string{"in"}
	case LinkDown:
		call.Op = daemon.OpLink
	case LinkSilent:
		call.Op, call.Silent = daemon.OpLink, true
	case AgentKilled:
		return l.api.NodeAction(ctx, f.Node, "restart-agent")
	default:
		return fmt.Errorf("no such fault: %q", f.Kind)
	}
	return l.daemon.Call(ctx, call)
}

// end undoes a fault. Freezes are not undone here: the cluster switches such a machine off and on, as it should.
func (l *lab) end(ctx context.Context, f Fault) error {
	switch f.Kind {
	case PowerCut:
		return l.powerOn(ctx, f.Node)
	case Stall:
		m, err := l.machine(ctx, f.Node)
		if err != nil || m.State != qemu.Frozen {
			return err // fenced meanwhile
		}
		err = l.daemon.Call(ctx, daemon.Call{Op: daemon.OpThaw, Node: f.Node})
		if again, e := l.machine(ctx, f.Node); err != nil && e == nil && again.State != qemu.Frozen {
			return nil // fenced between the question and the order
		}
		return err
	case Partition:
		return l.daemon.Call(ctx, daemon.Call{Op: daemon.OpHeal}) // and of a link that is out at the same time
	case Mute, Deaf:
		return l.daemon.Call(ctx, daemon.Call{Op: daemon.OpImpair, Node: f.Node})
	case LinkDown, LinkSilent:
		return l.daemon.Call(ctx, daemon.Call{Op: daemon.OpLink, Node: f.Node, Interface: f.Link, Up: true})
	}
	return nil
}

func (l *lab) machine(ctx context.Context, name string) (*qemu.Status, error) {
	st, err := l.daemon.State(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(st.Machines, func(m qemu.Status) bool { return m.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("no machine %s", name)
	}
	return &st.Machines[i], nil
}

// powerOn switches a machine on that is off.
func (l *lab) powerOn(ctx context.Context, name string) error {
	m, err := l.machine(ctx, name)
	if err != nil || m.State != qemu.Off {
		return err
	}
	return l.daemon.Call(ctx, daemon.Call{Op: daemon.OpPowerOn, Node: name})
}

// mend undoes all faults that there may be.
func (l *lab) mend(ctx context.Context) error {
	st, err := l.daemon.State(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range st.Machines {
		if m.State == qemu.Frozen { // what it was in the middle of is long over: it starts anew
			errs = append(errs, l.daemon.Call(ctx, daemon.Call{Op: daemon.OpPowerOff, Node: m.Name}))
		}
	}
	errs = append(errs, l.daemon.Call(ctx, daemon.Call{Op: daemon.OpHeal}))
	for _, m := range st.Machines {
		errs = append(errs, l.powerOn(ctx, m.Name))
	}
	return errors.Join(errs...)
}

// well says what keeps the cluster from being well, empty if nothing does.
func (l *lab) well(ctx context.Context) (api.Status, string) {
	st, err := l.api.Status(ctx)
	switch {
	case err != nil:
		return st, err.Error()
	case !st.Healthy:
		return st, strings.Join(st.Problems, "; ")
	case len(st.Nodes) != l.nodes:
		return st, fmt.Sprintf("%d of %d nodes are members", len(st.Nodes), l.nodes)
	case len(st.Services) == 0:
		return st, "nothing is deployed"
	}
	for _, n := range st.Nodes {
		if n.State != cluster.NodeOnline {
			return st, fmt.Sprintf("%s is %s", n.Name, n.State)
		}
	}
	return st, ""
}

// waitWell waits until the cluster has been well for a while.
func (l *lab) waitWell(ctx context.Context, limit, calm time.Duration) (api.Status, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var since time.Time
	what := ""
	for {
		st, wrong := l.well(ctx)
		switch {
		case ctx.Err() != nil: // a question that the end cut short says nothing
		case wrong != "":
			since, what = time.Time{}, wrong
		case since.IsZero():
			since = time.Now()
		}
		if !since.IsZero() && time.Since(since) >= calm {
			return st, since, nil
		}
		select {
		case <-time.After(150 * time.Millisecond): // between two questions
		case <-ctx.Done():
			return st, since, fmt.Errorf("the cluster was not well within %v: %s: %w", limit, what, ctx.Err())
		}
	}
}

// evidence keeps what a reader needs to find out why.
func (l *lab) evidence(dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return
	}
	for name, args := range map[string][]string{
		"events.txt": {"events"}, "status.json": {"status", "-o", "json"}, "ps.json": {"lab", "ps", "-o", "json"},
		"owners.json": {"lab", "owners", "-o", "json"}, "timeline.txt": {"lab", "logs"},
	} {
		out, err := l.tool(ctx, args...)
		if err != nil {
			out += err.Error()
		}
		_ = os.WriteFile(filepath.Join(dir, name), []byte(out), 0o644)
	}
	for _, m := range l.state.Machines {
		out, _ := l.tool(ctx, "lab", "console", m.Name)
		if n := len(out) - 200_000; n > 0 {
			out = out[n:]
		}
		_ = os.WriteFile(filepath.Join(dir, m.Name+".console"), []byte(out), 0o644)
	}
}
