package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Config of a measurement.
type Config struct {
	// URL is http://, https:// (certificates are not checked: it is availability that is measured) or
	// tcp:// for a connection and nothing more.
	URL   string
	Every time.Duration // from the start of one request to the start of the next, DefaultEvery if 0
	For   time.Duration // of the whole measurement; 0: until the context ends
	// Timeout of one request, DefaultTimeout if 0. It does not bound a gap; it only limits how many
	// hanging requests there are at a time.
	Timeout time.Duration
	// Dial connects to host:port.
	Dial func(ctx context.Context, network, hostPort string) (net.Conn, error)
	// OnResult is told each result, in order of arrival.
	OnResult func(Result)
}

const (
	DefaultEvery   = 20 * time.Millisecond
	DefaultTimeout = 1 * time.Second
)

// Result of one request.
type Result struct {
	Start time.Duration // since the measurement began
	End   time.Duration
	Err   error
}

// statusError is an answer that is not a success.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("HTTP status %d", int(e)) }

// Run measures until cfg.For has passed or ctx has ended; both are a normal end.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	if u.Host == "" {
		return nil, fmt.Errorf("%q has no host: give a URL like http://10.77.9.1/", cfg.URL)
	}
	cfg.Every, cfg.Timeout = orDefault(cfg.Every, DefaultEvery), orDefault(cfg.Timeout, DefaultTimeout)
	var ask func(context.Context) error
	switch u.Scheme {
	case "http", "https":
		client := httpClient(cfg)
		defer client.CloseIdleConnections()
		ask = func(ctx context.Context) error { return askHTTP(ctx, client, cfg.URL) }
	case "tcp":
		if u.Port() == "" {
			return nil, fmt.Errorf("%q has no port: give a URL like tcp://n1:80", cfg.URL)
		}
		ask = func(ctx context.Context) error {
			c, err := cfg.Dial(ctx, "tcp", u.Host)
			if err == nil {
				c.Close()
			}
			return err
		}
	default:
		return nil, fmt.Errorf("%q: must be http://, https:// or tcp://", cfg.URL)
	}
	if cfg.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.For)
		defer cancel()
	}

	start := time.Now()
	results := make(chan Result)
	var asking sync.WaitGroup
	go func() {
		tick := time.NewTicker(cfg.Every)
		defer tick.Stop()
		for {
			asking.Go(func() {
				r := Result{Start: time.Since(start)}
				one, cancel := context.WithTimeout(ctx, cfg.Timeout)
				defer cancel()
				r.Err = ask(one)
				r.End = time.Since(start)
				if r.Err != nil && ctx.Err() != nil {
					return // cut short by the end of the measurement: says nothing about the address
				}
				results <- r
			})
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			if ctx.Err() != nil {
				break
			}
		}
		asking.Wait()
		close(results)
	}()
	var all []Result
	for r := range results {
		all = append(all, r)
		if cfg.OnResult != nil {
			cfg.OnResult(r)
		}
	}
	return Summarise(all, time.Since(start)), nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

func httpClient(cfg Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: cfg.Dial, DisableKeepAlives: true, TLSClientConfig: unchecked()},
		// A redirect is an answer.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func askHTTP(ctx context.Context, client *http.Client, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			return ue.Err // without the URL, which the reader knows
		}
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return statusError(resp.StatusCode)
	}
	return nil
}
