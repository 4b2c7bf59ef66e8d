package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/netboot"
)

// Netboot is what the API needs of a node that boots machines.
type Netboot interface {
	// Store keeps a boot file on this node; the name is not filled in.
	Store(r io.Reader) (cluster.NetbootFile, error)
	// Open gives one that is here, by its SHA-256.
	Open(digest string) (io.ReadSeekCloser, error)
	Status() NodeNetboot
}

// NetbootRequest has members boot machines. The files were sent to the same node before.
type NetbootRequest struct {
	Interfaces []string              `json:"interfaces,omitempty"`
	Port       uint16                `json:"port"`
	Cmdline    string                `json:"cmdline"`
	Files      []cluster.NetbootFile `json:"files"`
}

// NetbootStatus is what the cluster boots machines with, and by whom.
type NetbootStatus struct {
	Enabled *cluster.NetbootRecord `json:"enabled"` // null: members boot no machines
	Servers []string               `json:"servers"` // the nodes that are to answer
}

// NodeNetboot is one node as one that boots machines.
type NodeNetboot struct {
	Serving    bool             `json:"serving"`
	Problem    string           `json:"problem,omitempty"` // why it does not, though it is to
	Machines   []BootingMachine `json:"machines"`
	Unreadable int              `json:"unreadable,omitempty"` // DHCP messages that were dropped
}

// BootingMachine is a machine that asked this node to be booted.
type BootingMachine struct {
	netboot.Machine
	At time.Time `json:"at"` // when it got to its stage
}

func (s *Server) netbootRoutes() {
	s.handle("GET /v1/netboot", s.netboot)
	s.handle("PUT /v1/netboot", s.enableNetboot)
	s.handle("DELETE /v1/netboot", s.disableNetboot)
	s.handle("POST /v1/netboot/files", s.storeBootFile)
	s.handle("GET /v1/netboot/files/{digest}", s.bootFile)
	s.handle("GET /v1/nodes/{name}/netboot", s.onNode(func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, s.backend.Netboot().Status())
		return nil
	}))
}

func (s *Server) netboot(w http.ResponseWriter, _ *http.Request) error {
	st := s.backend.State()
	out := NetbootStatus{Enabled: st.Netboot, Servers: []string{}}
	for _, n := range st.NetbootServers() {
		out.Servers = append(out.Servers, n.Name)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) enableNetboot(w http.ResponseWriter, r *http.Request) error {
	var req NetbootRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("netboot: %w", err)
	}
	rec := cluster.NetbootRecord{Interfaces: req.Interfaces, Port: req.Port, Cmdline: req.Cmdline, Files: req.Files,
		EnabledBy: s.asker(r), Enabled: time.Now().UTC()}
	if err := rec.Check(); err != nil {
		return badRequest("%w", err)
	}
	for _, name := range []string{netboot.KernelFile, netboot.ArchiveFile} {
		if !slices.ContainsFunc(rec.Files, func(f cluster.NetbootFile) bool { return f.Name == name }) {
			return badRequest("netboot: the file %s is missing", name)
		}
	}
	for _, f := range rec.Files {
		file, err := s.backend.Netboot().Open(f.Digest)
		if err != nil {
			return conflict("netboot: the file %s is not on node %s, which was to have it: run 'skein netboot enable' again", f.Name, s.backend.Self())
		}
		file.Close()
	}
	var was int64
	if old := s.backend.State().Netboot; old != nil {
		was = old.Revision
	}
	if err := s.commit(r, cluster.Txn{
		Conditions: []cluster.Condition{{Key: cluster.KeyNetboot, Revision: was}},
		Puts:       []cluster.Put{{Key: cluster.KeyNetboot, Value: rec}},
		Events:     []cluster.Event{s.netbootEvent(r, "members boot machines from the network")},
	}, "enable netboot"); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, rec)
	return nil
}

func (s *Server) netbootEvent(r *http.Request, text string) cluster.Event {
	return cluster.Event{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventCluster, Subject: "netboot", Text: text, Why: "asked by operator " + s.asker(r)}
}

func (s *Server) disableNetboot(w http.ResponseWriter, r *http.Request) error {
	rec := s.backend.State().Netboot
	if rec == nil {
		return notFound("members boot no machines")
	}
	if err := s.commit(r, cluster.Txn{
		Conditions: []cluster.Condition{{Key: cluster.KeyNetboot, Revision: rec.Revision}},
		Deletes:    []string{cluster.KeyNetboot},
		Events:     []cluster.Event{s.netbootEvent(r, "members boot no machines any more")},
	}, "disable netboot"); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (s *Server) storeBootFile(w http.ResponseWriter, r *http.Request) error {
	f, err := s.backend.Netboot().Store(r.Body)
	if err != nil {
		return fmt.Errorf("keep a boot file on node %s: %w", s.backend.Self(), err)
	}
	writeJSON(w, http.StatusOK, f)
	return nil
}

func (s *Server) bootFile(w http.ResponseWriter, r *http.Request) error {
	f, err := s.backend.Netboot().Open(r.PathValue("digest"))
	if err != nil {
		return notFound("boot file %s: %w", r.PathValue("digest"), err)
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// StoreBootFile sends a boot file to a node.
func (c *Client) StoreBootFile(ctx context.Context, r io.Reader) (out cluster.NetbootFile, err error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/netboot/files", nil, r)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// EnableNetboot has members boot machines.
func (c *Client) EnableNetboot(ctx context.Context, req NetbootRequest) error {
	return c.get(ctx, http.MethodPut, "/v1/netboot", nil, req, nil)
}

// DisableNetboot ends that.
func (c *Client) DisableNetboot(ctx context.Context) error {
	return c.get(ctx, http.MethodDelete, "/v1/netboot", nil, nil, nil)
}

// Netboot tells what members boot machines with.
func (c *Client) Netboot(ctx context.Context) (out NetbootStatus, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/netboot", nil, nil, &out)
}

// NodeNetboot tells how one node boots machines.
func (c *Client) NodeNetboot(ctx context.Context, node string) (out NodeNetboot, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(node)+"/netboot", nil, nil, &out)
}
