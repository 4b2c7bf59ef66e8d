package access

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

const (
	eventEvery = 10 * time.Second // an event of who was refused, on average
	eventBurst = 5
)

// Gate checks every request and stream of a node's servers, and ends those that are under way when the ledger says that
// their certificate is not good any more. Its methods are for any goroutine.
type Gate struct {
	state atomic.Pointer[cluster.State]

	mu       sync.Mutex
	node     string
	tell     func(cluster.Event)
	holds    map[*hold]struct{}
	events   *rate.Limiter
	silenced int
}

// hold is something that lasts and was permitted when it began.
type hold struct {
	cert *x509.Certificate
	role pki.Role
	end  func()
	// last is how long it may go on after it was revoked.
	last  time.Duration
	timer *time.Timer
}

// NewGate makes a gate that knows no ledger yet.
func NewGate() *Gate {
	return &Gate{holds: map[*hold]struct{}{}, events: rate.NewLimiter(rate.Every(eventEvery), eventBurst)}
}

// Report has tell take events of who was refused, in the name of this node. It must not wait.
func (g *Gate) Report(node string, tell func(cluster.Event)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.node, g.tell = node, tell
}

// Update takes a new state of the ledger.
func (g *Gate) Update(st *cluster.State) {
	g.state.Store(st)
	g.mu.Lock()
	defer g.mu.Unlock()
	for h := range g.holds {
		if role, _, err := Check(st, h.cert); (err != nil || role != h.role) && h.timer == nil {
			h.timer = time.AfterFunc(h.last, h.end)
		}
	}
}

// Admit checks a certificate.
func (g *Gate) Admit(c *x509.Certificate) error {
	_, _, err := g.check(c, "")
	return err
}

func (g *Gate) check(c *x509.Certificate, from string) (pki.Role, string, error) {
	role, name, err := Check(g.state.Load(), c)
	if err != nil {
		g.knocked(err, from)
	}
	return role, name, err
}

// Hold permits something that lasts, and calls end, once and from another goroutine, when the certificate is not good
// any more or has another role; last after that. release is to be called when it is over.
func (g *Gate) Hold(c *x509.Certificate, last time.Duration, end func()) (release func(), err error) {
	_, _, release, err = g.hold(c, "", last, end)
	return release, err
}

func (g *Gate) hold(c *x509.Certificate, from string, last time.Duration, end func()) (pki.Role, string, func(), error) {
	h := &hold{cert: c, end: end, last: last}
	g.mu.Lock() // no state comes between the check and the hold
	role, name, err := Check(g.state.Load(), c)
	if err == nil {
		h.role = role
		g.holds[h] = struct{}{}
	}
	g.mu.Unlock()
	if err != nil {
		g.knocked(err, from)
		return role, name, nil, err
	}
	return role, name, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.holds, h)
		if h.timer != nil {
			h.timer.Stop()
		}
	}, nil
}

// knocked tells the cluster that somebody came with a certificate that is not good, unless there were many.
func (g *Gate) knocked(why error, from string) {
	var r *Refused
	if !errors.As(why, &r) {
		return
	}
	g.mu.Lock()
	node, tell := g.node, g.tell
	if tell == nil || !g.events.Allow() {
		g.silenced++
		g.mu.Unlock()
		return
	}
	more := g.silenced
	g.silenced = 0
	g.mu.Unlock()
	e := cluster.Event{Time: time.Now(), Node: node, Kind: cluster.EventNode, Subject: r.Who, Text: "somebody with a certificate of " + r.Who + " was refused", Why: r.Why}
	if from != "" {
		e.Text += ", who came from " + from
	}
	if more > 0 {
		e.Text += fmt.Sprintf(" (and %d more refusals before)", more)
	}
	tell(e)
}

type callerKey struct{}

type caller struct {
	role pki.Role
	name string
}

// Handler has next serve who comes without a certificate, who has no role then, and who comes with a good one. A request
// that is under way when its certificate is revoked is broken off.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		rc := http.NewResponseController(w)
		var mu sync.Mutex
		over := false // w must not be touched after that
		role, name, release, err := g.hold(r.TLS.VerifiedChains[0][0], r.RemoteAddr, 0, func() {
			mu.Lock()
			defer mu.Unlock()
			if over {
				return
			}
			cancel(errors.New("the caller's certificate was revoked"))
			past := time.Unix(1, 0)
			_ = rc.SetReadDeadline(past) // a handler that waits for the caller does not look at its context
			_ = rc.SetWriteDeadline(past)
		})
		if err != nil {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()}) // the caller has gone: nobody left to tell
			return
		}
		defer func() {
			release()
			mu.Lock()
			defer mu.Unlock()
			over = true
		}()
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, callerKey{}, caller{role, name})))
	})
}

// Caller tells who sent a request that came through Handler. Without a certificate: no role.
func Caller(r *http.Request) (role, name string) {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return string(c.role), c.name
}
