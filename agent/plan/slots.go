package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

const (
	// maxBackoff bounds the wait before a slot that failed is tried on another node: 1 s, doubled each time.
	maxBackoff = time.Minute
	// again is how long a slot that has failed on every node that may have it waits before it is tried on one of
	// them again, doubled each time up to maxAgain. It is not the nodes then: to go round would move its addresses
	// and fetch its images all the time, for nothing. Not longer: what it needs may be back.
	again    = 10 * time.Second
	maxAgain = 5 * time.Minute
	// jobTries is on how many nodes a job's slot is tried before it counts as failed.
	jobTries = 3
)

// move is an instance that runs and should run elsewhere or otherwise, by our choice.
type move struct {
	in     *cluster.Instance
	svc    *cluster.Service
	drain  bool // else: its specification changed
	only   string
	reason string
}

// service decides for each slot that a service should have.
func (p *planner) service(s *cluster.Service) {
	if s.Mode != cluster.ModeGlobal {
		for slot := 1; slot <= s.Replicas; slot++ {
			p.slot(s, slotID{s.Stack, s.Name, slot}, "")
		}
		for slot := s.Replicas + 1; slot <= s.Replicas+p.surge(s); slot++ {
			p.slot(s, slotID{s.Stack, s.Name, slot}, "")
		}
		return
	}
	for _, h := range p.hosts {
		if h.node.MayRun() && matchesAll(s, h.node) {
			p.slot(s, slotID{s.Stack, s.Name, int(h.node.Number)}, h.node.Name)
		}
	}
}

func matchesAll(s *cluster.Service, n *cluster.Node) bool {
	for _, c := range s.Constraints {
		if ok, err := matches(c, n); !ok || err != nil {
			return false
		}
	}
	return true
}

// slot decides for one wanted slot; only is the node it is bound to, in global mode.
func (p *planner) slot(s *cluster.Service, id slotID, only string) {
	p.wanted[id] = true
	in := p.bySlot[id]
	if in == nil {
		p.unsettle(s, id)
		p.later(Claim, func() { p.claim(claim{svc: s, id: id, only: only, why: s.FullName() + " should have it"}) })
		return
	}
	current := in.Spec.Hash == s.Hash
	if p.state(in) == cluster.InstanceComplete && current && !in.Stop {
		return // a result, wherever its node is now
	}
	if !p.up(in) {
		p.unsettle(s, id)
	}
	switch {
	case !p.alive(in):
		p.later(Takeover, func() { p.takeover(s, in, only) })
	case p.ended(in) && in.Stop:
		why := "it was stopped on " + in.Node
		if !current {
			why = "its specification changed"
		} else if p.leaving(in.Node) {
			why = in.Node + " is being drained"
		}
		p.later(Replace, func() { p.claim(claim{svc: s, id: id, old: in, only: only, keep: in.Node, why: why}) })
	case p.ended(in) && !current:
		p.later(Replace, func() {
			p.claim(claim{svc: s, id: id, old: in, only: only, keep: in.Node, why: "its specification changed"})
		})
	case p.ended(in):
		p.later(Replace, func() { p.failed(s, in, only) })
	case in.Stop: // its node is at it
	case !current:
		p.moving = append(p.moving, move{in: in, svc: s, only: only, reason: "its specification changed"})
	case p.leaving(in.Node):
		p.moving = append(p.moving, move{in: in, svc: s, only: only, drain: true, reason: in.Node + " is being drained"})
	}
}

func (p *planner) leaving(node string) bool {
	st := p.byName[node].node.State
	return st == cluster.NodeDraining || st == cluster.NodeDrained
}

func (p *planner) later(k Kind, do func()) { p.todo = append(p.todo, todo{k, do}) }

// takeover finds a new owner for the slot of an incarnation that is no more.
func (p *planner) takeover(s *cluster.Service, in *cluster.Instance, only string) {
	id := slotOf(in)
	c := claim{svc: s, id: id, old: in, only: only, lost: true, why: p.fate(in)}
	if p.ended(in) { // it said so before it went
		c.failed = p.state(in) == cluster.InstanceFailed
		p.claim(c)
		return
	}
	if _, missing := p.inherited(in); missing != "" {
		p.pend(id, nil, "%s had itself just taken over: %s", in.Node, missing)
		return
	}
	owner := cluster.Owner{Node: in.Node, BootID: in.BootID, Epoch: in.Epoch}
	if pr := p.proof(in.Spec.Safety, owner); !pr.OK {
		// The successor waits for the proof that its own specification asks for, and guards the addresses
		// that it holds itself: a specification that changed in the meantime must not weaken that.
		if s.Safety != in.Spec.Safety || !covers(s, in) {
			p.pend(id, nil, "its safety or addresses were changed while its owner is lost: %s", pr.Text)
			return
		}
		c.after = &owner
	}
	p.claim(c)
}

// covers tells whether a claim of slot in made from s holds all addresses that in held.
func covers(s *cluster.Service, in *cluster.Instance) bool {
	if !HoldsFloating(in) {
		return true
	}
	next := map[string]bool{}
	if s.Mode != cluster.ModeGlobal {
		for _, a := range s.Floating {
			next[a.String()] = true
		}
	}
	for _, a := range in.Spec.Floating {
		if !next[a.String()] {
			return false
		}
	}
	return true
}

// fate of the owner of a claim that is not alive.
func (p *planner) fate(in *cluster.Instance) string {
	h := p.byName[in.Node]
	switch {
	case h == nil:
		return in.Node + " was removed"
	case h.node.BootID != in.BootID:
		return in.Node + " was started anew"
	}
	return in.Node + " is lost"
}

// failed decides what becomes of an instance that gave up on its node.
func (p *planner) failed(s *cluster.Service, in *cluster.Instance, only string) {
	id := slotOf(in)
	message := "no message"
	if st := p.status[in.ID]; st != nil && st.Message != "" {
		message = st.Message
	}
	switch {
	case s.Restart.Condition == "none":
		p.pend(id, nil, "failed on %s (%s) and its restart condition is none", in.Node, message)
		return
	case s.Mode == cluster.ModeJob && in.Failures+1 >= jobTries:
		p.pend(id, nil, "failed %d times, the last time on %s (%s): not tried again", in.Failures+1, in.Node, message)
		return
	}
	since, seen := p.Ended[in.ID]
	if !seen {
		since = p.Now
	}
	failures, tried := p.failures(in)
	if at := since + doubled(time.Second, failures, maxBackoff); p.Now < at {
		p.wake(at)
		p.pend(id, nil, "failed on %s (%s), is tried again in %v", in.Node, message, (at - p.Now).Round(time.Second))
		return
	}
	c := claim{svc: s, id: id, old: in, only: only, failed: true, why: fmt.Sprintf("it failed on %s (%s)", in.Node, message)}
	if c.avoid = failedOn(tried); p.fits(&c) {
		p.claim(c)
		return
	}
	rounds := max(0, failures+1-len(tried))
	if at := since + doubled(again, rounds, maxAgain); p.Now < at {
		p.wake(at)
		before := ""
		if n := len(tried) - 1; n > 0 {
			before = ", and before that on " + strings.Join(tried[:n], ", ")
		}
		_, _, not := p.place(s, "", only, c.avoid)
		p.pend(id, not, "failed on %s (%s)%s; is tried again in %v", in.Node, message, before, (at - p.Now).Round(time.Second))
		return
	}
	// The one of them where it failed longest ago.
	for i := range tried {
		if c.avoid = failedOn(tried[i+1:]); p.fits(&c) {
			break
		}
	}
	p.claim(c)
}

// failures of a slot whose claim has failed: how many before it, and on which nodes, itself included.
func (p *planner) failures(in *cluster.Instance) (before int, tried []string) {
	if st := p.status[in.ID]; st == nil || !st.Settled {
		before, tried = in.Failures, in.Tried
	}
	tried = slices.DeleteFunc(slices.Clone(tried), func(n string) bool { return n == in.Node })
	return before, append(tried, in.Node)
}

func failedOn(nodes []string) map[string]string {
	avoid := map[string]string{}
	for _, n := range nodes {
		avoid[n] = "is where it failed"
	}
	return avoid
}

// fits tells whether there is a node for the claim.
func (p *planner) fits(c *claim) bool {
	best, _, _ := p.place(c.svc, c.keep, c.only, c.avoid)
	return best != nil
}

func doubled(d time.Duration, times int, most time.Duration) time.Duration {
	for range times {
		if d >= most {
			break
		}
		d *= 2
	}
	return min(d, most)
}

// unwanted ends a claim whose slot nobody wants any more.
func (p *planner) unwanted(in *cluster.Instance) {
	id := slotOf(in)
	why := p.whyUnwanted(in)
	if p.alive(in) && !p.ended(in) {
		if !in.Stop {
			p.stop(in, why)
		}
		return
	}
	if !p.ended(in) {
		if pr := p.proof(in.Spec.Safety, cluster.Owner{Node: in.Node, BootID: in.BootID}); !pr.OK {
			p.pend(id, nil, "%s, but its claim stays: %s", why, pr.Text)
			return
		}
	}
	if _, missing := p.inherited(in); missing != "" {
		p.pend(id, nil, "%s, but its claim stays: %s", why, missing)
		return
	}
	p.remove(in, why)
}

func (p *planner) whyUnwanted(in *cluster.Instance) string {
	for i := range p.State.Services {
		s := &p.State.Services[i]
		if s.Stack != in.Stack || s.Name != in.Service {
			continue
		}
		if s.Mode != cluster.ModeGlobal {
			return fmt.Sprintf("%s should have %d instances", s.FullName(), s.Replicas)
		}
		if h := p.byName[in.Node]; h != nil && h.node.State != cluster.NodeOnline {
			return fmt.Sprintf("%s is %s", in.Node, h.node.State)
		} else if h != nil && h.node.Witness {
			return in.Node + " is a witness"
		}
		return in.Node + " does not match its constraints"
	}
	return fmt.Sprintf("%s/%s was removed", in.Stack, in.Service)
}

// unsettle notes a slot that does not run.
func (p *planner) unsettle(s *cluster.Service, id slotID) {
	p.unsettled[s.FullName()] = id.String()
	p.waiting[s.FullName()]++
}

// moves stops instances that should run elsewhere or otherwise: what is up one at a time for each
// service, unless its update policy says otherwise, and one at a time for each node that is drained.
func (p *planner) moves() {
	busy := map[string]bool{}
	for _, id := range p.slotIDs {
		if in := p.bySlot[id]; in.Stop && p.alive(in) && !p.ended(in) {
			busy[in.Node] = true
		}
	}
	for _, m := range p.moving {
		id, name := slotOf(m.in), m.svc.FullName()
		if other := p.unsettled[name]; p.up(m.in) && p.waiting[name] >= p.atOnce(m) {
			p.pend(id, nil, "%s; waits until %s runs", m.reason, other)
			continue
		}
		if why := p.holdsBack(m); why != "" {
			p.pend(id, nil, "%s; %s", m.reason, why)
			continue
		}
		if m.drain && busy[m.in.Node] {
			continue
		}
		h := p.byName[m.in.Node]
		h.remove(&m.in.Spec)
		best, _, not := p.place(m.svc, m.in.Node, m.only, nil)
		h.add(&m.in.Spec)
		if best == nil {
			p.pend(id, not, "%s; it stays there as there is no place for it", m.reason)
			continue
		}
		busy[m.in.Node] = true
		p.unsettle(m.svc, id)
		p.stop(m.in, m.reason)
	}
}

// drained commits that a draining node runs nothing any more.
func (p *planner) drained() {
	running := map[string]bool{}
	for _, id := range p.slotIDs {
		if in := p.bySlot[id]; p.alive(in) && !p.ended(in) {
			running[in.Node] = true
		}
	}
	for _, h := range p.hosts {
		if h.node.State != cluster.NodeDraining || running[h.node.Name] || h.instances > 0 {
			continue
		}
		n := *h.node
		n.State, n.Reason = cluster.NodeDrained, "drained: it runs no services"
		p.act(Drained, n.Name, n.Reason, cluster.Txn{
			Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}},
			Puts:       []cluster.Put{{Key: n.Key(), Value: n}},
			Events: []cluster.Event{{
				Kind: cluster.EventNode, Subject: n.Name,
				Text: n.Name + " is drained: it runs no services any more", Why: "nothing is left of what it had",
			}},
		})
	}
}
