package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	xproxy "golang.org/x/net/proxy"
)

// lab starts a proxy into a "lab" in which n1 is the given server and all else is outside.
func lab(t *testing.T, server net.Addr) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, hostPort string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(hostPort)
		if host != "n1" {
			return nil, fmt.Errorf("%s: %w", hostPort, ErrOutside)
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", server.String())
	}
	p, err := Serve(l, dial, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestEachProtocolReachesTheLab(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "host %s", r.Host) })
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	for _, tt := range []struct {
		name, proxy, target string
		server              *httptest.Server
	}{
		{"SOCKS5", "socks5", "http://n1/x", plain},
		{"HTTP absolute form", "http", "http://n1/x", plain},
		{"HTTP CONNECT", "http", "https://n1/x", secure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := lab(t, tt.server.Listener.Addr())
			via := &url.URL{Scheme: tt.proxy, Host: p.Addr().String()}
			transport := tt.server.Client().Transport.(*http.Transport).Clone()
			transport.Proxy = http.ProxyURL(via)
			if transport.TLSClientConfig != nil {
				transport.TLSClientConfig.InsecureSkipVerify = true // the test certificate does not name n1
			}
			c := &http.Client{Transport: transport}
			resp, err := c.Get(tt.target)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if got, want := string(body), "host n1"; got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			resp, err = c.Get(strings.Replace(tt.target, "n1", "example.org", 1))
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusForbidden {
					t.Fatalf("outside the lab: got status %d, want 403", resp.StatusCode)
				}
			}
		})
	}
}

func TestHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all, _ := io.ReadAll(c) // until the client has said everything
		c.Write(bytes.ToUpper(all))
		c.Close()
	}()
	p := lab(t, l.Addr())
	d, err := xproxy.SOCKS5("tcp", p.Addr().String(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial("tcp", "n1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "hello")
	c.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "HELLO" {
		t.Fatalf("got %q, %v, want HELLO", got, err)
	}
}

func TestOnlyOnLoopback(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	if _, err := Serve(l, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("got a proxy open to the network, want an error")
	}
}

func TestReadRequest(t *testing.T) {
	tests := []struct {
		in   string
		want string
		code byte // of the error, 0: none
	}{
		{"\x05\x01\x00\x01\x0a\x4d\x00\x01\x00\x50", "10.77.0.1:80", 0},
		{"\x05\x01\x00\x03\x02n1\x1f\x90", "n1:8080", 0},
		{"\x05\x01\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x50", "[::1]:80", 0},
		{"\x05\x02\x00\x01\x0a\x4d\x00\x01\x00\x50", "", replyNoCommand},
		{"\x05\x01\x00\x09\x0a\x4d\x00\x01\x00\x50", "", replyNoAddressType},
	}
	for _, tt := range tests {
		got, err := readRequest(strings.NewReader(tt.in))
		var se *socksError
		var code byte
		if errors.As(err, &se) {
			code = se.code
		}
		if got != tt.want || code != tt.code || (err != nil) != (code != 0) {
			t.Errorf("%q: got %q, %v, want %q, reply %d", tt.in, got, err, tt.want, tt.code)
		}
	}
}

func FuzzSOCKS(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x02n1\x1f\x90"))
	f.Add([]byte("\x05\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		if readGreeting(r) != nil {
			return
		}
		target, err := readRequest(r)
		if err != nil {
			return
		}
		if i := strings.LastIndexByte(target, ':'); i < 0 {
			t.Fatalf("%q: got target %q without a port", data, target)
		}
	})
}
