package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/explain"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/replay"
)

// Explainer is what a node knows of how decisions come about; a Backend has it.
type Explainer interface {
	// Snapshot is what a plan made here and now would depend on.
	Snapshot(ctx context.Context) (plan.Snapshot, error)
	// Times are the cluster's times of heartbeats and leases.
	Times() member.Config
	// Decisions are those that are recorded, oldest first.
	Decisions(ctx context.Context) ([]replay.Record, error)
}

// Snapshot is all that is needed to simulate this cluster as it is now; it has no secrets in it.
type Snapshot struct {
	Coordinator string        `json:"coordinator"`
	Interval    time.Duration `json:"heartbeat_interval_ns"`
	Silent      time.Duration `json:"silent_ns"`
	Lease       time.Duration `json:"lease_ns"`
	Input       replay.Input  `json:"input"`
}

func (s *Server) why(w http.ResponseWriter, r *http.Request) error {
	offset, err := strconv.Atoi(r.URL.Query().Get("utc_offset"))
	if err != nil && r.URL.Query().Has("utc_offset") {
		return badRequest("utc_offset %q: want seconds east of UTC", r.URL.Query().Get("utc_offset"))
	}
	in := explain.Input{Zone: time.FixedZone("", offset)}
	if in.Snapshot, err = s.backend.Snapshot(r.Context()); err != nil {
		return err
	}
	if in.Decisions, err = s.backend.Decisions(r.Context()); err != nil {
		return err
	}
	err = s.backend.Events(r.Context(), 0, false, func(e cluster.Event) error {
		in.Events = append(in.Events, e)
		return nil
	})
	if err != nil {
		return err
	}
	a, err := explain.Why(in, r.URL.Query().Get("subject"))
	if err != nil {
		return notFound("%w", err)
	}
	writeJSON(w, http.StatusOK, a)
	return nil
}

func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) error {
	snap, err := s.backend.Snapshot(r.Context())
	if err != nil {
		return err
	}
	t := s.backend.Times()
	writeJSON(w, http.StatusOK, Snapshot{
		Coordinator: s.backend.Coordinator(), Interval: t.Interval, Silent: t.Silent, Lease: t.Lease, Input: replay.NewInput(snap),
	})
	return nil
}

// decisions lists them newest first, without their inputs.
func (s *Server) decisions(w http.ResponseWriter, r *http.Request) error {
	list, err := s.backend.Decisions(r.Context())
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b replay.Record) int { return replay.Compare(b.ID, a.ID) })
	for i := range list {
		list[i].Input = nil
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

func (s *Server) decision(w http.ResponseWriter, r *http.Request) error {
	list, err := s.backend.Decisions(r.Context())
	if err != nil {
		return err
	}
	for _, d := range list {
		if d.ID == r.PathValue("id") {
			writeJSON(w, http.StatusOK, d)
			return nil
		}
	}
	return notFound("there is no decision %q; 'skein decisions' lists those that are kept", r.PathValue("id"))
}

// Why asks why a service or a node is as it is; times are in the zone.
func (c *Client) Why(ctx context.Context, subject string, zone *time.Location) (explain.Answer, error) {
	_, offset := time.Now().In(zone).Zone()
	var a explain.Answer
	return a, c.get(ctx, http.MethodGet, "/v1/why", url.Values{"subject": {subject}, "utc_offset": {strconv.Itoa(offset)}}, nil, &a)
}

// Snapshot asks for what a plan made now would depend on.
func (c *Client) Snapshot(ctx context.Context) (Snapshot, error) {
	var s Snapshot
	return s, c.get(ctx, http.MethodGet, "/v1/snapshot", nil, nil, &s)
}

// Decisions asks for the recorded decisions, newest first, without their inputs.
func (c *Client) Decisions(ctx context.Context) ([]replay.Record, error) {
	var list []replay.Record
	return list, c.get(ctx, http.MethodGet, "/v1/decisions", nil, nil, &list)
}

// Decision asks for one decision with its input.
func (c *Client) Decision(ctx context.Context, id string) (replay.Record, error) {
	var r replay.Record
	return r, c.get(ctx, http.MethodGet, "/v1/decisions/"+url.PathEscape(id), nil, nil, &r)
}
