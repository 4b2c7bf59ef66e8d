package api

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

func (m *memory) ReadPower(_ context.Context, _ string, way int) (string, error) {
	if way > 0 {
		return "", errors.New("did not answer in time")
	}
	return "on", nil
}

func lostN2(m *memory) {
	m.state.Nodes[1].State = cluster.NodeLost
	m.heard = map[string]bool{}
}

func TestConfirmOff(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		role       string
		change     func(*memory)
	}{
		{name: "lost and silent", role: RoleOperator, change: lostN2},
		{name: "not lost", want: "not lost", role: RoleOperator, change: func(m *memory) { m.heard = map[string]bool{} }},
		{name: "heard", want: "are heard", role: RoleOperator, change: func(m *memory) { lostN2(m); m.heard["n2"] = true }},
		{name: "not known", want: "does not know", role: RoleOperator, change: func(m *memory) { lostN2(m); m.heard = nil }},
		{name: "a node says so", want: "certificate", role: RoleNode, change: lostN2},
		{name: "changed meanwhile", want: "somebody else", role: RoleOperator, change: func(m *memory) { lostN2(m); m.refuse = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory("n1")
			tt.change(m)
			c, _ := serve(t, m, tt.role)
			f, err := c.ConfirmOff(t.Context(), "n2")
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || len(m.committed) > 0 {
					t.Errorf("got %v, %d commits, want %q and none", err, len(m.committed), tt.want)
				}
				return
			}
			if err != nil || f.BootID != "b2" || f.State != cluster.FenceOff || f.Level != cluster.FenceOperator {
				t.Fatalf("got %+v, %v", f, err)
			}
			e := m.committed[0].Events[0]
			if e.Kind != cluster.EventFence || e.Subject != "n2" || !strings.Contains(e.Why, "operator") || f.By == "" || !strings.Contains(e.Text, f.By) {
				t.Errorf("the audit says %+v, by %q", e, f.By)
			}
			if got := m.committed[0].Conditions[0]; got.Revision != m.state.Nodes[1].Revision {
				t.Errorf("not conditional on the node being lost: %+v", got)
			}
		})
	}
}

func TestBMC(t *testing.T) {
	m := newMemory("n1")
	c, _ := serve(t, m, RoleAdmin)
	req := BMCRequest{BMC: cluster.BMC{Node: "n2", Addresses: []string{"192.0.2.7", "192.0.2.8"}, User: "admin", Fingerprint: strings.Repeat("ab", 32)}, Password: "topsecret"}
	if _, err := c.SetBMC(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	b := m.committed[0].Puts[0].Value.(cluster.BMC)
	if data, err := json.Marshal(b); err != nil || strings.Contains(string(data), "topsecret") || b.Addresses[0] != "192.0.2.7:443" {
		t.Errorf("got record %s, %v", data, err)
	}
	if p := m.committed[0].Puts[1]; p.Key != "/skein/secret/bmc/n2" || string(p.Value.([]byte)) != "topsecret" {
		t.Errorf("got secret %+v", p)
	}
	m.state.BMCs = append(m.state.BMCs, b)
	tests, err := c.TestBMC(t.Context(), "n2")
	if err != nil || len(tests) != 2 || tests[0].Power != "on" || tests[1].Error == "" {
		t.Errorf("got %+v, %v", tests, err)
	}
	shown, err := c.BMC(t.Context(), "n2")
	if err != nil || shown.User != "admin" {
		t.Errorf("got %+v, %v", shown, err)
	}
	fences, err := c.Fences(t.Context())
	if err != nil || len(fences) != 2 || len(fences[1].Levels) != 3 || len(fences[0].Levels) != 2 {
		t.Errorf("got %+v, %v", fences, err)
	}
	req.Fingerprint = "x"
	if _, err := c.SetBMC(t.Context(), req); err == nil || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("a bad fingerprint: got %v", err)
	}
	req.Node = "n9"
	if _, err := c.SetBMC(t.Context(), req); err == nil || !strings.Contains(err.Error(), "no node") {
		t.Errorf("an unknown node: got %v", err)
	}
}

// Two nodes with one controller: the power of one would prove the end of the other.
func TestOneControllerForTwoNodes(t *testing.T) {
	for _, tt := range []struct {
		name        string
		have, wants cluster.BMC
		refused     bool
	}{
		{"its own again", cluster.BMC{Node: "n2", Addresses: []string{"192.0.2.7:443"}}, cluster.BMC{Addresses: []string{"192.0.2.7"}}, false},
		{"another one", cluster.BMC{Node: "n1", Addresses: []string{"192.0.2.7:443"}}, cluster.BMC{Addresses: []string{"192.0.2.8"}}, false},
		{"that of n1", cluster.BMC{Node: "n1", Addresses: []string{"192.0.2.7:443"}}, cluster.BMC{Addresses: []string{"192.0.2.8", "192.0.2.7"}}, true},
		{"another system of it", cluster.BMC{Node: "n1", Addresses: []string{"192.0.2.7:443"}, System: "/redfish/v1/Systems/1"},
			cluster.BMC{Addresses: []string{"192.0.2.7"}, System: "/redfish/v1/Systems/2"}, false},
		{"the same system of it", cluster.BMC{Node: "n1", Addresses: []string{"192.0.2.7:443"}, System: "/redfish/v1/Systems/1"},
			cluster.BMC{Addresses: []string{"192.0.2.7"}, System: "/redfish/v1/Systems/1"}, true},
		{"whichever system of it", cluster.BMC{Node: "n1", Addresses: []string{"192.0.2.7:443"}, System: "/redfish/v1/Systems/1"},
			cluster.BMC{Addresses: []string{"192.0.2.7"}}, true},
	} {
		m := newMemory("n1")
		m.state.BMCs = []cluster.BMC{tt.have}
		c, _ := serve(t, m, RoleAdmin)
		tt.wants.Node, tt.wants.User, tt.wants.Fingerprint = "n2", "admin", strings.Repeat("ab", 32)
		_, err := c.SetBMC(t.Context(), BMCRequest{BMC: tt.wants, Password: "p"})
		if (err != nil) != tt.refused || tt.refused && (!strings.Contains(err.Error(), "n1") || len(m.committed) > 0) {
			t.Errorf("%s: got %v, %d commits, want refused %v", tt.name, err, len(m.committed), tt.refused)
		}
	}
}
