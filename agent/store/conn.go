package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// conn is a client of one voter. There is one client for each endpoint, instead of etcd's own balancing
// over all of them, because that one waits on a dead endpoint until TCP gives up.
type conn struct {
	endpoint string
	client   *clientv3.Client
	local    bool

	mu     sync.Mutex
	failed time.Time // when it last failed to answer; zero since it answered
}

func (c *conn) mark(ok bool) {
	if c.local {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = time.Time{}
	if !ok {
		c.failed = time.Now()
	}
}

func (c *conn) lastFailure() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

type dialer func(endpoint string) (*conn, error)

func newDialer(cfg *Config) (dialer, error) {
	ca, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", cfg.CAFile)
	}
	if _, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
		return nil, fmt.Errorf("this node's certificate: %w", err)
	}
	certFile, keyFile := cfg.CertFile, cfg.KeyFile
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		ServerName: ServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(certFile, keyFile)
			return &c, err
		},
	}
	log := zapLogger(cfg.Log)
	return func(endpoint string) (*conn, error) {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: []string{endpoint},
			TLS:       conf,
			Logger:    log,
			// Retrying is this package's business.
			MaxUnaryRetries: 1,
			// gRPC sends no pings more often than every 10 s; but the timeout is also TCP's for data that
			// nobody acknowledges, and that must outlast the move of a route to another link.
			DialKeepAliveTime:    10 * time.Second,
			DialKeepAliveTimeout: 3 * time.Second,
			DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
				// gRPC's default waits up to two minutes before it looks again for a node that rebooted.
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: time.Second,
			})},
		})
		if err != nil {
			return nil, fmt.Errorf("client of %s: %w", endpoint, err)
		}
		return &conn{endpoint: endpoint, client: c}, nil
	}, nil
}

// setEndpoints makes the clients be those of the given voters; clients of others are closed.
func (s *Store) setEndpoints(endpoints []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next []*conn
	for _, e := range endpoints {
		if i := slices.IndexFunc(s.conns, func(c *conn) bool { return c.endpoint == e }); i >= 0 {
			next = append(next, s.conns[i])
		} else if c, err := s.dial(e); err != nil {
			s.cfg.Log.Error("etcd endpoint is not usable", "endpoint", e, "err", err)
		} else {
			next = append(next, c)
		}
	}
	for _, c := range s.conns {
		if !slices.Contains(next, c) {
			_ = c.client.Close() // whoever uses it goes on with another
		}
	}
	s.conns = next
}

func (s *Store) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.client.Close()
	}
	s.conns = nil
}

// broken: it failed and has no connection now. To ask it would be to wait for the connection.
func (c *conn) broken() bool {
	return !c.lastFailure().IsZero() && c.client.ActiveConnection().GetState() != connectivity.Ready
}

// order lists the connections as they should be asked: this node's own member, then those that have not
// failed, then those whose failure is longest ago, then the broken ones.
func (s *Store) order() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*conn
	if s.local != nil {
		list = append(list, &conn{endpoint: "local", client: s.local.client, local: true})
	}
	remote := slices.Clone(s.conns)
	slices.SortStableFunc(remote, func(a, b *conn) int { return a.lastFailure().Compare(b.lastFailure()) })
	broken := func(c *conn) bool { return c.broken() }
	list = append(list, slices.DeleteFunc(slices.Clone(remote), broken)...)
	for _, c := range remote {
		if !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}

// changeTry is the timeout of the first attempt at a change of members, longTry that of the last ones. raft
// drops a change that is proposed while another is under way, and nobody answers: so the first is short.
const (
	changeTry = 1500 * time.Millisecond
	longTry   = 3 * time.Second
)

// do runs fn at one endpoint after the other until it succeeds, fails for a reason that another endpoint
// would have too, or the context ends. An attempt may take try (the configured timeout if 0), and longer
// after each round that failed, so that a slow cluster is not a dead one.
func (s *Store) do(ctx context.Context, fn func(context.Context, *clientv3.Client) error, try time.Duration) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.CommitTimeout)
		defer cancel()
	}
	if try == 0 {
		try = s.cfg.TryTimeout
	}
	var last error
	for round := 0; ; round++ {
		conns := s.order()
		for _, c := range conns {
			tctx, cancel := context.WithTimeout(ctx, try)
			if c.local {
				tctx = context.WithValue(tctx, atOwn{}, true)
			}
			err := fn(tctx, c.client)
			cancel()
			if err == nil || isFinal(err) {
				c.mark(true)
				s.answered(true)
				return err
			}
			if ctx.Err() != nil {
				return fmt.Errorf("etcd does not answer (last: %s): %w", c.endpoint, errors.Join(context.Cause(ctx), last, err))
			}
			c.mark(false)
			last = fmt.Errorf("%s: %w", c.endpoint, err)
		}
		if last == nil {
			last = errors.New("no voter is known")
		}
		if round > 0 {
			try = min(2*try, longTry)
		}
		if !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("etcd does not answer: %w", errors.Join(context.Cause(ctx), last))
		}
	}
}

// atOwn marks the context of an attempt at this node's own member, which may have ended by the time it is answered.
type atOwn struct{}

// isFinal: the answer would be the same from every endpoint.
func isFinal(err error) bool {
	switch code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.PermissionDenied, codes.ResourceExhausted,
		codes.NotFound, codes.FailedPrecondition, codes.AlreadyExists:
		return true
	}
	return false
}

func code(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	return status.Code(err)
}

func isMemberGone(err error) bool { return errors.Is(err, rpctypes.ErrMemberNotFound) }
func isPromoted(err error) bool   { return errors.Is(err, rpctypes.ErrMemberNotLearner) }
