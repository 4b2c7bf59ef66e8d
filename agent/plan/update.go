package plan

import (
	"fmt"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// This file has services updated: how many instances at once, how fast, and what becomes of an update that fails.
//
// With start-first a service has more slots than replicas for as long as its update goes on, Parallelism of them. They
// run the new specification first; only then are slots of the old one stopped, and at most as many are down at a time
// as there are such instances up. So there are never fewer instances up than replicas.

// update is the service's update if it is going on.
func (p *planner) update(s *cluster.Service) *cluster.Update {
	if u := p.updates[s.FullName()]; u != nil && u.State.Going() && u.Hash == s.Hash {
		return u
	}
	return nil
}

// mostNodes is more than a cluster has.
const mostNodes = 1 << 20

// parallel is how many instances may be replaced at once.
func parallel(s *cluster.Service, policy cluster.UpdatePolicy) int {
	all := max(s.Replicas, 1)
	if s.Mode == cluster.ModeGlobal {
		all = mostNodes
	}
	if policy.Parallelism == 0 {
		return all
	}
	return min(policy.Parallelism, all)
}

// surge is how many slots the service has on top of its replicas.
func (p *planner) surge(s *cluster.Service) int {
	u := p.update(s)
	if u == nil || !s.StartsFirst(u.State == cluster.UpdateRollingBack) {
		return 0
	}
	n := parallel(s, s.Policy(u.State == cluster.UpdateRollingBack))
	old, down, extra := false, false, false
	for slot := 1; slot <= s.Replicas+n; slot++ {
		in := p.bySlot[slotID{s.Stack, s.Name, slot}]
		up := in != nil && p.up(in)
		switch {
		case slot > s.Replicas:
			extra = extra || up
		case !up:
			down = true
		case in.Spec.Hash != s.Hash:
			old = true
		}
	}
	if old || extra && down {
		return n
	}
	return 0
}

// atOnce is how many slots of a service may be down for a move of one of them.
func (p *planner) atOnce(m move) int {
	u := p.update(m.svc)
	if m.drain || u == nil {
		return 1
	}
	return parallel(m.svc, m.svc.Policy(u.State == cluster.UpdateRollingBack))
}

// holdsBack tells why an instance that is up is not replaced now, empty if nothing speaks against it.
func (p *planner) holdsBack(m move) string {
	u := p.updates[m.svc.FullName()]
	if m.drain || u == nil || u.Hash != m.svc.Hash || !p.up(m.in) {
		return ""
	}
	if u.State == cluster.UpdatePaused {
		return "its update is paused: " + u.Message
	}
	if !u.State.Going() {
		return ""
	}
	policy := m.svc.Policy(u.State == cluster.UpdateRollingBack)
	wait := max(policy.Delay, policy.Monitor)
	var until time.Duration
	for _, in := range p.of(m.svc) {
		if in.Spec.Hash == m.svc.Hash && p.up(in) {
			until = max(until, p.since(in)+wait)
		}
	}
	if p.Now >= until {
		return ""
	}
	p.wake(until)
	return fmt.Sprintf("waits for %v, as a new instance has just begun to run", (until - p.Now).Round(time.Second))
}

// since is when an instance that runs began to.
func (p *planner) since(in *cluster.Instance) time.Duration {
	if at, ok := p.Ran[in.ID]; ok {
		return at
	}
	return p.Now
}

// of are the service's instances, in the order of the ledger.
func (p *planner) of(s *cluster.Service) []*cluster.Instance {
	var out []*cluster.Instance
	for _, id := range p.slotIDs {
		if id.stack == s.Stack && id.service == s.Name {
			out = append(out, p.bySlot[id])
		}
	}
	return out
}

// updated ends updates: those that are done, and those that have failed.
func (p *planner) updated() {
	for i := range p.State.Services {
		s := &p.State.Services[i]
		if u := p.update(s); u != nil {
			p.judge(s, u)
		}
	}
}

func (p *planner) judge(s *cluster.Service, u *cluster.Update) {
	back := u.State == cluster.UpdateRollingBack
	policy := s.Policy(back)
	slots, done, failed, why := 0, 0, 0, ""
	var until time.Duration
	extra := false
	for _, in := range p.of(s) {
		if s.Mode != cluster.ModeGlobal && in.Slot > s.Replicas {
			extra = true
		}
		if text := p.badly(s, in); text != "" {
			failed, why = failed+1, text
		}
	}
	for id := range p.wanted {
		if id.stack != s.Stack || id.service != s.Name || s.Mode != cluster.ModeGlobal && id.slot > s.Replicas {
			continue
		}
		slots++
		if in := p.bySlot[id]; in != nil && in.Spec.Hash == s.Hash && p.up(in) {
			done++
			if p.state(in) == cluster.InstanceRunning {
				until = max(until, p.since(in)+policy.Monitor)
			}
		}
	}
	switch {
	case float64(failed) > policy.MaxFailureRatio*float64(slots) && policy.FailureAction != cluster.FailureContinue:
		why = fmt.Sprintf("%d of %d new instances failed: %s", failed, slots, why)
		if policy.FailureAction == cluster.FailureRollback && !back && u.Before != nil {
			p.act(Updated, s.FullName(), why, s.GoBack(u, false, why))
			return
		}
		p.endUpdate(s, u, cluster.UpdatePaused, "its update is paused", why)
	case done < slots || extra:
	case p.Now < until:
		p.wake(until)
	case back:
		p.endUpdate(s, u, cluster.UpdateRolledBack, "is again what it was before its update", u.Message)
	default:
		p.endUpdate(s, u, cluster.UpdateCompleted, "its update is complete", fmt.Sprintf("%d of %d instances run the new specification", done, slots))
	}
}

// badly tells how an instance of the new specification has failed, empty if it has not. That of a lost node has not.
func (p *planner) badly(s *cluster.Service, in *cluster.Instance) string {
	st := p.status[in.ID]
	if in.Spec.Hash != s.Hash || in.Stop || !p.alive(in) {
		return ""
	}
	text := ""
	switch {
	case st != nil && st.State == cluster.InstanceFailed:
		text = fmt.Sprintf("%v failed on %s", slotOf(in), in.Node)
	case st != nil && st.State == cluster.InstanceUnhealthy:
		text = fmt.Sprintf("%v is unhealthy on %s", slotOf(in), in.Node)
	case st != nil && st.Restarts > 0 && !st.Settled:
		text = fmt.Sprintf("%v had to be started again on %s", slotOf(in), in.Node)
	case in.Failures > 0 && (st == nil || !st.Settled):
		return fmt.Sprintf("%v failed on %s", slotOf(in), in.FailedOn)
	default:
		return ""
	}
	if st.Message != "" {
		text += " (" + st.Message + ")"
	}
	return text
}

func (p *planner) endUpdate(s *cluster.Service, u *cluster.Update, to cluster.UpdateState, text, why string) {
	next := *u
	next.State, next.Message = to, ""
	if to != cluster.UpdateCompleted {
		next.Message = why
	}
	p.act(Updated, s.FullName(), why, cluster.Txn{
		Conditions: []cluster.Condition{{Key: u.Key(), Revision: u.Revision}, {Key: s.Key(), Revision: s.Revision}},
		Puts:       []cluster.Put{{Key: u.Key(), Value: next}},
		Events:     []cluster.Event{{Kind: cluster.EventService, Subject: s.FullName(), Text: text, Why: why}},
	})
}
