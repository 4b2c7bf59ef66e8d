package api

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
