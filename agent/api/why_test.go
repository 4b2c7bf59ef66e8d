package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/replay"
)

func (m *memory) snap() plan.Snapshot { return plan.Snapshot{State: &m.state} }

func (m *memory) Snapshot(context.Context) (plan.Snapshot, error) { return m.snap(), nil }
func (m *memory) Times() member.Config                            { return member.DefaultConfig() }

// Decisions are two made from the state as it is.
func (m *memory) Decisions(context.Context) ([]replay.Record, error) {
	var out []replay.Record
	for n := 1; n <= 2; n++ {
		r, err := replay.New(node.Decided{Coordinator: "n1", Snapshot: m.snap(), Decision: plan.Plan(m.snap())}, n)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func TestExplaining(t *testing.T) {
	m := newMemory("n1")
	m.state.Revision = 7
	m.state.Services = append(m.state.Services, cluster.Service{
		Stack: "shop", Name: "till", Mode: cluster.ModeReplicated, Replicas: 1, Hash: "1", Env: map[string]string{"PIN": "4711"},
		Reserve: cluster.Resources{Memory: 1 << 50},
	})
	c := &Client{Endpoints: []string{"http://n1"}, HTTP: &http.Client{Transport: handlerTransport{
		NewServer(m, http.NotFoundHandler(), func(*http.Request) (string, string) { return RoleOperator, "me" }, slog.New(slog.DiscardHandler)),
	}}}
	ctx := context.Background()
	a, err := c.Why(ctx, "till", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(a.Sentences, " "); !strings.Contains(text, "shop/till does not run anywhere") || !strings.Contains(text, "1024 TiB are needed") {
		t.Errorf("why till: got %q", text)
	}
	var re *ResponseError
	if _, err := c.Why(ctx, "wobble", time.UTC); !errors.As(err, &re) || re.Status != http.StatusNotFound {
		t.Errorf("why of nothing: got %v", err)
	}
	snap, err := c.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	st := snap.Input.Snapshot().State
	if snap.Coordinator != "n1" || st.Revision != 7 || st.Node("n2") == nil || st.Node("n2").Revision != 5 || snap.Lease != member.DefaultConfig().Lease {
		t.Errorf("snapshot: got %+v", snap)
	}
	if slices.ContainsFunc(st.Services, func(s cluster.Service) bool { return len(s.Env) > 0 }) {
		t.Error("the snapshot tells the environment of a service")
	}
	list, err := c.Decisions(ctx)
	if err != nil || len(list) != 2 || list[0].ID != "7.2" || list[0].Input != nil {
		t.Errorf("decisions: got %+v, %v", list, err)
	}
	r, err := c.Decision(ctx, "7.1")
	if err != nil {
		t.Fatal(err)
	}
	if _, diff, err := replay.Replay(r); err != nil || diff != nil {
		t.Errorf("replay: got %q, %v", diff, err)
	}
	if _, err := c.Decision(ctx, "9.9"); err == nil {
		t.Error("a decision that never was is found")
	}
}
