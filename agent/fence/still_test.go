package fence

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What waited for a slow controller is looked at again when it is its turn: the machine may be back by then.
func TestOrderIsWithdrawn(t *testing.T) {
	var asked []string
	w := stranger(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method)
		switch {
		case r.URL.Path == redfishSystems:
			io.WriteString(w, `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`)
		case r.Method == http.MethodGet:
			io.WriteString(w, `{"PowerState":"On","Actions":{"#ComputerSystem.Reset":{"target":"/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"}}}`)
		}
	})
	var sentBefore string
	back := errors.New("it is back in a new boot")
	_, err := OperateIf(t.Context(), w, Cut, func(context.Context) error {
		sentBefore = strings.Join(asked, " ")
		return back
	})
	if err == nil || !strings.Contains(err.Error(), back.Error()) || strings.Join(asked, " ") != sentBefore || sentBefore != "GET GET" {
		t.Errorf("got %v; the controller saw %v, and %q before it was asked whether to", err, asked, sentBefore)
	}
	if _, err := OperateIf(t.Context(), w, Cut, func(context.Context) error { return nil }); err != nil || asked[len(asked)-1] != "POST" {
		t.Errorf("an order that stands: got %v; the controller saw %v", err, asked)
	}
}
