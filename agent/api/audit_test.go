package api

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func events(m *memory) (out []cluster.Event) {
	for _, t := range m.committed {
		out = append(out, t.Events...)
	}
	return out
}

// What an operator does to a node or in a container is an event that tells who and what, on whichever node he
// asked, and without the arguments of a command.
func TestAudit(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*Client) error
		want string
	}{
		"exec": {func(c *Client) error {
			_, err := c.Exec(t.Context(), "demo.web.1.a", []string{"mysql\x1b[2J", "--password=hush"}, strings.NewReader(""), io.Discard, io.Discard)
			return err
		}, "command mysql?[2J is run in demo.web.1.a"},
		"reboot":        {func(c *Client) error { return c.NodeAction(t.Context(), "n2", "reboot") }, "n2 is rebooted"},
		"poweroff":      {func(c *Client) error { return c.NodeAction(t.Context(), "n2", "poweroff") }, "n2 is powered off"},
		"restart-agent": {func(c *Client) error { return c.NodeAction(t.Context(), "n2", "restart-agent") }, "the agent of n2 is restarted"},
	} {
		t.Run(name, func(t *testing.T) {
			there := newMemory("n2")
			far := NewServer(there, http.NotFoundHandler(), passing, slog.New(slog.DiscardHandler))
			here := newMemory("n1")
			here.peer = far
			client, _ := serve(t, here, RoleOperator)
			if err := c.do(client); err != nil {
				t.Fatal(err)
			}
			got := events(there)
			if len(got) != 1 || got[0].Text != c.want || got[0].Why != "asked by operator ann by way of n1" || got[0].Node != "n2" || got[0].Time.IsZero() {
				t.Errorf("got %+v, want one that says %q", got, c.want)
			}
			if len(events(here)) != 0 {
				t.Errorf("recorded twice: %+v", events(here))
			}

			// A ledger that takes nothing does not keep an operator from it.
			there.frozen = errors.New("no majority")
			if err := c.do(client); err != nil {
				t.Errorf("while the ledger is frozen: %v", err)
			}
		})
	}
}

// An operator cannot pass for another one.
func TestOperatorHeaderIsForNodes(t *testing.T) {
	m := newMemory("n1")
	_, s := serve(t, m, RoleOperator)
	r := httptest.NewRequest("POST", "/", nil)
	r.Header.Set(OperatorHeader, "bob")
	if got := s.asker(r); got != "ann" {
		t.Errorf("got %q, want ann", got)
	}
}

// A node that was not asked by an operator does nothing of it, and cannot say that another node passed it on.
func TestNodesActForOperatorsOnly(t *testing.T) {
	for _, path := range []string{"/v1/instances/demo.web.1.a/exec?argv=[%22id%22]", "/v1/nodes/n2/reboot", "/v1/nodes/n2/poweroff", "/v1/nodes/n2/restart-agent"} {
		for _, h := range []http.Header{{}, {ForwardedHeader: {"n1"}}, {ForwardedHeader: {"n3"}, OperatorHeader: {"ann"}}, {OperatorHeader: {"ann"}}} {
			m := newMemory("n2")
			r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(""))
			for k := range h {
				r.Header.Set(k, h.Get(k))
			}
			w := httptest.NewRecorder()
			NewServer(m, http.NotFoundHandler(), passing, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
			if w.Code != http.StatusForbidden || m.left != "" || m.restarted != "" || len(m.committed) > 0 {
				t.Errorf("%s with %v: got %d, left %q, restarted %q; want it forbidden", path, h, w.Code, m.left, m.restarted)
			}
		}
	}
}
