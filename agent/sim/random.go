package sim

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Result of a random history.
type Result struct {
	Err     error // a violation, or a cluster that did not come to rest
	Quorum  bool  // the voters survived: then everything had to run again
	Excused int
	Log     []string
	sim     *Sim
	// For the report of a long run.
	Virtual   time.Duration
	Takeovers int
	Faults    map[string]int
	Acked     int // writes that reserved volumes acknowledged
	// Cuts are the outages of the address of web after a power cut of its owner, nothing else being
	// wrong: of histories whose first fault it was.
	Cuts []time.Duration
	// History is what was done, to be played again.
	History History
}

// sizes of the clusters of random histories. Three is what most have, and cheap: heartbeats cost nodes
// squared.
var sizes = []int{3, 2, 3, 4, 3, 5, 3, 6, 3, 4, 3, 7, 3, 5, 3, 8, 2, 4, 5, 9, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3}

// Random plays a random history of faults made from a seed, then mends everything and waits. The log is
// kept only if it is asked for; the history is the same without.
func Random(seed uint64, keepLog bool) Result { return random(seed, keepLog, nil) }

// random lets a test break something before.
func random(seed uint64, keepLog bool, change func(*Config)) Result {
	h := draw(seed)
	s, services := h.begin(keepLog, change)
	dice := s.dice
	s.Run(s.throw(500*time.Millisecond, 1500*time.Millisecond))
	var cuts []time.Duration
	if dice.IntN(10) == 0 {
		cuts = s.measureCut(netip.MustParseAddr("10.77.9.10"))
	}
	for range 3 + dice.IntN(6) {
		if len(s.san.disks) > 0 && dice.IntN(3) == 0 {
			s.storageFault()
		} else {
			s.fault(services)
		}
		s.Run(s.throw(0, time.Second))
	}
	h.End = s.now
	r := s.finish(services)
	h.Steps = s.steps
	r.Cuts, r.History = cuts, h
	return r
}

// throw is a random duration of the dice.
func (s *Sim) throw(a, b time.Duration) time.Duration {
	return a + time.Duration(s.dice.Int64N(int64(b-a)))
}

// finish mends everything, waits until the cluster has come to rest, and judges.
func (s *Sim) finish(services []cluster.Service) Result {
	cfg := s.cfg
	if cfg.ClusterDisk {
		s.Blackout(s.between(0, 800*time.Millisecond), s.between(0, 10*time.Second))
	}
	s.Heal()
	s.healSAN()
	for _, m := range s.nodes {
		s.Thaw(m.name)
		s.StartAgent(m.name)
		if !m.powered {
			s.PowerOn(m.name)
		}
		_ = s.Undrain(m.name) // most are not drained
	}
	for _, svc := range services {
		s.Deploy(svc)
	}
	// It must come to rest, and stay so.
	rest, forgot := false, false
	s.Run(time.Second)
	for end := s.now + 120*time.Second; !rest && s.now < end; {
		if all, up := s.seats(); 2*len(up) <= all && !cfg.ClusterDisk {
			forgot = true
			break // too many voters forgot their log: nothing can be committed ever again
		}
		s.Until(end-s.now, func() bool { return len(s.Missing()) == 0 || len(s.Violations) > 0 })
		s.Run(1500 * time.Millisecond)
		rest = len(s.Missing()) == 0
	}
	r := Result{Quorum: s.leader != nil && !forgot, Excused: s.Excused, Log: s.Log,
		Virtual: s.now, Takeovers: s.Takeovers, Acked: s.san.acked(), Faults: s.Faults, sim: s}
	switch {
	case len(s.Violations) > 0:
		r.Err = fmt.Errorf("%s", strings.Join(s.Violations, "; "))
	case r.Quorum && !rest:
		r.Err = fmt.Errorf("not all runs again: %s", strings.Join(s.Missing(), "; "))
	}
	return r
}

// measureCut cuts the power of the owner of an address and tells for how long nobody answered.
func (s *Sim) measureCut(a netip.Addr) []time.Duration {
	owner := s.machine(s.Owner(a))
	all, up := s.seats()
	if owner == nil || s.leader == nil || s.net.loss > 0 || owner.voter && 2*(len(up)-1) <= all {
		return nil
	}
	p := s.ProbeAddr(a)
	s.Run(20 * time.Millisecond)
	s.Faults["power cut"]++
	s.do("power off", owner.name)
	if !s.Until(20*time.Second, func() bool { return len(p.Outages) > 0 }) {
		return []time.Duration{p.Longest}
	}
	s.do("power on", owner.name)
	return p.Outages
}

func (s *Sim) fault(services []cluster.Service) {
	m := s.nodes[s.dice.IntN(len(s.nodes))]
	if s.dice.IntN(3) == 0 && s.leader != nil {
		m = s.leader
	} else if s.dice.IntN(3) == 0 {
		if o := s.machine(s.Owner(netip.MustParseAddr("10.77.9.10"))); o != nil {
			m = o
		}
	}
	svc := services[s.dice.IntN(len(services))]
	short := s.throw(50*time.Millisecond, 3*time.Second)
	later := func(what string, args ...string) { s.after(short, func() { s.do(what, args...) }) }
	if m.frozen != "" {
		s.do("thaw", m.name)
		return
	}
	switch s.dice.IntN(12) {
	case 0, 1, 2:
		if !m.powered {
			s.do("power on", m.name)
			return
		}
		s.Faults["power cut"]++
		s.do("power off", m.name)
		later("power on", m.name)
	case 3:
		clock := []string{"standing", "running", "running"}[s.dice.IntN(3)]
		s.Faults["freeze, clock "+clock]++
		s.do("freeze", m.name, clock)
		later("thaw", m.name)
	case 4:
		s.Faults["agent killed"]++
		s.do("agent stop", m.name)
		later("agent start", m.name)
	case 5:
		s.Faults["node cut off"]++
		s.do("partition", m.name)
		later("heal")
	case 6:
		link := lans[s.dice.IntN(2)]
		dir := []string{"", "in", "out"}[s.dice.IntN(3)]
		s.Faults["link down"]++
		s.do("link down", m.name, link, dir)
		later("link up", m.name, link, dir)
	case 7:
		s.Faults["all links, one way each"]++
		for _, l := range lans {
			s.do("link down", m.name, l, []string{"in", "out"}[s.dice.IntN(2)])
		}
		later("heal")
	case 8:
		if s.do("drain", m.name) == nil {
			s.Faults["drain"]++
			later("undrain", m.name) // it may be lost by then
		}
	case 9:
		s.Faults["new spec"]++
		s.do("deploy", svc.Name, fmt.Sprint(2+s.dice.IntN(9)))
	case 10:
		s.Faults["service fails"]++
		s.do("fail", svc.Name)
	case 11:
		s.Faults["service removed"]++
		s.do("remove", svc.Name)
		later("deploy", svc.Name, svc.Hash)
	}
}
