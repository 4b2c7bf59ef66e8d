// Package bmc is the power controller of a machine of the lab: a small Redfish service over HTTPS that really
// cuts the machine's power. It promises what a real one does in its mode Ok, and otherwise fails in the way
// that its mode says, so that fencing can be tried against controllers that lie, hang, refuse or are slow.
//
// It is a service of the host, on a supply of its own: a machine that the lab has powered off still has a
// controller that says so. It serves one system, takes the password with each request or in a session, and
// is reached by whoever reaches the lab's networks; its password is random and known to the cluster's ledger
// and the lab's owner only.
package bmc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Mode is how a controller behaves.
type Mode string

const (
	Ok     Mode = "ok"
	Lie    Mode = "lie"    // takes every order, obeys none, and reads on whatever is true
	Hang   Mode = "hang"   // takes requests and never answers
	Refuse Mode = "refuse" // answers every request with 403
	Slow   Mode = "slow"   // answers after SlowAnswer, and the power goes SlowPower after the order
)

// Modes are all of them.
var Modes = []Mode{Ok, Lie, Hang, Refuse, Slow}

const (
	SlowAnswer = 700 * time.Millisecond
	SlowPower  = 3 * time.Second
)

// Machine is what is switched.
type Machine interface {
	Powered() bool
	PowerOn(ctx context.Context) error
	PowerOff() error // at once, as by the cable
	Reset(ctx context.Context) error
}

// Server is one controller. Close ends what it has begun.
type Server struct {
	machine Machine
	name    string
	user    string
	sum     [32]byte // of the password
	mux     *http.ServeMux
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup // orders that are obeyed later

	mu       sync.Mutex
	mode     Mode
	sessions map[string]bool
}

// mostSessions is what small controllers allow, too.
const mostSessions = 16

// New makes the controller of a machine.
func New(name string, m Machine, user, password string) *Server {
	s := &Server{machine: m, name: name, user: user, sum: sha256.Sum256([]byte(password)), mode: Ok, mux: http.NewServeMux(), sessions: map[string]bool{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mux.HandleFunc("GET /redfish/v1/Systems", s.systems)
	s.mux.HandleFunc("GET /redfish/v1/Systems/1", s.system)
	s.mux.HandleFunc("POST /redfish/v1/Systems/1/Actions/ComputerSystem.Reset", s.reset)
	s.mux.HandleFunc("DELETE /redfish/v1/SessionService/Sessions/{id}", s.logout)
	return s
}

// Close ends requests that hang and orders that wait.
func (s *Server) Close() {
	s.cancel()
	s.wg.Wait()
}

// SetMode changes how it behaves from now on.
func (s *Server) SetMode(m Mode) error {
	for _, known := range Modes {
		if m == known {
			s.mu.Lock()
			s.mode = m
			s.mu.Unlock()
			return nil
		}
	}
	return fmt.Errorf("mode %q: must be one of %v", m, Modes)
}

// Mode is how it behaves.
func (s *Server) Mode() Mode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mode
}

// ServeHTTP answers one request, in the way of its mode.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	switch s.Mode() {
	case Hang:
		_, _ = io.Copy(io.Discard, r.Body) // until it is read, net/http does not notice that the caller left
		select {
		case <-r.Context().Done():
		case <-s.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case Refuse:
		fail(w, http.StatusForbidden, "this controller refuses")
		return
	case Slow:
		if !s.wait(r.Context(), SlowAnswer) {
			return
		}
	}
	switch {
	case r.URL.Path == "/redfish/v1/" || r.URL.Path == "/redfish/v1": // the service root needs no password
		answer(w, http.StatusOK, map[string]any{"@odata.id": "/redfish/v1/", "RedfishVersion": "1.15.0",
			"Systems": link("/redfish/v1/Systems"), "SessionService": link("/redfish/v1/SessionService")})
	case r.Method == http.MethodPost && r.URL.Path == "/redfish/v1/SessionService/Sessions":
		s.login(w, r)
	case !s.allowed(r):
		w.Header().Set("WWW-Authenticate", `Basic realm="bmc"`)
		fail(w, http.StatusUnauthorized, "user and password, or a session, are needed")
	default:
		s.mux.ServeHTTP(w, r)
	}
}

func (s *Server) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return false
}

func (s *Server) matches(user, password string) bool {
	sum := sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(sum[:], s.sum[:]) == 1 && user == s.user
}

func (s *Server) allowed(r *http.Request) bool {
	if user, password, ok := r.BasicAuth(); ok {
		return s.matches(user, password)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[r.Header.Get("X-Auth-Token")]
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var in struct{ UserName, Password string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !s.matches(in.UserName, in.Password) {
		fail(w, http.StatusUnauthorized, "wrong user or password")
		return
	}
	token := rand.Text()
	s.mu.Lock()
	if len(s.sessions) >= mostSessions {
		clear(s.sessions) // they were left open
	}
	s.sessions[token] = true
	s.mu.Unlock()
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/"+token)
	answer(w, http.StatusCreated, map[string]any{"@odata.id": "/redfish/v1/SessionService/Sessions/" + token})
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	delete(s.sessions, r.PathValue("id"))
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) systems(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"@odata.id": "/redfish/v1/Systems", "Members@odata.count": 1,
		"Members": []any{link("/redfish/v1/Systems/1")}})
}

const resetTarget = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"

func (s *Server) system(w http.ResponseWriter, _ *http.Request) {
	power := "Off"
	if s.Mode() == Lie || s.machine.Powered() {
		power = "On"
	}
	answer(w, http.StatusOK, map[string]any{
		"@odata.id": "/redfish/v1/Systems/1", "@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem",
		"Id": "1", "Name": s.name, "PowerState": power,
		"Actions": map[string]any{"#ComputerSystem.Reset": map[string]any{
			"target": resetTarget, "ResetType@Redfish.AllowableValues": []string{"On", "ForceOff", "ForceRestart"}}},
	})
}

// reset obeys an order, or does as if.
func (s *Server) reset(w http.ResponseWriter, r *http.Request) {
	var in struct{ ResetType string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "the order is not readable")
		return
	}
	var do func() error
	switch in.ResetType {
	case "ForceOff":
		do = s.machine.PowerOff
	case "On":
		do = func() error {
			if s.machine.Powered() {
				return nil
			}
			return s.machine.PowerOn(s.ctx)
		}
	case "ForceRestart":
		do = func() error { return s.machine.Reset(s.ctx) }
	default:
		fail(w, http.StatusBadRequest, "this ResetType is not supported")
		return
	}
	var err error
	switch s.Mode() {
	case Lie:
	case Slow:
		s.wg.Go(func() {
			if s.wait(s.ctx, SlowPower) {
				_ = do() // a slow controller has answered long ago
			}
		})
	default:
		err = do()
	}
	if err != nil {
		fail(w, http.StatusConflict, errors.Join(errors.New("the order failed"), err).Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func link(to string) map[string]string { return map[string]string{"@odata.id": to} }

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("OData-Version", "4.0")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller has gone: nobody left to tell
}

func fail(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]any{"error": map[string]string{"code": "Base.1.0.GeneralError", "message": text}})
}
