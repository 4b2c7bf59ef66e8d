package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/proxy"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

// clusterContext is how to reach one cluster and who one is there. It holds a private key: the file is
// readable by its owner only.
type clusterContext struct {
	Endpoints []string `json:"endpoints"`       // host:port of nodes
	Proxy     string   `json:"proxy,omitempty"` // socks5://host:port on the way there, as for a lab
	CA        string   `json:"ca"`              // PEM
	Cert      string   `json:"cert"`            // PEM
	Key       string   `json:"key"`             // PEM
}

type contextFile struct {
	Current  string                    `json:"current"`
	Contexts map[string]clusterContext `json:"contexts"`
}

// contextPath is where contexts are kept: $SKEIN_CONFIG, or skein/contexts.json in the user's
// configuration folder.
func contextPath() (string, error) {
	if p := os.Getenv("SKEIN_CONFIG"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration folder (or set SKEIN_CONFIG): %w", err)
	}
	return filepath.Join(dir, "skein", "contexts.json"), nil
}

func readContexts() (contextFile, error) {
	f := contextFile{Contexts: map[string]clusterContext{}}
	path, err := contextPath()
	if err != nil {
		return f, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func writeContexts(f contextFile) error {
	path, err := contextPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// saveContext stores a context and makes it the current one.
func saveContext(name string, c clusterContext) error {
	f, err := readContexts()
	if err != nil {
		return err
	}
	f.Contexts[name], f.Current = c, name
	return writeContexts(f)
}

// client makes the API client that the command's flags ask for.
func client(cmd *cobra.Command) (*api.Client, error) {
	c, err := chosenContext(cmd)
	if err != nil {
		return nil, err
	}
	return c.client()
}

// chosenContext is the context that the command's flags ask for.
func chosenContext(cmd *cobra.Command) (c clusterContext, err error) {
	f, err := readContexts()
	if err != nil {
		return c, err
	}
	name, _ := cmd.Flags().GetString("context")
	for _, n := range []string{os.Getenv("SKEIN_CONTEXT"), f.Current} {
		if name == "" {
			name = n
		}
	}
	if name == "" {
		return c, errors.New("no cluster to talk to: start one with 'skein lab up'")
	}
	c, ok := f.Contexts[name]
	if !ok {
		return c, fmt.Errorf("no context %q; 'skein context ls' lists them", name)
	}
	if only, _ := cmd.Flags().GetString("endpoint"); only != "" {
		if _, _, err := net.SplitHostPort(only); err != nil {
			only = net.JoinHostPort(only, strconv.Itoa(cluster.PortAPI))
		}
		c.Endpoints = []string{only}
	}
	return c, nil
}

// client makes an API client of a context.
func (c clusterContext) client() (*api.Client, error) {
	cert, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key))
	if err != nil {
		return nil, fmt.Errorf("certificate of the context: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(c.CA)) {
		return nil, errors.New("the context holds no readable CA certificate")
	}
	dial, err := c.dialer()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext: dial,
		// Nodes are known by their cluster, not by an address: see package pki.
		TLSClientConfig: &tls.Config{
			Certificates: []tls.Certificate{cert}, RootCAs: roots, ServerName: "skein", MinVersion: tls.VersionTLS13,
		},
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	// A node that loses power sends no reset: pings find out, or a follower of events would wait for ever.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 5 * time.Second}
	told := false
	client := &api.Client{HTTP: &http.Client{Transport: transport}, AttemptTimeout: 5 * time.Second, Patience: 20 * time.Second,
		Waiting: func(err error) {
			if !told {
				fmt.Fprintf(os.Stderr, "trying again for 20 seconds: %v\n", err)
			}
			told = true
		}}
	for _, e := range c.Endpoints {
		client.Endpoints = append(client.Endpoints, "https://"+e)
	}
	return client, nil
}

// dialTimeout is how long a node may take to accept a connection before the next one is tried.
const dialTimeout = 2 * time.Second

func (c clusterContext) dialer() (func(ctx context.Context, network, addr string) (net.Conn, error), error) {
	direct := &net.Dialer{Timeout: dialTimeout}
	if c.Proxy == "" {
		return direct.DialContext, nil
	}
	u, err := url.Parse(c.Proxy)
	if err != nil {
		return nil, fmt.Errorf("proxy %q: %w", c.Proxy, err)
	}
	d, err := proxy.FromURL(u, direct)
	if err != nil {
		return nil, fmt.Errorf("proxy %q: %w", c.Proxy, err)
	}
	cd := d.(proxy.ContextDialer)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return cd.DialContext(ctx, network, addr)
	}, nil
}

func contextCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "context", Short: "Which clusters this tool knows and which one it talks to",
		Example: "  skein context ls\n  skein context use lab"}
	ls := &cobra.Command{
		Use: "ls", Short: "List the known clusters", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := readContexts()
			if err != nil {
				return err
			}
			type row struct {
				Name      string   `json:"name"`
				Current   bool     `json:"current"`
				Endpoints []string `json:"endpoints"`
				Proxy     string   `json:"proxy,omitempty"`
			}
			rows := []row{}
			for name, c := range f.Contexts {
				rows = append(rows, row{name, name == f.Current, c.Endpoints, c.Proxy})
			}
			sort.Slice(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
			return show(cmd, rows, func(t *table) {
				t.row("", "NAME", "ENDPOINTS", "PROXY")
				for _, r := range rows {
					mark := ""
					if r.Current {
						mark = "*"
					}
					t.row(mark, r.Name, fmt.Sprint(r.Endpoints), r.Proxy)
				}
			})
		},
	}
	addOutputFlag(ls)
	use := &cobra.Command{
		Use: "use NAME", Short: "Talk to this cluster from now on", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := readContexts()
			if err != nil {
				return err
			}
			if _, ok := f.Contexts[args[0]]; !ok {
				return fmt.Errorf("no context %q; 'skein context ls' lists them", args[0])
			}
			f.Current = args[0]
			return writeContexts(f)
		},
	}
	cmd.AddCommand(ls, use)
	return cmd
}
