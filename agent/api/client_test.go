package api

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

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
