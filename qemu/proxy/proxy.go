package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// ErrOutside is what a Dial returns for an address that is not the lab's.
var ErrOutside = errors.New("not an address of the lab")

// dialTimeout bounds a connection attempt; a browser would wait for minutes.
const dialTimeout = 10 * time.Second

// greetTimeout is how long a client may take to say what it wants.
const greetTimeout = 30 * time.Second

// Dial connects to host:port inside the lab.
type Dial func(ctx context.Context, hostPort string) (net.Conn, error)

// Proxy serves a listener until it is closed.
type Proxy struct {
	listener net.Listener
	connect  Dial
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	http     *http.Server
	handoff  *handoff
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Serve starts a proxy on a loopback listener.
func Serve(l net.Listener, dial Dial, log *slog.Logger) (*Proxy, error) {
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return nil, fmt.Errorf("the proxy must listen on loopback, not on %s: anyone who reaches it reaches the lab", l.Addr())
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{listener: l, connect: dial, log: log, ctx: ctx, cancel: cancel, conns: map[net.Conn]struct{}{},
		handoff: &handoff{addr: l.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}}
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return p.timed(ctx, addr) },
		DisableKeepAlives: true,
	}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport: transport, FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { refuse(w, err) },
		ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	p.http = &http.Server{ReadHeaderTimeout: greetTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodConnect:
				p.serveConnect(w, r)
			case r.URL.IsAbs() && r.URL.Scheme == "http":
				forward.ServeHTTP(w, r)
			default:
				http.Error(w, "This is the proxy of a Skein lab (SOCKS5 and HTTP): use it as one, as in\n  curl -x http://"+
					l.Addr().String()+" http://n1/", http.StatusBadRequest)
			}
		})}
	p.wg.Go(func() { _ = p.http.Serve(p.handoff) })
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() net.Addr { return p.listener.Addr() }

// Close stops the proxy, cuts its connections and waits for them.
func (p *Proxy) Close() {
	p.cancel()
	p.listener.Close()
	p.http.Close()
	p.handoff.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			if p.ctx.Err() == nil {
				p.log.Error("the proxy can take no more connections", "err", err)
			}
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

// track makes Close cut a connection.
func (p *Proxy) track(c net.Conn) (untrack func()) {
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	if p.ctx.Err() != nil {
		c.Close()
	}
	return func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}
}

// serve tells the two protocols apart by the first byte.
func (p *Proxy) serve(c net.Conn) {
	untrack := p.track(c)
	defer untrack()
	_ = c.SetReadDeadline(time.Now().Add(greetTimeout))
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	if err != nil {
		c.Close()
		return
	}
	if first[0] != socksVersion {
		_ = c.SetReadDeadline(time.Time{})
		p.handoff.give(&peeked{Conn: c, r: r})
		return
	}
	defer c.Close()
	if err := p.serveSOCKS(c, r); err != nil {
		p.log.Debug("SOCKS client", "from", c.RemoteAddr(), "err", err)
	}
}

// dial connects for a SOCKS client, which from now on may be silent as long as it likes.
func (p *Proxy) dial(c net.Conn, target string) (net.Conn, error) {
	_ = c.SetReadDeadline(time.Time{})
	return p.timed(p.ctx, target)
}

func (p *Proxy) timed(ctx context.Context, target string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return p.connect(ctx, target)
}

func refuse(w http.ResponseWriter, err error) {
	code := http.StatusBadGateway
	if errors.Is(err, ErrOutside) {
		code = http.StatusForbidden
	}
	http.Error(w, "skein lab: "+err.Error(), code)
}

func (p *Proxy) serveConnect(w http.ResponseWriter, r *http.Request) {
	out, err := p.timed(r.Context(), r.Host)
	if err != nil {
		refuse(w, err)
		return
	}
	defer out.Close()
	defer p.track(out)() // a machine that lost power ends no connection by itself
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, err)
		return
	}
	defer c.Close()
	defer p.track(c)()
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	join(c, rw.Reader, out)
}

// join copies both ways until both directions have ended or one has failed. in is what was already
// read from client.
func join(client net.Conn, in io.Reader, server net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := io.Copy(server, in); err != nil || closeWrite(server) != nil {
			server.Close()
		}
	}()
	if _, err := io.Copy(client, server); err != nil || closeWrite(client) != nil {
		client.Close()
		server.Close()
	}
	<-done
}

func closeWrite(c net.Conn) error {
	if p, ok := c.(*peeked); ok {
		c = p.Conn
	}
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}

// peeked is a connection of which some bytes wait in a buffer.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (c *peeked) Read(b []byte) (int, error) { return c.r.Read(b) }

// handoff is a listener of connections that were accepted elsewhere.
type handoff struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (h *handoff) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error   { h.once.Do(func() { close(h.done) }); return nil }
func (h *handoff) Addr() net.Addr { return h.addr }
