package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// NewInvitation invites one machine. The secret stays with who invites: the request names its hash.
type NewInvitation struct {
	Name  string `json:"name,omitempty"` // of the node; empty: as it asks
	Hours int64  `json:"hours"`          // how long it is good, in hours of the cluster's age
}

// mostInvitationHours is a year.
const mostInvitationHours = 365 * 24

func (s *Server) invitationRoutes() {
	s.handle("GET /v1/invitations", func(w http.ResponseWriter, _ *http.Request) error {
		list := []cluster.Invitation{}
		if a := s.backend.State().Admission; a != nil {
			list = append(list, a.Invitations...)
		}
		writeJSON(w, http.StatusOK, list)
		return nil
	})
	s.handle("PUT /v1/invitations/{hash}", s.invite)
	s.handle("DELETE /v1/invitations/{hash}", func(w http.ResponseWriter, r *http.Request) error {
		hash := r.PathValue("hash")
		err := s.changeAdmission(r, "take back an invitation", cluster.Event{Kind: cluster.EventNode, Subject: hash[:min(len(hash), 16)], Text: "an invitation was taken back"},
			func(a *cluster.Admission) (cluster.Admission, error) {
				if a.Invitation(hash) == nil {
					return cluster.Admission{}, notFound("there is no such invitation, or it was used; 'skein node invite ls' shows them")
				}
				return a.WithoutInvitation(hash), nil
			})
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	})
}

func (s *Server) invite(w http.ResponseWriter, r *http.Request) error {
	var q NewInvitation
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&q); err != nil {
		return badRequest("invitation is not readable: %w", err)
	}
	hash := r.PathValue("hash")
	if raw, err := hex.DecodeString(hash); err != nil || len(raw) != 32 {
		return badRequest("%.80q is no SHA-256 of a secret, 64 hexadecimal digits", hash)
	}
	switch {
	case q.Name != "" && !validNodeName(q.Name):
		return badRequest("name %q must be lower-case letters, digits and dashes, at most 63", q.Name)
	case q.Hours < 1 || q.Hours > mostInvitationHours:
		return badRequest("an invitation must be good for 1 to %d hours, not %d", mostInvitationHours, q.Hours)
	}
	_, by := s.role(r)
	age := s.backend.State().Age.Hours
	inv := cluster.Invitation{Hash: hash, Name: q.Name, Until: age + q.Hours, By: by, At: time.Now().UTC()}
	subject, as := q.Name, ""
	if subject == "" {
		subject = hash[:16]
	} else {
		as = " as " + q.Name
	}
	err := s.changeAdmission(r, "invite a machine", cluster.Event{Kind: cluster.EventNode, Subject: subject,
		Text: fmt.Sprintf("one machine was invited%s, within %d hours", as, q.Hours)},
		func(a *cluster.Admission) (cluster.Admission, error) {
			next := a.WithoutInvitation(hash)
			live := next.Invitations[:0:0]
			for _, i := range next.Invitations {
				if i.Until > age { // those that have ended make room
					live = append(live, i)
				}
			}
			if len(live) >= cluster.MaxInvitations {
				return next, conflict("%d machines are invited, the most: take some back first with 'skein node invite rm'", len(live))
			}
			next.Invitations = append(live, inv)
			return next, nil
		})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, inv)
	return nil
}

// Invite invites a machine that will show the secret of this hash (cluster.HashInvitation).
func (c *Client) Invite(ctx context.Context, hash string, q NewInvitation) (i cluster.Invitation, err error) {
	err = c.get(ctx, http.MethodPut, "/v1/invitations/"+hash, nil, q, &i)
	return i, err
}

// Invitations are those that were not used.
func (c *Client) Invitations(ctx context.Context) (list []cluster.Invitation, err error) {
	err = c.get(ctx, http.MethodGet, "/v1/invitations", nil, nil, &list)
	return list, err
}

// Uninvite takes an invitation back.
func (c *Client) Uninvite(ctx context.Context, hash string) error {
	return c.get(ctx, http.MethodDelete, "/v1/invitations/"+hash, nil, nil, nil)
}
