package api

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestImageIsSentAgain: the node that an archive is sent to dies in the middle of it.
func TestImageIsSentAgain(t *testing.T) {
	dies := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 3))
		panic(http.ErrAbortHandler)
	}))
	defer dies.Close()
	var got string
	alive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if got = string(data); got == "bad" {
			http.Error(w, `{"error":"no archive"}`, http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, `[{"ref":"demo/web:1"}]`)
	}))
	defer alive.Close()
	c := &Client{HTTP: http.DefaultClient, Endpoints: []string{dies.URL, alive.URL}}
	if images, err := c.LoadImage(t.Context(), strings.NewReader("an archive")); err != nil || len(images) != 1 || got != "an archive" {
		t.Errorf("got %v, %v of %q; want the archive whole at the other node", images, err, got)
	}
	var refused *ResponseError
	if _, err := c.LoadImage(t.Context(), strings.NewReader("bad")); !errors.As(err, &refused) {
		t.Errorf("got %v, want the node's refusal, which another node would only repeat", err)
	}
}

// TestRemovalWithoutAnAnswer: a node that is asked to remove itself may end before it answers. The next one does
// not know it any more, which is what was asked for; but one that nobody ever knew is an error.
func TestRemovalWithoutAnAnswer(t *testing.T) {
	gone := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":"there is no node"}`, http.StatusNotFound)
	}
	alive := httptest.NewServer(http.HandlerFunc(gone))
	defer alive.Close()
	dies := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer dies.Close()
	c := &Client{HTTP: http.DefaultClient, Endpoints: []string{dies.URL, alive.URL}}
	if err := c.RemoveNode(t.Context(), "n4"); err != nil {
		t.Errorf("got %v, want it done", err)
	}
	c = &Client{HTTP: http.DefaultClient, Endpoints: []string{alive.URL}}
	if err := c.RemoveNode(t.Context(), "n4"); err == nil {
		t.Error("got no error for a node that nobody knows")
	}
}

// TestChangesAreTriedAgain: a ledger that has just lost its leader takes nothing for a moment.
func TestChangesAreTriedAgain(t *testing.T) {
	var asked, refusals int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked <= refusals {
			http.Error(w, `{"error":"the ledger did not take it"}`, http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodDelete {
			http.Error(w, `{"error":"there is no such stack"}`, http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, `{}`)
	}))
	defer server.Close()
	told := 0
	c := &Client{HTTP: http.DefaultClient, Endpoints: []string{server.URL}, Patience: 10 * time.Second, Waiting: func(error) { told++ }}
	for _, tt := range []struct {
		name     string
		refusals int
		do       func() error
		asked    int
		ok       bool
	}{
		{"deploy", 1, func() error { _, err := c.Deploy(t.Context(), "s", nil); return err }, 2, true},
		{"drain", 1, func() error { return c.NodeAction(t.Context(), "n1", "drain") }, 2, true},
		{"reboot, which might be done twice", 1, func() error { return c.NodeAction(t.Context(), "n1", "reboot") }, 1, false},
		{"removed by a try that seemed to fail", 1, func() error { return c.RemoveNode(t.Context(), "n1") }, 2, true},
		{"removed by nobody", 0, func() error { return c.RemoveNode(t.Context(), "n1") }, 1, false},
	} {
		asked, refusals, told = 0, tt.refusals, 0
		if err := tt.do(); (err == nil) != tt.ok || asked != tt.asked || told != asked-1 {
			t.Errorf("%s: asked %d times, told %d, got %v; want %d times, well: %v", tt.name, asked, told, err, tt.asked, tt.ok)
		}
	}
	c.Patience = 0
	asked, refusals = 0, 9
	if _, err := c.Deploy(t.Context(), "s", nil); err == nil || asked != 1 {
		t.Errorf("without patience: asked %d times, got %v", asked, err)
	}
}
