package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// Registrar signs certificates of people, and renews everybody's.
type Registrar interface {
	AddUser(ctx context.Context, name string, role pki.Role, csr []byte, by string) (cert, ca []byte, err error)
	RemoveUser(ctx context.Context, name, by string) error
	Renew(ctx context.Context, old *x509.Certificate, csr []byte) ([]byte, error)
}

// NewUser asks for a certificate for a person who holds the key.
type NewUser struct {
	Role string `json:"role"`
	CSR  []byte `json:"csr"` // DER
}

// Certificate is what was signed.
type Certificate struct {
	Cert []byte `json:"cert"` // PEM
	CA   []byte `json:"ca,omitempty"`
}

// Renewal asks for a new certificate for the key of the one that the request comes with.
type Renewal struct {
	CSR []byte `json:"csr"` // DER
}

// mostCSR bounds a request, bytes.
const mostCSR = 16 << 10

func (s *Server) userRoutes(door http.Handler) {
	registrar := func() (Registrar, error) {
		if r, ok := door.(Registrar); ok {
			return r, nil
		}
		return nil, errors.New("this member signs no certificates")
	}
	s.handle("GET /v1/users", func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, append([]cluster.User{}, s.backend.State().Users...))
		return nil
	})
	s.handle("PUT /v1/users/{user}", func(w http.ResponseWriter, r *http.Request) error {
		var u NewUser
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostCSR)).Decode(&u); err != nil {
			return badRequest("user is not readable: %w", err)
		}
		reg, err := registrar()
		if err != nil {
			return err
		}
		_, by := s.role(r)
		cert, ca, err := reg.AddUser(r.Context(), r.PathValue("user"), pki.Role(u.Role), u.CSR, by)
		if err != nil {
			return fmt.Errorf("add user %s: %w", r.PathValue("user"), err)
		}
		writeJSON(w, http.StatusOK, Certificate{Cert: cert, CA: ca})
		return nil
	})
	s.handle("DELETE /v1/users/{user}", func(w http.ResponseWriter, r *http.Request) error {
		reg, err := registrar()
		if err != nil {
			return err
		}
		_, by := s.role(r)
		if err := reg.RemoveUser(r.Context(), r.PathValue("user"), by); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	})
	s.handle("POST /v1/certificate", func(w http.ResponseWriter, r *http.Request) error {
		var q Renewal
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostCSR)).Decode(&q); err != nil {
			return badRequest("request is not readable: %w", err)
		}
		reg, err := registrar()
		if err != nil {
			return err
		}
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			return badRequest("a certificate is renewed for who comes with it")
		}
		cert, err := reg.Renew(r.Context(), r.TLS.VerifiedChains[0][0], q.CSR)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, Certificate{Cert: cert})
		return nil
	})
}

// Users are the people who may call the API.
func (c *Client) Users(ctx context.Context) (list []cluster.User, err error) {
	err = c.get(ctx, http.MethodGet, "/v1/users", nil, nil, &list)
	return list, err
}

// AddUser has a person's key signed.
func (c *Client) AddUser(ctx context.Context, name string, u NewUser) (out Certificate, err error) {
	err = c.get(ctx, http.MethodPut, "/v1/users/"+url.PathEscape(name), nil, u, &out)
	return out, err
}

// RemoveUser takes a person's certificates back.
func (c *Client) RemoveUser(ctx context.Context, name string) error {
	return c.get(ctx, http.MethodDelete, "/v1/users/"+url.PathEscape(name), nil, nil, nil)
}

// RenewCertificate has this caller's certificate signed anew, for the same key.
func (c *Client) RenewCertificate(ctx context.Context, csr []byte) (out Certificate, err error) {
	err = c.get(ctx, http.MethodPost, "/v1/certificate", nil, Renewal{CSR: csr}, &out)
	return out, err
}
