package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Client talks to a cluster through whichever of its nodes answers.
type Client struct {
	// Endpoints are base URLs of nodes, tried in order.
	Endpoints []string
	HTTP      *http.Client
	// AttemptTimeout is how long one node may take to start answering before the next is asked, for
	// requests without a body.
	AttemptTimeout time.Duration
	// Patience is how long a request that may be made twice is tried again while the cluster answers that its ledger
	// takes nothing, as it does for a moment when it loses the node that led it. Waiting, if set, is told of each try.
	Patience time.Duration
	Waiting  func(error)

	last int // the endpoint that answered last
}

// do sends a request to the first endpoint that answers. A body is sent once only: after it has begun to
// be read, no other node is tried.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	var errs []error
	for i := range c.Endpoints {
		at := (c.last + i) % len(c.Endpoints)
		u := c.Endpoints[at] + path
		if len(query) > 0 {
			u += "?" + query.Encode()
		}
		tracked := &readTracker{r: body}
		req, err := http.NewRequestWithContext(ctx, method, u, nil)
		if err != nil {
			return nil, err
		}
		if body != nil {
			req.Body = io.NopCloser(tracked)
			req.ContentLength = -1
		}
		resp, err := c.attempt(req, body == nil)
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil || tracked.begun {
				break
			}
			continue
		}
		c.last = at
		if method == http.MethodDelete && resp.StatusCode == http.StatusNotFound && len(errs) > 0 {
			// A node that did not live to answer, because it was the one to be removed, has done it.
			resp.StatusCode = http.StatusOK
		}
		if resp.StatusCode >= 300 {
			defer resp.Body.Close()
			var e Error
			data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			if json.Unmarshal(data, &e) != nil || e.Message == "" {
				e.Message = fmt.Sprintf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(data))
			}
			return nil, &ResponseError{Status: resp.StatusCode, Message: e.Message}
		}
		return resp, nil
	}
	return nil, fmt.Errorf("no node of the cluster answers (asked %d): %w", len(c.Endpoints), errors.Join(errs...))
}

// attempt gives a node AttemptTimeout to send its answer's headers; the body may take as long as it
// likes.
func (c *Client) attempt(req *http.Request, bounded bool) (*http.Response, error) {
	if !bounded || c.AttemptTimeout == 0 {
		return c.HTTP.Do(req)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(c.AttemptTimeout, func() {
		cancel(fmt.Errorf("%s did not answer within %s", req.URL.Host, c.AttemptTimeout))
	})
	resp, err := c.HTTP.Do(req.WithContext(ctx))
	if !timer.Stop() && err != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = &cancelOnClose{resp.Body, cancel}
	return resp, nil
}

type cancelOnClose struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (c *cancelOnClose) Close() error {
	defer c.cancel(nil)
	return c.ReadCloser.Close()
}

type readTracker struct {
	r     io.Reader
	begun bool
}

func (t *readTracker) Read(p []byte) (int, error) {
	t.begun = true
	return t.r.Read(p)
}

// ResponseError is a node's refusal, in its own words.
type ResponseError struct {
	Status  int
	Message string
}

func (e *ResponseError) Error() string { return e.Message }

// get makes a request whose answer is JSON. All but POST may be made twice: they say how something is to be.
func (c *Client) get(ctx context.Context, method, path string, query url.Values, body, into any) error {
	if method == http.MethodPost {
		return c.once(ctx, method, path, query, body, into)
	}
	return c.patiently(ctx, method, path, query, body, into)
}

// patiently makes a request again while there is hope.
func (c *Client) patiently(ctx context.Context, method, path string, query url.Values, body, into any) error {
	deadline := time.Now().Add(c.Patience)
	tried := false
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := c.once(ctx, method, path, query, body, into)
		var refused *ResponseError
		switch {
		case tried && method == http.MethodDelete && errors.As(err, &refused) && refused.Status == http.StatusNotFound:
			return nil // the try before had done it
		case !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || time.Now().Add(pause).After(deadline):
			return err
		}
		tried = true
		if c.Waiting != nil {
			c.Waiting(err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func (c *Client) once(ctx context.Context, method, path string, query url.Values, body, into any) error {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(data)
	}
	resp, err := c.do(ctx, method, path, query, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("%s %s: answer is not readable: %w", method, path, err)
	}
	return nil
}

// lines reads a stream of JSON values, a line each.
func lines[T any](r io.Reader, fn func(T) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		// What goes wrong after a stream has begun comes as its last line.
		var failed Error
		if json.Unmarshal(sc.Bytes(), &failed) == nil && failed.Message != "" {
			return errors.New(failed.Message)
		}
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			return fmt.Errorf("stream: %w", err)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	return sc.Err()
}

// Status asks for the cluster at a glance.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	return st, c.get(ctx, http.MethodGet, "/v1/status", nil, nil, &st)
}

// Deploy makes a stack be exactly the given services.
func (c *Client) Deploy(ctx context.Context, stack string, services []cluster.Service) (DeployResult, error) {
	var res DeployResult
	return res, c.get(ctx, http.MethodPut, "/v1/stacks/"+url.PathEscape(stack), nil, DeployRequest{Services: services}, &res)
}

// RemoveStack removes a stack and all its services.
func (c *Client) RemoveStack(ctx context.Context, stack string) (DeployResult, error) {
	var res DeployResult
	return res, c.get(ctx, http.MethodDelete, "/v1/stacks/"+url.PathEscape(stack), nil, nil, &res)
}

// Events calls fn for each event after the given sequence number, and with follow for each new one.
func (c *Client) Events(ctx context.Context, after uint64, follow bool, fn func(cluster.Event) error) error {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}}
	if follow {
		q.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/events", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return lines(resp.Body, fn)
}

// Logs calls fn for each line of an instance's output; tail < 0 means all that is kept.
func (c *Client) Logs(ctx context.Context, instance string, follow bool, tail int, fn func(LogLine) error) error {
	q := url.Values{"tail": {strconv.Itoa(tail)}}
	if follow {
		q.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/instances/"+url.PathEscape(instance)+"/logs", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return lines(resp.Body, fn)
}

// Exec runs a command in an instance's container and returns its exit code.
func (c *Client) Exec(ctx context.Context, instance string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	arg, err := json.Marshal(argv)
	if err != nil {
		return 0, err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/instances/"+url.PathEscape(instance)+"/exec", url.Values{"argv": {string(arg)}}, stdin)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for {
		kind, payload, err := ReadFrame(resp.Body)
		if err != nil {
			return 0, fmt.Errorf("exec in %s: the connection ended before the command did: %w", instance, err)
		}
		switch kind {
		case FrameStdout:
			_, err = stdout.Write(payload)
		case FrameStderr:
			_, err = stderr.Write(payload)
		case FrameError:
			return 0, errors.New(string(payload))
		case FrameExit:
			return strconv.Atoi(string(payload))
		}
		if err != nil {
			return 0, err
		}
	}
}

// Images lists what the cluster can run.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	var out []Image
	return out, c.get(ctx, http.MethodGet, "/v1/images", nil, nil, &out)
}

// loadAttempts is how often an archive is sent when the node that took it is lost on the way.
const loadAttempts = 3

// LoadImage sends an OCI archive, from its start; to the next node if the connection is lost on the way. An image that is
// sent twice is the same image.
func (c *Client) LoadImage(ctx context.Context, archive io.ReadSeeker) (out []cluster.Image, err error) {
	for range loadAttempts {
		if _, err = archive.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		var refused *ResponseError
		if out, err = c.loadOnce(ctx, archive); err == nil || errors.As(err, &refused) || ctx.Err() != nil {
			return out, err
		}
		c.last++
	}
	return nil, err
}

func (c *Client) loadOnce(ctx context.Context, archive io.Reader) ([]cluster.Image, error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/images", nil, archive)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out []cluster.Image
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// PullImage has a node fetch an image from its registry.
func (c *Client) PullImage(ctx context.Context, ref string) ([]cluster.Image, error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/images/pull", url.Values{"ref": {ref}}, http.NoBody)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out []cluster.Image
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// NodeAction asks for drain, undrain, release, reboot, poweroff or restart-agent of a node.
func (c *Client) NodeAction(ctx context.Context, node, action string) error {
	send := c.once
	if action == "drain" || action == "undrain" {
		send = c.patiently // they say how the node is to be
	}
	return send(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/"+action, nil, struct{}{}, nil)
}

// RemoveNode takes a drained or lost node out of the cluster.
func (c *Client) RemoveNode(ctx context.Context, node string) error {
	return c.get(ctx, http.MethodDelete, "/v1/nodes/"+url.PathEscape(node), nil, nil, nil)
}
