package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/plan"
)

// Live makes a simulated cluster that is in the state of a real one: its nodes, voters, services and
// claims, with the same revisions, what runs runs, who is lost is off. coordinator is who leads, empty if
// nobody does. Only the network is the simulator's own: two LANs that lose nothing. cfg's Nodes and Voters
// are not used.
func Live(cfg Config, st *cluster.State, coordinator string) (*Sim, error) {
	cfg.Nodes, cfg.Voters = 0, 0
	s := empty(cfg, NewLedger(st.Meta))
	l := s.Ledger
	l.revision = max(st.Revision, 1)
	// A real node that was only chosen to be a voter has no member yet; simulated ones never have.
	members := slices.ContainsFunc(st.Nodes, func(n cluster.Node) bool { return n.MemberID != 0 })
	numbers := map[uint8]bool{}
	for i := range st.Nodes {
		n := st.Nodes[i]
		if numbers[n.Number] {
			return nil, fmt.Errorf("simulate %s: two nodes have the number %d", st.Meta.Name, n.Number)
		}
		numbers[n.Number] = true
		n.Links = links(n.Number)
		n.Voter = n.Voter && (n.MemberID != 0 || !members)
		m := &machine{
			sim: s, name: n.Name, number: n.Number, voter: n.Voter, rate: 1, like: &n,
			containers: map[string]*container{}, kindled: map[string]time.Duration{}, guard: map[netip.Addr]time.Duration{}, cut: map[string]bool{},
		}
		s.nodes = append(s.nodes, m)
		if n.State != cluster.NodeLost {
			m.newBoot()
			m.boot = n.BootID
			m.armWatchdog()
			if n.ResetAfter() > 0 {
				m.dog.until = m.clock() + n.Watchdog.Bound
			}
		}
		l.records[n.Key()] = record{value: n, created: n.Revision, change: n.Revision}
	}
	for _, v := range st.Services {
		s.provide(v)
		l.records[v.Key()] = record{value: v, created: v.Revision, change: v.Revision}
	}
	for _, v := range st.Watchdogs {
		l.records[v.Key()] = record{value: v, created: v.Revision, change: v.Revision}
	}
	for _, v := range st.SANs {
		l.records[v.Key()] = record{value: v, created: v.Revision, change: v.Revision}
	}
	for _, v := range st.Disks {
		l.records[v.Key()] = record{value: v, created: v.Revision, change: v.Revision}
	}
	for _, v := range st.Volumes {
		l.records[v.Key()] = record{value: v, created: v.Revision, change: v.Revision}
	}
	for _, v := range st.Statuses {
		l.records[v.Key()] = record{value: v, created: v.Revision, change: v.Revision}
	}
	for _, in := range st.Instances {
		epoch := int64(in.Epoch)
		l.records[in.Key()] = record{value: in, created: epoch, change: in.Revision}
		l.records[in.SlotKey()] = record{value: in.ID, created: epoch, change: epoch}
		m, status := s.machine(in.Node), st.Status(in.ID)
		if m == nil || m.boot != in.BootID || status == nil || status.State == cluster.InstancePending {
			continue
		}
		m.containers[in.ID] = &container{in: in, live: !status.State.Ended(), status: *status}
		s.holdVolumes(m, m.containers[in.ID])
		if !status.State.Ended() && status.State != cluster.InstanceRunning {
			c := m.containers[in.ID]
			m.later(c, cfg.Start, func() {
				if c.live && !c.stop {
					m.report(c, cluster.InstanceRunning)
				}
			})
		}
	}
	if err := l.Check(); err != nil {
		return nil, fmt.Errorf("simulate %s: %w", st.Meta.Name, err)
	}
	for _, m := range s.nodes {
		if m.powered {
			m.lives = 1 // each goes on with what it has: nothing of it is registered or started anew
			m.startAgent()
		}
	}
	if m := s.machine(coordinator); m != nil && s.leads(m) {
		s.leader = m
	} else {
		s.elect()
	}
	s.every(50*time.Millisecond, s.elect)
	return s, nil
}

// Coordinator is who leads now, empty if nobody does.
func (s *Sim) Coordinator() string {
	if s.leader == nil {
		return ""
	}
	return s.leader.name
}

// Quorum tells how many voters the ledger has, how many of them work, and whether they are enough.
func (s *Sim) Quorum() (all, up int, ok bool) {
	all, voters := s.seats()
	return all, len(voters), 2*len(voters) > all
}

// Rest runs until the ledger has not changed for quiet, at most d; it tells whether it came to rest.
func (s *Sim) Rest(quiet, d time.Duration) bool {
	rev, since := s.Ledger.revision, s.now
	for end := s.now + d; s.now < end; s.Run(50 * time.Millisecond) {
		if s.Ledger.revision != rev {
			rev, since = s.Ledger.revision, s.now
		}
		if s.now-since >= quiet {
			return true
		}
	}
	return false
}

// Where tells on which nodes which slots do their work in true fact, by the slot's name.
func (s *Sim) Where() map[string]string {
	out := map[string]string{}
	for i := range s.Ledger.State().Instances {
		in := &s.Ledger.State().Instances[i]
		m := s.machine(in.Node)
		if m == nil || m.boot != in.BootID || !m.works() {
			continue
		}
		c := m.containers[in.ID]
		if c == nil || !c.live || c.status.State != cluster.InstanceRunning {
			continue
		}
		if plan.HoldsFloating(in) && !slices.ContainsFunc(in.Spec.Floating, m.serves) {
			continue
		}
		out[fmt.Sprintf("%s/%s.%d", in.Stack, in.Service, in.Slot)] = in.Node
	}
	return out
}

// Heard is what a plan made now by a node that works would depend on: the coordinator, if there is one.
func (s *Sim) Heard() plan.Snapshot {
	for _, m := range append([]*machine{s.leader}, s.nodes...) {
		if m != nil && m.works() && m.brain != nil {
			return m.brain.Snapshot()
		}
	}
	return plan.Snapshot{State: s.Ledger.State()}
}

// Pending is what the coordinator cannot do now, with the reasons; nil if there is no coordinator.
func (s *Sim) Pending() []plan.Pending {
	if s.leader == nil || s.leader.brain == nil {
		return nil
	}
	return s.leader.brain.Pending()
}
