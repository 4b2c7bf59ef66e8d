package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/owners"
	"github.com/skein-os/skein/qemu/san"
)

// ErrDown: there is no daemon for the folder.
var ErrDown = errors.New("no lab is up; start one with 'skein lab up'")

// Client speaks to the daemon of a folder.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient makes a client; it connects when it is used.
func NewClient(dir string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		d, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		var nd net.Dialer
		return nd.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(socketPath(dir))))
	}
	return &Client{dir: dir, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Spawn starts a daemon as a process of its own: argv is this program's verb that calls Run. progress
// is told what it does. When Spawn returns, the lab's machines are on.
func Spawn(ctx context.Context, argv []string, cfg Config, progress func(string)) error {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(cfg.Dir, "daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	data, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this command and its terminal
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the lab's daemon: %w", err)
	}
	go func() {
		_, _ = in.Write(data) // a daemon that ends early says why itself
		in.Close()
	}()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
	defer stop()
	err = readMessages(out, progress)
	if err == nil {
		_ = cmd.Process.Release()
		return nil
	}
	_ = cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// readMessages passes progress on until the sender is done or reports an error.
func readMessages(r io.Reader, progress func(string)) error {
	s := bufio.NewScanner(r)
	for s.Scan() {
		var m message
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			return fmt.Errorf("the lab's daemon said %q: %w", s.Text(), err)
		}
		switch {
		case m.Error != "":
			return errors.New(m.Error)
		case m.Done:
			return nil
		case progress != nil:
			progress(m.Progress)
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	return errors.New("the lab's daemon ended without a word: see daemon.log in the lab's folder")
}

func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, ErrDown
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("speak to the lab's daemon: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return resp, nil
}

// State asks how the lab is.
func (c *Client) State(ctx context.Context) (*State, error) {
	resp, err := c.do(ctx, http.MethodGet, "/state", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var s State
	return &s, json.NewDecoder(resp.Body).Decode(&s)
}

// BMCs asks for the machines' power controllers, passwords and all.
func (c *Client) BMCs(ctx context.Context) ([]qemu.BMC, error) {
	resp, err := c.do(ctx, http.MethodGet, "/bmcs", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []qemu.BMC
	return list, json.NewDecoder(resp.Body).Decode(&list)
}

// Cables asks what is plugged into the switches.
func (c *Client) Cables(ctx context.Context) ([]qemu.SwitchCables, error) {
	resp, err := c.do(ctx, http.MethodGet, "/cables", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []qemu.SwitchCables
	return list, json.NewDecoder(resp.Body).Decode(&list)
}

// SAN asks the storage array how it is, and waits while it is starting.
func (c *Client) SAN(ctx context.Context) (*san.Status, error) {
	resp, err := c.do(ctx, http.MethodGet, "/san", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var s san.Status
	return &s, json.NewDecoder(resp.Body).Decode(&s)
}

// Call gives an order and waits until it is done.
func (c *Client) Call(ctx context.Context, call Call) error {
	resp, err := c.do(ctx, http.MethodPost, "/call", call)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// WaitAddresses waits until all machines that are on have their addresses.
func (c *Client) WaitAddresses(ctx context.Context, progress func(string)) error {
	resp, err := c.do(ctx, http.MethodGet, "/wait", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return readMessages(resp.Body, progress)
}

// Events calls emit for each event; with follow until ctx or the lab ends.
func (c *Client) Events(ctx context.Context, follow bool, emit func(qemu.Event) error) error {
	path := "/events"
	if follow {
		path += "?follow=1"
	}
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var e qemu.Event
		if err := dec.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := emit(e); err != nil {
			return err
		}
	}
}

// Owners asks who answers for the floating addresses.
func (c *Client) Owners(ctx context.Context) (*owners.Report, error) {
	resp, err := c.do(ctx, http.MethodGet, "/owners", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var r owners.Report
	return &r, json.NewDecoder(resp.Body).Decode(&r)
}

// FollowOwners calls emit for each handover and double owner so far and each that comes, until ctx or the
// lab ends.
func (c *Client) FollowOwners(ctx context.Context, emit func(owners.Record) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/owners?follow=1", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var r owners.Record
		if err := dec.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := emit(r); err != nil {
			return err
		}
	}
}

// Console copies what a machine printed to w; with follow until ctx or the lab ends.
func (c *Client) Console(ctx context.Context, node string, follow bool, w io.Writer) error {
	q := url.Values{"node": {node}}
	if follow {
		q.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/console?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// Down ends the lab and waits until its daemon is gone. It says ErrDown if there is none.
func (c *Client) Down(ctx context.Context) error {
	resp, err := c.do(ctx, http.MethodPost, "/down", nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	// The daemon holds the lock until its last moment.
	lock, err := os.OpenFile(lockPath(c.dir), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer lock.Close()
	gone := make(chan error, 1)
	go func() { gone <- unix.Flock(int(lock.Fd()), unix.LOCK_SH) }()
	select {
	case err := <-gone:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the lab's daemon to end: %w", ctx.Err())
	}
}
