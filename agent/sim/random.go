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
}

// Random plays a random history of faults made from a seed, then mends everything and waits.
func Random(seed uint64) Result {
	sizes := []int{3, 3, 3, 4, 5}
	cfg := Config{Seed: seed, Skew: 0.004, Boot: 1500 * time.Millisecond, Nodes: sizes[seed%uint64(len(sizes))]}
	s := New(cfg)
	if s.rng.IntN(3) == 0 {
		s.net.loss, s.net.copies, s.net.late = 0.2*s.rng.Float64(), 0.05, 300*time.Millisecond
	}
	services := []cluster.Service{Service("web", 1, "10.77.9.10"), Service("api", 2, "10.77.9.11"), Service("db", 1, "")}
	services[2].Safety = cluster.SafetyPower
	if s.rng.IntN(2) == 0 {
		log := Service("log", 0, "")
		log.Mode = cluster.ModeGlobal
		services = append(services, log)
	}
	for _, svc := range services {
		s.Deploy(svc)
	}
	s.Run(s.between(time.Second, 4*time.Second))
	for range 2 + s.rng.IntN(6) {
		s.fault(services)
		s.Run(s.between(0, 3*time.Second))
	}

	s.Heal()
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
	rest := false
	s.Run(3 * time.Second)
	for end := s.now + 120*time.Second; !rest && s.now < end; {
		if all, up := s.seats(); 2*len(up) <= all {
			break // too many voters forgot their log: nothing can be committed ever again
		}
		s.Until(end-s.now, func() bool { return len(s.Missing()) == 0 || len(s.Violations) > 0 })
		s.Run(4 * time.Second)
		rest = len(s.Missing()) == 0
	}
	r := Result{Quorum: s.leader != nil, Excused: s.Excused, Log: s.Log, sim: s}
	switch {
	case len(s.Violations) > 0:
		r.Err = fmt.Errorf("%s", strings.Join(s.Violations, "; "))
	case r.Quorum && !rest:
		r.Err = fmt.Errorf("not all runs again: %s", strings.Join(s.Missing(), "; "))
	}
	return r
}

func (s *Sim) fault(services []cluster.Service) {
	m := s.nodes[s.rng.IntN(len(s.nodes))]
	if s.rng.IntN(3) == 0 && s.leader != nil {
		m = s.leader
	} else if s.rng.IntN(3) == 0 {
		if o := s.machine(s.Owner(netip.MustParseAddr("10.77.9.10"))); o != nil {
			m = o
		}
	}
	svc := services[s.rng.IntN(len(services))]
	short := s.between(50*time.Millisecond, 3*time.Second)
	later := func(f func()) { s.after(short, f) }
	if m.frozen != "" {
		s.Thaw(m.name)
		return
	}
	switch s.rng.IntN(12) {
	case 0, 1, 2:
		if !m.powered {
			s.PowerOn(m.name)
			return
		}
		s.PowerOff(m.name)
		later(func() { s.PowerOn(m.name) })
	case 3:
		clock := []string{"standing", "running", "running"}[s.rng.IntN(3)]
		s.Freeze(m.name, clock)
		later(func() { s.Thaw(m.name) })
	case 4:
		s.StopAgent(m.name)
		later(func() { s.StartAgent(m.name) })
	case 5:
		s.Partition(m.name)
		later(s.Heal)
	case 6:
		link := lans[s.rng.IntN(2)]
		dir := []string{"", "in", "out"}[s.rng.IntN(3)]
		s.Link(m.name, link, dir, false)
		later(func() { s.Link(m.name, link, dir, true) })
	case 7:
		for _, l := range lans {
			s.Link(m.name, l, []string{"in", "out"}[s.rng.IntN(2)], false)
		}
		later(s.Heal)
	case 8:
		if s.Drain(m.name) == nil {
			later(func() { _ = s.Undrain(m.name) }) // it may be lost by then
		}
	case 9:
		svc.Hash = fmt.Sprint(2 + s.rng.IntN(9))
		s.Deploy(svc)
	case 10:
		s.Fail(svc.Name)
	case 11:
		s.Remove(svc)
		later(func() { s.Deploy(svc) })
	}
}
