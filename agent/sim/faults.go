package sim

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// PowerOff cuts the power: everything in memory is gone at once.
func (s *Sim) PowerOff(name string) {
	s.Logf("--- %s loses power", name)
	s.machine(name).powerOff()
}

// PowerOn starts a machine in a new boot.
func (s *Sim) PowerOn(name string) {
	s.Logf("--- %s is powered on", name)
	s.machine(name).powerOn()
}

// Freeze stops a machine's programs; its clock is "standing" or "running" meanwhile.
func (s *Sim) Freeze(name, clock string) {
	s.Logf("--- %s is frozen, its clock is %s", name, clock)
	s.machine(name).freeze(clock)
}

// Thaw lets it go on.
func (s *Sim) Thaw(name string) {
	s.Logf("--- %s is thawed", name)
	s.machine(name).thaw()
}

// StopAgent kills the agent; containers and the kernel go on, and the kernel sends the agent's will.
func (s *Sim) StopAgent(name string) {
	if m := s.machine(name); m.powered && m.agent {
		s.Logf("--- the agent of %s is killed", name)
		m.endAgent()
		m.sendWill()
	}
}

// StartAgent starts it again in the same boot.
func (s *Sim) StartAgent(name string) {
	if m := s.machine(name); m.powered && !m.agent && m.boot != "" {
		s.Logf("--- the agent of %s is started", name)
		m.do(m.startAgent)
	}
}

// Link cuts or mends one link of a machine, in one direction ("in", "out") or both ("").
func (s *Sim) Link(name, link, direction string, up bool) {
	s.Logf("--- link %s of %s %s: up %v", link, name, direction, up)
	for _, d := range []string{"in", "out"} {
		if direction == "" || direction == d {
			s.machine(name).cut[link+" "+d] = !up
		}
	}
}

// Partition separates the named machines from all others.
func (s *Sim) Partition(names ...string) { s.Split(names) }

// Split separates groups of machines from each other and from all others.
func (s *Sim) Split(groups ...[]string) {
	s.Logf("--- partition: %v and the others", groups)
	s.net.side = map[string]int{}
	for i, g := range groups {
		for _, n := range g {
			s.net.side[n] = i + 1
		}
	}
}

// Cut separates two machines, or keeps what the first sends from the second.
func (s *Sim) Cut(from, to string, oneWay bool) {
	s.Logf("--- cut: %s to %s, one way %v", from, to, oneWay)
	if s.net.cuts == nil {
		s.net.cuts = map[[2]string]bool{}
	}
	s.net.cuts[[2]string{from, to}] = true
	if !oneWay {
		s.net.cuts[[2]string{to, from}] = true
	}
}

// Heal mends all links and partitions, and the network loses nothing any more.
func (s *Sim) Heal() {
	s.Logf("--- the network is healed")
	s.net.side, s.net.cuts, s.net.loss, s.net.copies, s.net.late, s.net.jitter, s.net.broken = nil, nil, 0, 0, 0, 0, 0
	for _, m := range s.nodes {
		clear(m.cut)
	}
}

// Loss makes the network lose this share of datagrams, and delay each by up to jitter.
func (s *Sim) Loss(share float64, jitter time.Duration) {
	s.Logf("--- the network loses %.0f%%, its delay varies by %v", 100*share, jitter)
	s.net.loss, s.net.jitter = share, jitter
}

// Copies makes this share of datagrams arrive twice.
func (s *Sim) Copies(share float64) {
	s.Logf("--- the network copies %.0f%%", 100*share)
	s.net.copies = share
}

// Corrupt flips one bit in this share of datagrams. That one of them is taken is a violation.
func (s *Sim) Corrupt(share float64) {
	s.Logf("--- the network flips a bit of %.0f%%", 100*share)
	s.net.broken = share
}

// Reboot begins a new boot; fast: the agent is back before anybody suspects the machine.
func (s *Sim) Reboot(name string, fast bool) {
	s.Logf("--- %s reboots, fast: %v", name, fast)
	m := s.machine(name)
	m.powerOff()
	if fast {
		m.newBoot()
		m.agentAfter(fastBoot)
	} else {
		m.powerOn()
	}
}

// fastBoot is less than the silence that makes a node suspect.
const fastBoot = 100 * time.Millisecond

// Panic ends the kernel: with panic=-1, as our images have it, it reboots at once. It gets to send nothing.
func (s *Sim) Panic(name string) {
	s.Logf("--- the kernel of %s panics", name)
	s.machine(name).powerOff()
	s.machine(name).powerOn()
}

// WallClock makes a machine's clock for people jump.
func (s *Sim) WallClock(name string, by time.Duration) {
	s.Logf("--- the wall clock of %s jumps by %v", name, by)
	s.machine(name).wall += by
}

// Hang makes the instances of a service ignore that they are told to stop.
func (s *Sim) Hang(service string) {
	s.Logf("--- the instances of %s do not stop when told", service)
	if s.hung == nil {
		s.hung = map[string]bool{}
	}
	s.hung[service] = true
}

// Fail makes an instance of a service give up on its node.
func (s *Sim) Fail(service string) {
	for _, m := range s.nodes {
		if !m.works() {
			continue
		}
		for _, in := range s.Ledger.State().Instances {
			if c := m.containers[in.ID]; in.Service == service && c != nil && c.live && !c.stop {
				s.Logf("--- %s fails on %s", in.ID, m.name)
				m.exit(c, cluster.InstanceFailed)
				return
			}
		}
	}
}

// Deploy writes a service as an operator does.
func (s *Sim) Deploy(svc cluster.Service) {
	s.provide(svc)
	s.Logf("--- deploy %s, %d replicas, spec %s", svc.FullName(), svc.Replicas, svc.Hash)
	s.operate(cluster.Txn{Puts: []cluster.Put{{Key: svc.Key(), Value: svc}}})
}

// Remove takes a service away.
func (s *Sim) Remove(svc cluster.Service) {
	s.Logf("--- remove %s", svc.FullName())
	s.operate(cluster.Txn{Deletes: []string{svc.Key()}})
}

// Drain asks a node to hand over what it has.
func (s *Sim) Drain(name string) error {
	return s.setState(name, cluster.NodeOnline, cluster.NodeDraining)
}

// Undrain lets it work again.
func (s *Sim) Undrain(name string) error {
	if s.setState(name, cluster.NodeDrained, cluster.NodeOnline) == nil {
		return nil
	}
	return s.setState(name, cluster.NodeDraining, cluster.NodeOnline)
}

func (s *Sim) setState(name string, from, to cluster.NodeState) error {
	n := s.Ledger.State().Node(name)
	if n == nil || n.State != from {
		return fmt.Errorf("%s is not %s", name, from)
	}
	s.Logf("--- an operator makes %s %s", name, to)
	v := *n
	v.State = to
	s.operate(cluster.Txn{Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}}, Puts: []cluster.Put{{Key: v.Key(), Value: v}}})
	return nil
}

// operate is an operator who tries until there is a coordinator to take it.
func (s *Sim) operate(t cluster.Txn) {
	if s.leader == nil || !s.leads(s.leader) {
		s.after(100*time.Millisecond, func() { s.operate(t) })
		return
	}
	s.Ledger.Commit(t)
	s.spread()
}

// Service is a small web service with a floating address.
func Service(name string, replicas int, address string) cluster.Service {
	svc := cluster.Service{
		Stack: "demo", Name: name, Mode: cluster.ModeReplicated, Replicas: replicas, Safety: cluster.SafetyLease, Hash: "1",
	}
	if address != "" {
		svc.Floating = []netip.Addr{netip.MustParseAddr(address)}
		svc.Ports = []cluster.Port{{Target: 80, Published: 80, Protocol: "tcp"}}
	}
	return svc
}
