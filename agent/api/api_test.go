package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/iscsi"
)

// memory is a backend whose ledger is a State in memory.
type memory struct {
	self      string
	state     cluster.State
	committed []cluster.Txn
	refuse    bool
	peer      http.Handler
	seen      Observation
	heard     map[string]bool
	restarted string // why
	left      string // how and why
	frozen    error  // of commits
	disks     Disks
	shared    SharedFS
	boots     Netboot
	san       NodeSAN
	targets   map[netip.AddrPort][]iscsi.Portal // by the portal that names them
}

func (m *memory) SAN() NodeSAN { return m.san }
func (m *memory) DiscoverSAN(_ context.Context, portal netip.AddrPort) ([]iscsi.Portal, error) {
	if list, ok := m.targets[portal]; ok {
		return list, nil
	}
	return nil, fmt.Errorf("ask %s for its targets: no connection", portal)
}

func (m *memory) Disks() Disks       { return m.disks }
func (m *memory) SharedFS() SharedFS { return m.shared }
func (m *memory) Netboot() Netboot   { return m.boots }
func (m *memory) CommitAt(ctx context.Context, t cluster.Txn) (int64, bool, error) {
	ok, err := m.Commit(ctx, t)
	return int64(100 + len(m.committed)), ok, err
}

func (m *memory) Self() string            { return m.self }
func (m *memory) State() *cluster.State   { return &m.state }
func (m *memory) Coordinator() string     { return "n1" }
func (m *memory) Observe() Observation    { m.seen.Heard = m.heard; return m.seen }
func (m *memory) Memory() Memory          { return Memory{} }
func (m *memory) Reboot(why string)       { m.left = "reboot: " + why }
func (m *memory) PowerOff(why string)     { m.left = "power off: " + why }
func (m *memory) RestartAgent(why string) { m.restarted = why }
func (m *memory) Commit(_ context.Context, t cluster.Txn) (bool, error) {
	if m.refuse || m.frozen != nil {
		return false, m.frozen
	}
	m.committed = append(m.committed, t)
	return true, nil
}
func (m *memory) Events(_ context.Context, after uint64, _ bool, fn func(cluster.Event) error) error {
	for seq := after + 1; seq <= 3; seq++ {
		if err := fn(cluster.Event{Seq: seq, Text: "it happened"}); err != nil {
			return err
		}
	}
	return nil
}
func (m *memory) LoadImage(_ context.Context, r io.Reader) ([]cluster.Image, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, errors.New("not an OCI archive: it is empty")
	}
	return []cluster.Image{{Ref: string(data), Digest: "sha256:0123456789abcdef", Size: 5e6}}, nil
}
func (m *memory) PullImage(_ context.Context, ref string) (cluster.Image, error) {
	return cluster.Image{}, errors.New("no such registry")
}
func (m *memory) AwaitCopy(context.Context, cluster.Image) error { return nil }
func (m *memory) Blob(digest string) (io.ReadSeekCloser, int64, error) {
	return nil, 0, errors.New("not here")
}
func (m *memory) Logs(_ context.Context, _ string, _ bool, tail int, fn func(string) error) error {
	return fn("hello")
}
func (m *memory) Exec(_ context.Context, _ string, argv []string, in io.Reader, out, errOut io.Writer) (int, error) {
	if argv[0] == "missing" {
		return 0, errors.New("no such command")
	}
	if _, err := io.Copy(out, in); err != nil {
		return 0, err
	}
	_, err := io.WriteString(errOut, "done")
	return 7, err
}
func (m *memory) Peer(*cluster.Node) (http.RoundTripper, string) {
	return handlerTransport{m.peer}, "http://peer"
}

// handlerTransport answers requests from a handler in the same process.
type handlerTransport struct{ h http.Handler }

func (t handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	r.RequestURI = ""
	t.h.ServeHTTP(w, r)
	return w.Result(), nil
}

const image = "demo/web:1"

func newMemory(self string) *memory {
	return &memory{self: self, state: cluster.State{
		Meta: cluster.Meta{Name: "test", Network: cluster.DefaultNetwork},
		Nodes: []cluster.Node{
			{Name: "n1", Number: 1, BootID: "b1", State: cluster.NodeOnline, MemberID: 7, Revision: 4},
			{Name: "n2", Number: 2, BootID: "b2", State: cluster.NodeOnline, Revision: 5},
		},
		Instances: []cluster.Instance{{ID: "demo.web.1.a", Stack: "demo", Service: "web", Slot: 1, Node: "n2", BootID: "b2"}},
		Statuses:  []cluster.Status{{ID: "demo.web.1.a", Node: "n2", State: cluster.InstanceRunning}},
		Services:  []cluster.Service{{Stack: "demo", Name: "web", Replicas: 1, Revision: 9}},
		Images:    []cluster.Image{{Ref: image, Digest: "sha256:0123456789abcdef"}},
	}}
}

func serve(t *testing.T, m *memory, role string) (*Client, *Server) {
	t.Helper()
	s := NewServer(m, http.NotFoundHandler(), func(*http.Request) (string, string) { return role, "ann" }, slog.New(slog.DiscardHandler))
	h := httptest.NewUnstartedServer(s)
	h.EnableHTTP2 = true
	h.StartTLS()
	t.Cleanup(h.Close)
	return &Client{Endpoints: []string{"https://127.0.0.1:1", h.URL}, HTTP: h.Client(), AttemptTimeout: 5 * time.Second}, s
}

func TestRoles(t *testing.T) {
	for _, tc := range []struct {
		role       string
		read, exec bool
		change     bool
	}{
		{RoleOperator, true, true, true},
		{RoleNode, true, false, false},
		{RoleNone, false, false, false},
	} {
		c, _ := serve(t, newMemory("n2"), tc.role)
		ctx := t.Context()
		_, err := c.Status(ctx)
		if (err == nil) != tc.read {
			t.Errorf("%q reads the status: got %v, want allowed %v", tc.role, err, tc.read)
		}
		_, err = c.Exec(ctx, "demo.web.1.a", []string{"true"}, strings.NewReader(""), io.Discard, io.Discard)
		if (err == nil) != tc.exec {
			t.Errorf("%q runs a command: got %v, want allowed %v", tc.role, err, tc.exec)
		}
		err = c.NodeAction(ctx, "n1", "drain")
		if (err == nil) != tc.change {
			t.Errorf("%q drains a node: got %v, want allowed %v", tc.role, err, tc.change)
		}
	}
}

func TestRestartAgent(t *testing.T) {
	here, there := newMemory("n1"), newMemory("n2")
	there.seen = Observation{Restarting: map[string]bool{"n1": true}}
	c, server := serve(t, here, RoleOperator)
	there.peer = server
	other, _ := serve(t, there, RoleOperator) // asked first, hands it on
	if err := other.NodeAction(t.Context(), "n1", "restart-agent"); err != nil {
		t.Fatal(err)
	}
	if here.restarted != "asked by ann" || there.restarted != "" {
		t.Errorf("got restarts for %q on n1 and %q on n2, want one on n1", here.restarted, there.restarted)
	}
	if err := c.NodeAction(t.Context(), "n7", "restart-agent"); err == nil {
		t.Error("restart of the agent of a node that is not there: got no error")
	}
	st, err := other.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := st.Nodes[0]; !n.Restarting || n.State != cluster.NodeOnline || !strings.Contains(strings.Join(st.Problems, "\n"), "n1: its agent is restarting") {
		t.Errorf("got %+v with problems %q, want n1 online, and that its agent is restarting", n, st.Problems)
	}
}

func TestStatusCountsOnlyWhatRuns(t *testing.T) {
	m := newMemory("n1")
	c, _ := serve(t, m, RoleOperator)
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Healthy || st.Services[0].Running != 1 {
		t.Errorf("got healthy %v, running %d, want true, 1 (%v)", st.Healthy, st.Services[0].Running, st.Problems)
	}
	m.state.Nodes[1].BootID = "another" // n2 has rebooted: what it ran is gone, whatever its last report said
	if st, err = c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st.Healthy || st.Services[0].Running != 0 {
		t.Errorf("after a reboot of the owner: got healthy %v, running %d, want false, 0", st.Healthy, st.Services[0].Running)
	}
}

func TestDeploy(t *testing.T) {
	service := func(name string, floating ...string) cluster.Service {
		s := cluster.Service{Stack: "shop", Name: name, Image: image, Hash: "h"}
		for _, f := range floating {
			s.Floating = append(s.Floating, netip.MustParseAddr(f))
		}
		return s
	}
	for _, tc := range []struct {
		name     string
		services []cluster.Service
		refuse   bool
		want     string // in the error
	}{
		{"good", []cluster.Service{service("web", "10.0.0.1"), service("db")}, false, ""},
		{"twice", []cluster.Service{service("web"), service("web")}, false, "twice"},
		{"address taken", []cluster.Service{service("a", "10.0.0.1"), service("b", "10.0.0.1")}, false, "belongs to shop/a"},
		{"no image", []cluster.Service{{Stack: "shop", Name: "x", Image: "nothing"}}, false, "skein image load"},
		{"other stack", []cluster.Service{{Stack: "evil", Name: "x", Image: image}}, false, "stack must be shop"},
		{"race", []cluster.Service{service("web")}, true, "try again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMemory("n1")
			m.refuse = tc.refuse
			c, _ := serve(t, m, RoleOperator)
			res, err := c.Deploy(t.Context(), "shop", tc.services)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("got %v, want an error with %q", err, tc.want)
				}
				if len(m.committed) > 0 {
					t.Error("something was stored")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Created) != len(tc.services) || len(m.committed) != 1 {
				t.Errorf("got %+v in %d transactions, want %d created in one", res, len(m.committed), len(tc.services))
			}
			for _, cond := range m.committed[0].Conditions {
				if cond.Revision != 0 {
					t.Errorf("a new service must be conditional on its absence, got %+v", cond)
				}
			}
		})
	}
}

func TestDeployIsIdempotentAndPrunes(t *testing.T) {
	m := newMemory("n1")
	services := []cluster.Service{{Stack: "demo", Name: "api", Image: image, Hash: "h"}}
	c, _ := serve(t, m, RoleOperator)
	res, err := c.Deploy(t.Context(), "demo", services)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Removed) != 1 || res.Removed[0] != "demo/web" {
		t.Errorf("got removed %v, want demo/web", res.Removed)
	}
	stored := m.committed[0].Puts[0].Value.(cluster.Service)
	m.state.Services = []cluster.Service{stored}
	if res, err = c.Deploy(t.Context(), "demo", services); err != nil {
		t.Fatal(err)
	}
	if len(res.Unchanged) != 1 || len(m.committed) != 1 {
		t.Errorf("got %+v and %d transactions, want unchanged and nothing stored", res, len(m.committed))
	}
}

// passing is what the certificate of n1 says, which passes a request on.
func passing(*http.Request) (role, name string) { return RoleNode, "n1" }

func TestExecAndLogsAreForwarded(t *testing.T) {
	owner := newMemory("n2")
	ownerServer := NewServer(owner, http.NotFoundHandler(), passing, slog.New(slog.DiscardHandler))
	m := newMemory("n1")
	m.peer = ownerServer
	c, _ := serve(t, m, RoleOperator)
	var out, errOut bytes.Buffer
	code, err := c.Exec(t.Context(), "demo.web.1.a", []string{"cat"}, strings.NewReader("input"), &out, &errOut)
	if err != nil || code != 7 || out.String() != "input" || errOut.String() != "done" {
		t.Errorf("exec: got code %d, %q, %q, %v; want 7, input, done", code, out.String(), errOut.String(), err)
	}
	if _, err := c.Exec(t.Context(), "demo.web.1.a", []string{"missing"}, strings.NewReader(""), &out, &errOut); err == nil || !strings.Contains(err.Error(), "no such command") {
		t.Errorf("exec of a missing command: got %v", err)
	}
	var lines []string
	err = c.Logs(t.Context(), "demo.web.1.a", false, -1, func(l LogLine) error { lines = append(lines, l.Line); return nil })
	if err != nil || len(lines) != 1 || lines[0] != "hello" {
		t.Errorf("logs: got %v, %v, want hello", lines, err)
	}
	// Two nodes that each take the other for the owner must not pass a request round for ever.
	m.peer = NewServer(newMemory("n3"), http.NotFoundHandler(), passing, slog.New(slog.DiscardHandler))
	if err := c.Logs(t.Context(), "demo.web.1.a", false, -1, func(LogLine) error { return nil }); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a request that was passed on twice: got %v, want a refusal", err)
	}
}

func TestRemoveNodeOnlyWhenEmpty(t *testing.T) {
	m := newMemory("n1")
	c, _ := serve(t, m, RoleAdmin)
	if err := c.RemoveNode(t.Context(), "n1"); err == nil || !strings.Contains(err.Error(), "drain") {
		t.Errorf("remove an online node: got %v, want a hint to drain", err)
	}
	m.state.Nodes[1].State = cluster.NodeDrained
	if err := c.RemoveNode(t.Context(), "n2"); err == nil || !strings.Contains(err.Error(), "demo.web.1.a") {
		t.Errorf("remove an owner: got %v, want the instance named", err)
	}
	m.state.Nodes[0].State = cluster.NodeDrained
	if err := c.RemoveNode(t.Context(), "n1"); err != nil {
		t.Errorf("remove a drained node: %v", err)
	}
	if err := c.RemoveNode(t.Context(), "n9"); err == nil || !strings.Contains(err.Error(), "n9") {
		t.Errorf("remove an unknown node: got %v", err)
	}
}

// Removing a node is the operator's word that it is off (package takeover): it must not be given unasked.
func TestRemoveNodeIsNoProofByAccident(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(*memory)
		refused bool
	}{
		{"waits for its end", func(*memory) {}, true},
		{"has said that it waits", func(m *memory) {
			m.state.Statuses = []cluster.Status{{ID: "demo.db.1.b", Node: "n1", State: cluster.InstancePending}}
		}, true},
		{"runs since the proof", func(m *memory) {
			m.state.Statuses = []cluster.Status{{ID: "demo.db.1.b", Node: "n1", State: cluster.InstanceRunning}}
		}, false},
		{"is content with its lease", func(m *memory) { m.state.Instances[0].Spec.Safety = cluster.SafetyLease }, false},
		{"waits for an earlier boot", func(m *memory) { m.state.Instances[0].After.BootID = "b1" }, false},
		{"off", func(m *memory) {
			m.state.Fences = []cluster.Fence{{Node: "n2", BootID: "b2", State: cluster.FenceOff}}
		}, false},
		{"an earlier boot was off", func(m *memory) {
			m.state.Fences = []cluster.Fence{{Node: "n2", BootID: "b1", State: cluster.FenceOff}}
		}, true},
	} {
		m := newMemory("n1")
		m.state.Nodes[1].State = cluster.NodeLost
		m.state.Instances = []cluster.Instance{{ID: "demo.db.1.b", Stack: "demo", Service: "db", Slot: 1, Node: "n1", BootID: "b1",
			After: &cluster.Owner{Node: "n2", BootID: "b2"}, Spec: cluster.Service{Safety: cluster.SafetyPower}}}
		tt.change(m)
		c, _ := serve(t, m, RoleAdmin)
		err := c.RemoveNode(t.Context(), "n2")
		if (err != nil) != tt.refused || tt.refused && (!strings.Contains(err.Error(), "skein fence confirm n2") || len(m.committed) > 0) {
			t.Errorf("%s: got %v, %d commits, want refused %v", tt.name, err, len(m.committed), tt.refused)
		}
	}
}

func TestEventsGoOnWhereTheyEnded(t *testing.T) {
	c, _ := serve(t, newMemory("n1"), RoleOperator)
	var got []uint64
	if err := c.Events(t.Context(), 1, false, func(e cluster.Event) error { got = append(got, e.Seq); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != 2 {
		t.Errorf("got %v, want 2 and 3", got)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{FrameStdout, 0, 0, 0, 2, 'h', 'i'})
	f.Add([]byte{FrameExit, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			if _, p, err := ReadFrame(r); err != nil || len(p) > MaxFrame {
				if err == nil {
					t.Fatalf("a frame of %d bytes", len(p))
				}
				return
			}
		}
	})
}
