package admission

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
)

// alone is a ledger that has lost its majority.
type alone struct {
	*memory
	to    *cluster.Pledge // nil: it has a leader
	asked []cluster.Pledge
	boots []string
}

func (a *alone) Stranded() (cluster.Pledge, bool) {
	if a.to == nil {
		return cluster.Pledge{}, false
	}
	return *a.to, true
}
func (a *alone) LocalSecret(ctx context.Context, name string) ([]byte, error) {
	return a.memory.Secret(ctx, name)
}
func (a *alone) Asked(node, machineID, bootID string, p cluster.Pledge) {
	a.boots = append(a.boots, node+" "+machineID+" "+bootID)
	a.asked = append(a.asked, p)
}

// A member that has lost the others admits nobody, writes nothing, and takes as evidence only what was
// proved.
func TestStrandedMemberTakesEvidence(t *testing.T) {
	m := newMember(t, nil)
	l := &alone{memory: m.ledger, to: &cluster.Pledge{ClusterID: m.self.Meta.ID, Node: "n1", BootID: "boot-id-1", Incarnation: 1}}
	addr := serveTLS(t, m.files, NewServer("n1", l, slog.New(slog.DiscardHandler)))
	ctx, rev := t.Context(), m.ledger.rev
	ask := func(p *cluster.Pledge) error {
		req := request("n2", "2", "2")
		req.Pledge = p
		_, err := Join(ctx, addr, m.token, newKey(t), req)
		return err
	}
	var st *Stranded
	if err := ask(nil); !errors.As(err, &st) || st.Pledge != *l.to {
		t.Fatalf("got %v, want to be told to promise %+v", err, *l.to)
	}
	if err := ask(&st.Pledge); !errors.As(err, &st) {
		t.Fatalf("after the promise: got %v", err)
	}
	if len(l.asked) != 2 || l.asked[0] != (cluster.Pledge{}) || l.asked[1] != *l.to || l.boots[1] != "n2 machine-2 boot-id-2" {
		t.Errorf("evidence: %v of %v", l.asked, l.boots)
	}
	elsewhere := *l.to
	elsewhere.Node = "n3"
	if err := ask(&elsewhere); err == nil || errors.As(err, new(*Stranded)) || !strings.Contains(err.Error(), "promised to follow n3") {
		t.Errorf("promised to another: got %v, want refused", err)
	}
	wrong := make(Token, len(m.token))
	if _, err := Join(ctx, addr, wrong, newKey(t), request("n3", "3", "2")); err == nil || errors.As(err, new(*Stranded)) {
		t.Errorf("without the token: got %v, want refused", err)
	}
	if len(l.asked) != 2 {
		t.Errorf("evidence of who is refused: %v", l.boots)
	}
	if m.ledger.rev > rev {
		t.Errorf("something was written: revision %d after %d", m.ledger.rev, rev)
	}

	// The ledger answers again: who promised to another member must still not come in here.
	l.to = nil
	if err := ask(&elsewhere); err == nil || !strings.Contains(err.Error(), "promised to follow n3") {
		t.Errorf("promised to another: got %v, want refused", err)
	}
	if err := ask(&st.Pledge); err != nil {
		t.Errorf("who followed n1 is admitted by n1: got %v", err)
	}
}
