package bmc_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
	"github.com/skein-os/skein/qemu/bmc"
)

type machine struct {
	mu sync.Mutex
	on bool
}

func (m *machine) set(on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = on
	return nil
}

func (m *machine) Powered() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}
func (m *machine) PowerOn(context.Context) error { return m.set(true) }
func (m *machine) PowerOff() error               { return m.set(false) }
func (m *machine) Reset(context.Context) error   { return nil }

// serve is a controller on loopback, and the way to it.
func serve(t *testing.T, m *machine) (*bmc.Server, fence.Way) {
	t.Helper()
	cert, fingerprint, err := bmc.Certificate("n1")
	if err != nil {
		t.Fatal(err)
	}
	s := bmc.New("n1", m, "skein", "secret")
	srv := httptest.NewUnstartedServer(s)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(func() { s.Close(); srv.Close() })
	return s, fence.Way{Driver: cluster.DriverRedfish, Address: srv.Listener.Addr().String(), User: "skein", Password: "secret", Fingerprint: fingerprint}
}

// climb runs a Ladder against real controllers until it has proof or one round has failed.
func climb(t *testing.T, cfg fence.Config, ways ...fence.Way) *fence.Ladder {
	t.Helper()
	var names []string
	for _, w := range ways {
		names = append(names, w.String())
	}
	l := fence.New(cfg, names, 1)
	begin := time.Now()
	answers := make(chan fence.Answer, 16)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for l.Stage() != fence.Proven && l.Rounds() == 0 {
		in := fence.Input{}
		select {
		case a := <-answers:
			in.Answer = &a
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("the test's time is over")
		}
		for _, c := range l.Step(time.Since(begin), in) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), c.Within)
				defer cancel()
				p, err := fence.Operate(ctx, ways[c.Way], c.Do)
				a := fence.Answer{ID: c.ID, Power: p}
				if err != nil {
					a.Err = err.Error()
				}
				answers <- a
			}()
		}
	}
	return l
}

// patient waits long for what will come, impatient only briefly for what will not.
var (
	patient   = fence.Config{Ask: time.Minute, Attempt: 5 * time.Minute, Attempts: 1, Poll: 10 * time.Millisecond, Confirm: 10 * time.Millisecond}
	impatient = fence.Config{Ask: 500 * time.Millisecond, Attempt: 500 * time.Millisecond, Attempts: 1, Poll: 10 * time.Millisecond, Confirm: 10 * time.Millisecond}
)

func TestModes(t *testing.T) {
	for _, tt := range []struct {
		mode    bmc.Mode
		cfg     fence.Config
		proven  bool
		failure string
	}{
		{bmc.Ok, patient, true, ""},
		{bmc.Slow, patient, true, ""},
		{bmc.Refuse, patient, false, "refused to tell the power"},
		{bmc.Hang, impatient, false, "did not answer"},
		{bmc.Lie, fence.Config{Ask: time.Minute, Attempt: 3 * time.Second, Attempts: 1, Poll: 10 * time.Millisecond}, false, "lies"},
	} {
		t.Run(string(tt.mode), func(t *testing.T) {
			t.Parallel()
			m := &machine{on: true}
			s, w := serve(t, m)
			if err := s.SetMode(tt.mode); err != nil {
				t.Fatal(err)
			}
			l := climb(t, tt.cfg, w)
			if got := l.Stage() == fence.Proven; got != tt.proven || got == m.Powered() {
				t.Errorf("proven: got %v, want %v; machine on: %v; %s", got, tt.proven, m.Powered(), l.Failure())
			}
			if !strings.Contains(l.Failure(), tt.failure) || strings.Contains(l.Failure(), "secret") {
				t.Errorf("got failure %q, want %q and no password", l.Failure(), tt.failure)
			}
		})
	}
}

// TestSecondWay: the first controller hangs, the second one works.
func TestSecondWay(t *testing.T) {
	hung, a := serve(t, &machine{on: true})
	if err := hung.SetMode(bmc.Hang); err != nil {
		t.Fatal(err)
	}
	m := &machine{on: true}
	_, b := serve(t, m)
	cfg := patient
	cfg.Ask = time.Second
	l := climb(t, cfg, a, b)
	if l.Stage() != fence.Proven || l.Way() != b.String() || m.Powered() {
		t.Errorf("got %s by %s, machine on: %v (%s)", l.Stage(), l.Way(), m.Powered(), l.Failure())
	}
}

func TestSwitchOnAndWrongPassword(t *testing.T) {
	m := &machine{}
	_, w := serve(t, m)
	if _, err := fence.Operate(t.Context(), w, fence.SwitchOn); err != nil || !m.Powered() {
		t.Errorf("switch on: got %v, machine on: %v", err, m.Powered())
	}
	w.Password = "hunter2"
	if _, err := fence.Operate(t.Context(), w, fence.Cut); err == nil || !strings.Contains(err.Error(), "user and password") || strings.Contains(err.Error(), "hunter2") || !m.Powered() {
		t.Errorf("wrong password: got %v, machine on: %v", err, m.Powered())
	}
}

// TestSession: a controller that takes no password with each request.
func TestSession(t *testing.T) {
	m := &machine{on: true}
	s := bmc.New("n1", m, "skein", "secret")
	cert, fingerprint, err := bmc.Certificate("n1")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Authorization")
		s.ServeHTTP(w, r)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(func() { s.Close(); srv.Close() })
	w := fence.Way{Driver: cluster.DriverRedfish, Address: srv.Listener.Addr().String(), User: "skein", Password: "secret", Fingerprint: fingerprint}
	if p, err := fence.Operate(t.Context(), w, fence.Read); err != nil || p != fence.On {
		t.Errorf("got %q, %v, want on", p, err)
	}
}
