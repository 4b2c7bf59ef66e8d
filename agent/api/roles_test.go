package api

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestEveryRouteHasARole: a route that nobody thought about is for administrators only, and is found here.
func TestEveryRouteHasARole(t *testing.T) {
	s := NewServer(newMemory("n1"), http.NotFoundHandler(), func(*http.Request) (string, string) { return RoleNone, "" }, slog.New(slog.DiscardHandler))
	s.HandleJobs(nil)
	s.HandleNet(nil)
	s.HandleRegistry(nil)
	served := map[string]bool{}
	for _, p := range s.patterns {
		served[p] = true
		if _, ok := routes[p]; !ok {
			t.Errorf("%s has no role: add it to routes", p)
		}
		method, path, _ := strings.Cut(p, " ")
		// Without a role nobody gets anywhere.
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(method, strings.NewReplacer("{", "", "}", "").Replace(path), nil))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s without a certificate: got %d, want %d", p, w.Code, http.StatusForbidden)
		}
		n := routes[p]
		if !n.permits(RoleAdmin) && n != nodesOnly {
			t.Errorf("%s: administrators may not, and it is not between nodes only", p)
		}
		if method != http.MethodGet && n.permits(RoleReader) && p != "POST /v1/certificate" {
			t.Errorf("%s: a reader may, and it changes something", p)
		}
	}
	for p := range routes {
		if !served[p] {
			t.Errorf("%s is in the table and is no route", p)
		}
	}
	if n := needOf("GET /v1/new"); n != govern {
		t.Errorf("a route that is not in the table: got %v, want administrators only", n)
	}
}

func TestWhoMay(t *testing.T) {
	for _, tt := range []struct {
		pattern                       string
		reader, operator, admin, node bool
	}{
		{"GET /v1/status", true, true, true, true},
		{"GET /v1/instances/{id}/logs", true, true, true, true},
		{"PUT /v1/stacks/{stack}", false, true, true, false},
		{"POST /v1/nodes/{name}/drain", false, true, true, false},
		{"POST /v1/instances/{id}/exec", false, true, true, true},
		{"GET /v1/snapshot", false, true, true, true},
		{"DELETE /v1/nodes/{name}", false, false, true, false},
		{"PUT /v1/users/{user}", false, false, true, false},
		{"GET /v1/nodes/{name}/bmc", false, false, true, false},
		{"POST /v1/pending", false, false, true, false},
		{"POST /v1/jobs/pull", false, false, false, true},
	} {
		n := needOf(tt.pattern)
		got := [4]bool{n.permits(RoleReader), n.permits(RoleOperator), n.permits(RoleAdmin), n.permits(RoleNode)}
		if want := [4]bool{tt.reader, tt.operator, tt.admin, tt.node}; got != want {
			t.Errorf("%s: got %v, want %v (reader, operator, admin, node)", tt.pattern, got, want)
		}
		if n.permits(RoleNone) || n.permits("root") {
			t.Errorf("%s: permits who has no role", tt.pattern)
		}
	}
}
