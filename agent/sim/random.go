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
}

// sizes of the clusters of random histories. Three is what most have, and cheap: heartbeats cost nodes
// squared.
var sizes = []int{3, 2, 3, 4, 3, 5, 3, 6, 3, 4, 3, 7, 3, 5, 3, 8, 2, 4, 5, 9, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3}

// Random plays a random history of faults made from a seed, then mends everything and waits. The log is
// kept only if it is asked for; the history is the same without.
func Random(seed uint64, keepLog bool) Result { return random(seed, keepLog, nil) }

// random lets a test break something before.
func random(seed uint64, keepLog bool, change func(*Config)) Result {
	cfg := Config{
		Seed: seed, Skew: 0.004, Boot: 800 * time.Millisecond, Nodes: sizes[seed%uint64(len(sizes))],
		Tick: 30 * time.Millisecond, Quiet: !keepLog,
	}
	cfg.Witness = cfg.Nodes == 3 && seed/uint64(len(sizes))%4 == 1
	if change != nil {
		change(&cfg)
	}
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
	if s.rng.IntN(2) == 0 {
		sql := Service("sql", 1, "10.77.9.12")
		sql.Safety, sql.Volumes = cluster.SafetyStorage, []cluster.Volume{{Name: "data", Disk: "lun1"}}
		if s.rng.IntN(3) == 0 {
			sql.Volumes = append(sql.Volumes, cluster.Volume{Name: "log", Disk: "lun2"})
		}
		services = append(services, sql)
	}
	for _, svc := range services {
		s.Deploy(svc)
	}
	s.Run(s.between(500*time.Millisecond, 1500*time.Millisecond))
	var cuts []time.Duration
	if s.rng.IntN(10) == 0 {
		cuts = s.measureCut(netip.MustParseAddr("10.77.9.10"))
	}
	for range 3 + s.rng.IntN(6) {
		if len(s.san.disks) > 0 && s.rng.IntN(3) == 0 {
			s.storageFault()
		} else {
			s.fault(services)
		}
		s.Run(s.between(0, time.Second))
	}

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
		Virtual: s.now, Takeovers: s.Takeovers, Acked: s.san.acked(), Faults: s.Faults, Cuts: cuts, sim: s}
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
	s.PowerOff(owner.name)
	if !s.Until(20*time.Second, func() bool { return len(p.Outages) > 0 }) {
		return []time.Duration{p.Longest}
	}
	s.PowerOn(owner.name)
	return p.Outages
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
		s.Faults["power cut"]++
		s.PowerOff(m.name)
		later(func() { s.PowerOn(m.name) })
	case 3:
		clock := []string{"standing", "running", "running"}[s.rng.IntN(3)]
		s.Faults["freeze, clock "+clock]++
		s.Freeze(m.name, clock)
		later(func() { s.Thaw(m.name) })
	case 4:
		s.Faults["agent killed"]++
		s.StopAgent(m.name)
		later(func() { s.StartAgent(m.name) })
	case 5:
		s.Faults["node cut off"]++
		s.Partition(m.name)
		later(s.Heal)
	case 6:
		link := lans[s.rng.IntN(2)]
		dir := []string{"", "in", "out"}[s.rng.IntN(3)]
		s.Faults["link down"]++
		s.Link(m.name, link, dir, false)
		later(func() { s.Link(m.name, link, dir, true) })
	case 7:
		s.Faults["all links, one way each"]++
		for _, l := range lans {
			s.Link(m.name, l, []string{"in", "out"}[s.rng.IntN(2)], false)
		}
		later(s.Heal)
	case 8:
		if s.Drain(m.name) == nil {
			s.Faults["drain"]++
			later(func() { _ = s.Undrain(m.name) }) // it may be lost by then
		}
	case 9:
		s.Faults["new spec"]++
		svc.Hash = fmt.Sprint(2 + s.rng.IntN(9))
		s.Deploy(svc)
	case 10:
		s.Faults["service fails"]++
		s.Fail(svc.Name)
	case 11:
		s.Faults["service removed"]++
		s.Remove(svc)
		later(func() { s.Deploy(svc) })
	}
}
