package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func environment(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestReports(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	requests := 0
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests++; requests == 3 {
			cancel() // asked to stop in the middle of the third round
		}
		w.Header().Set("X-Served-By", "c1")
		_, _ = io.WriteString(w, "hello")
	}))
	defer good.Close()
	bad := httptest.NewServer(http.NotFoundHandler())
	defer bad.Close()
	file := filepath.Join(t.TempDir(), "report.txt")
	var out strings.Builder
	err := run(ctx, nil, environment(map[string]string{"REPORT_URLS": good.URL + " " + bad.URL, "REPORT_EVERY": "1ms", "REPORT_FILE": file}), &out)
	if err != nil {
		t.Fatal(err)
	}
	want := "report 2\n  " + good.URL + ": 2 ok, 0 failed, 10 bytes; served by c1\n  " + bad.URL + ": 0 ok, 2 failed, 0 bytes; now failing: answered 404 Not Found\n"
	if !strings.Contains(out.String(), want) || !strings.HasSuffix(out.String(), "stopped after 2 reports\n") {
		t.Errorf("got output %q, want it to contain %q", out.String(), want)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("last report: got %q, %v; want %q", got, err, want)
	}
}

func TestRefuses(t *testing.T) {
	for _, test := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{nil, map[string]string{"REPORT_EVERY": "often"}, "REPORT_EVERY"},
		{nil, map[string]string{"REPORT_EVERY": "-1s"}, "REPORT_EVERY"},
		{[]string{"--version"}, nil, "unknown arguments"},
		{[]string{"--check", "soon"}, nil, "soon"},
	} {
		err := run(t.Context(), test.args, environment(test.env), io.Discard)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v %v: got %v, want an error with %q", test.args, test.env, err, test.want)
		}
	}
}

func TestCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.txt")
	if err := check(file, time.Hour); err == nil {
		t.Error("no report: want an error")
	}
	if err := keep(file, "x"); err != nil {
		t.Fatal(err)
	}
	if err := check(file, time.Hour); err != nil {
		t.Errorf("fresh report: %v", err)
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	if err := check(file, time.Hour); err == nil || !strings.Contains(err.Error(), "old, want under") {
		t.Errorf("old report: got %v", err)
	}
}
