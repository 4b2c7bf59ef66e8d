package plan_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/cluster"
)

// change deploys another version of a service, as the API does.
func (b *bench) change(s cluster.Service, hash string) {
	before := s
	s.Hash = hash
	u := cluster.Update{Stack: s.Stack, Service: s.Name, State: cluster.UpdateRunning, Hash: hash, Before: &before}
	b.Commit(cluster.Txn{Puts: []cluster.Put{{Key: s.Key(), Value: s}, {Key: u.Key(), Value: u}}})
}

// updating counts what an observer sees of a service.
type updating struct{ up, all, current, extra int }

func (b *bench) count(s *cluster.Service) (u updating) {
	st := b.State()
	for i := range st.Instances {
		in := &st.Instances[i]
		running := false
		for j := range st.Statuses {
			running = running || st.Statuses[j].ID == in.ID && st.Statuses[j].State == cluster.InstanceRunning
		}
		u.all++
		if running && !in.Stop {
			u.up++
			if in.Spec.Hash == s.Hash {
				u.current++
			}
		}
		if in.Slot > s.Replicas {
			u.extra++
		}
	}
	return u
}

// TestUpdates plays updates with any policy, to versions that run and to versions that do not, with every order of what
// nodes report.
func TestUpdates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench(rapid.IntRange(1, 4).Draw(t, "nodes"))
		policy := cluster.UpdatePolicy{
			Parallelism: rapid.IntRange(0, 3).Draw(t, "parallelism"), StartFirst: rapid.Bool().Draw(t, "start first"),
			Delay: rapid.SampledFrom([]time.Duration{0, time.Second}).Draw(t, "delay"), Monitor: time.Duration(rapid.IntRange(0, 3).Draw(t, "monitor")) * time.Second,
			FailureAction: rapid.SampledFrom([]cluster.FailureAction{cluster.FailurePause, cluster.FailureRollback}).Draw(t, "failure action"),
		}
		replicas := rapid.IntRange(1, 4).Draw(t, "replicas")
		s := service("web", replicas, func(s *cluster.Service) { s.Update, s.Rollback = &policy, &policy })
		if rapid.Bool().Draw(t, "alone") {
			s.Replicas, replicas, s.Safety = 1, 1, cluster.SafetyPower
		}
		b.put(s)
		b.snap.Ran, b.snap.Ended = map[string]time.Duration{}, map[string]time.Duration{}
		bad := ""
		// play plans, and has some nodes report what their instances do; all have done so in the end.
		play := func(all bool) {
			b.step(t)
			st := b.State()
			for i := range st.Instances {
				in := &st.Instances[i]
				if !all && rapid.Bool().Draw(t, "late") {
					continue
				}
				state := cluster.InstanceRunning
				switch {
				case in.Stop:
					state = cluster.InstanceStopped
				case in.Spec.Hash == bad:
					state = cluster.InstanceFailed
				}
				status := cluster.Status{ID: in.ID, Node: in.Node, State: state}
				b.put(status)
				if delete(b.snap.Ran, in.ID); state == cluster.InstanceRunning {
					b.snap.Ran[in.ID] = b.snap.Now
				}
				if state.Ended() {
					b.snap.Ended[in.ID] = b.snap.Now
				}
			}
		}
		settle := func() {
			for range 60 {
				play(true)
				b.snap.Now += 10 * time.Minute // past any delay
			}
		}
		settle()
		if c := b.count(&s); c.up != replicas {
			t.Fatalf("at the beginning: %+v, want %d up", c, replicas)
		}
		works := rapid.Bool().Draw(t, "works")
		if !works {
			bad = "2"
		}
		b.change(s, "2")
		want := s
		want.Hash = "2"
		n := policy.Parallelism
		if n == 0 {
			n = replicas
		}
		least, most := replicas-n, replicas
		if s.StartsFirst(false) {
			least, most = replicas, replicas+min(n, replicas)
		}
		for range 40 {
			play(false)
			b.snap.Now += time.Duration(rapid.IntRange(0, 2).Draw(t, "seconds")) * time.Second
			if c := b.count(&want); (works || policy.StartFirst) && c.up < least || c.all > most {
				t.Fatalf("while it is updated: %+v, want %d up at least and %d at most", c, least, most)
			}
		}
		settle()
		u := b.State().Update("demo", "web")
		state, hash := cluster.UpdateCompleted, "2"
		if !works {
			state, hash = cluster.UpdateRolledBack, "1"
			if policy.FailureAction == cluster.FailurePause {
				state = cluster.UpdatePaused
			}
		}
		if u.State != state {
			t.Fatalf("the update is %s (%s), want %s", u.State, u.Message, state)
		}
		if state == cluster.UpdatePaused {
			return
		}
		want.Hash = hash
		if c := b.count(&want); c.current != replicas || c.all != replicas || c.extra != 0 {
			t.Fatalf("in the end: %+v, want %d of hash %s and no other", c, replicas, hash)
		}
		if d := b.plan(); len(d.Actions) > 0 {
			t.Fatalf("in the end the plan still wants %s", fmt.Sprint(d.Actions))
		}
	})
}
