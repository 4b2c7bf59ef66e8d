package sim

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// checkAnswer looks whether anybody else answers on an address that m has just begun, or goes on, to
// answer on. As answers end by themselves, that is the only moment at which a second one can begin.
func (s *Sim) checkAnswer(m *machine, a netip.Addr) {
	if !m.answers(a) {
		return
	}
	for _, o := range s.nodes {
		if o == m || !o.answers(a) {
			continue
		}
		if o.frozen == "standing" || o.clock() < o.excused || m.clock() < m.excused {
			s.Excused++
			continue
		}
		s.violate("%v is answered by %s (guard ends in %v) and %s (in %v)", a,
			m.name, m.guard[a]-m.clock(), o.name, o.guard[a]-o.clock())
	}
}

// checkAlone looks whether another instance of the slot runs where that alone is harm.
func (s *Sim) checkAlone(m *machine, c *container) {
	if c.in.Spec.Safety != cluster.SafetyPower {
		return
	}
	for _, o := range s.nodes {
		for _, other := range o.containers {
			if o.powered && other.live && other != c && other.in.SlotKey() == c.in.SlotKey() {
				if o.dog.until > 0 && o.dog.stood {
					s.Excused++ // a paused machine whose clock stood: see package watchdog
					continue
				}
				s.violate("%s runs on %s while %s still runs on %s", c.in.ID, m.name, other.in.ID, o.name)
			}
		}
	}
}

// leastOutage is what a client would notice.
const leastOutage = 50 * time.Millisecond

// Probe is a client that asks all the time.
type Probe struct {
	last    time.Duration
	Outages []time.Duration // longer than leastOutage, each when it ended
	ends    []time.Duration // of Outages: when
	Longest time.Duration   // gap between two answers
	Owner   string          // who answered last
}

// ProbeAddr begins to ask for an address every 5 ms.
func (s *Sim) ProbeAddr(a netip.Addr) *Probe {
	if p := s.probes[a]; p != nil {
		return p
	}
	p := &Probe{last: s.now}
	s.probes[a] = p
	s.every(5*time.Millisecond, func() {
		for _, m := range s.nodes {
			if m.serves(a) {
				if gap := s.now - p.last; gap > leastOutage && p.Owner != "" {
					p.Outages, p.ends = append(p.Outages, gap), append(p.ends, s.now)
				}
				p.Longest = max(p.Longest, s.now-p.last)
				p.last, p.Owner = s.now, m.name
				return
			}
		}
		p.Longest = max(p.Longest, s.now-p.last)
	})
	return p
}

// Reset forgets what was, so that the next fault is measured alone.
func (p *Probe) Reset() { p.Longest = 0 }

// Missing tells what does not run that should, in true fact: empty if all is well.
func (s *Sim) Missing() []string {
	var out []string
	st := s.Ledger.State()
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if m := s.machine(n.Name); m != nil && m.works() && (n.State == cluster.NodeJoining || n.State == cluster.NodeLost) {
			out = append(out, fmt.Sprintf("%s is %s (%s)", n.Name, n.State, n.Reason))
		}
	}
	for i := range st.Services {
		svc := &st.Services[i]
		want := svc.Replicas
		if svc.Mode == cluster.ModeGlobal {
			want = 0
			for i := range st.Nodes {
				if st.Nodes[i].MayRun() {
					want++
				}
			}
		}
		running := 0
		for j := range st.Instances {
			in := &st.Instances[j]
			m := s.machine(in.Node)
			if in.Stack == svc.Stack && in.Service == svc.Name && in.Spec.Hash == svc.Hash && !in.Stop && m.boot == in.BootID && m.works() {
				if c := m.containers[in.ID]; c != nil && c.live && c.status.State == cluster.InstanceRunning {
					running++
				}
			}
		}
		if running != want {
			out = append(out, fmt.Sprintf("%s: %d of %d run", svc.FullName(), running, want))
		}
		for _, a := range svc.Floating {
			if svc.Replicas > 0 && s.Owner(a) == "" {
				out = append(out, fmt.Sprintf("%v of %s is not answered", a, svc.FullName()))
			}
		}
	}
	return out
}

// Owner is the machine that a client is served by at an address now.
func (s *Sim) Owner(a netip.Addr) string {
	for _, m := range s.nodes {
		if m.serves(a) {
			return m.name
		}
	}
	return ""
}
