package api

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

func TestSetWatchdog(t *testing.T) {
	hardware := &cluster.Watchdog{Identity: "i6300ESB timer", Timeout: 10 * time.Second}
	softdog := &cluster.Watchdog{Identity: "Software Watchdog", Timeout: 10 * time.Second, Software: true}
	for _, tt := range []struct {
		name, role string
		dog        *cluster.Watchdog
		req        WatchdogRequest
		want       string
	}{
		{"on", RoleOperator, hardware, WatchdogRequest{On: true}, ""},
		{"off", RoleOperator, hardware, WatchdogRequest{}, ""},
		{"off without one", RoleOperator, nil, WatchdogRequest{}, ""},
		{"on without one", RoleOperator, nil, WatchdogRequest{On: true}, "no watchdog was found"},
		{"softdog", RoleOperator, softdog, WatchdogRequest{On: true}, "--softdog-too"},
		{"softdog by leave", RoleOperator, softdog, WatchdogRequest{On: true, SoftdogToo: true}, ""},
		{"a node says so", RoleNode, hardware, WatchdogRequest{On: true}, "certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory("n1")
			m.state.Nodes[1].Watchdog = tt.dog
			c, _ := serve(t, m, tt.role)
			p, err := c.SetWatchdog(t.Context(), "n2", tt.req)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || len(m.committed) > 0 {
					t.Errorf("got %v, %d commits, want %q and none", err, len(m.committed), tt.want)
				}
				return
			}
			if err != nil || p.On != tt.req.On || len(m.committed) != 1 {
				t.Fatalf("got %+v, %v, %d commits", p, err, len(m.committed))
			}
			if e := m.committed[0].Events[0]; e.Kind != cluster.EventFence || !strings.Contains(e.Why, "operator") {
				t.Errorf("the audit says %+v", e)
			}
		})
	}
}
