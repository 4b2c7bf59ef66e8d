package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func TestRememberedBy(t *testing.T) {
	who := cluster.Applicant{Name: "n3", Code: "7K2QM-4XN0V", MachineID: "ABCDEF00-0000-0000-0000-000000000003", Serial: "CZJ1",
		Links: []cluster.Link{{MAC: "52:54:00:00:00:01"}, {MAC: "52:54:00:00:00:02"}}}
	keeps := who
	keeps.Keeps = true
	unknown := cluster.Applicant{Code: "7K2QM-4XN0V"}
	for _, tt := range []struct {
		name   string
		who    cluster.Applicant
		d      Decision
		values string // what is put on the list
		status int
	}{
		{"not at all", who, Decision{Approve: true}, "", 0},
		{"it keeps its key", keeps, Decision{Approve: true, Remember: true}, "", 0},
		{"it cannot", who, Decision{Approve: true, Remember: true}, "", http.StatusConflict},
		{"not known yet", unknown, Decision{Approve: true, Remember: true}, "", 0},
		{"by its id", who, Decision{Approve: true, RememberBy: "uuid"}, "abcdef00-0000-0000-0000-000000000003", 0},
		{"by its serial number", who, Decision{Approve: true, RememberBy: "serial"}, "CZJ1", 0},
		{"by all its ports", who, Decision{Approve: true, RememberBy: "mac"}, "52:54:00:00:00:01 52:54:00:00:00:02", 0},
		{"by what is not known", unknown, Decision{Approve: true, RememberBy: "mac"}, "", http.StatusNotFound},
		{"by its colour", who, Decision{Approve: true, RememberBy: "colour"}, "", http.StatusBadRequest},
		{"denied", who, Decision{RememberBy: "uuid"}, "", 0},
	} {
		list, err := remembered(&tt.who, &tt.d, "ann")
		var values []string
		for _, a := range list {
			values = append(values, a.Value)
		}
		se, _ := err.(*statusError)
		if got := strings.Join(values, " "); got != tt.values || (tt.status == 0) != (err == nil) || se != nil && se.status != tt.status {
			t.Errorf("%s: got %q, %v, want %q and status %d", tt.name, got, err, tt.values, tt.status)
		}
	}
}
