package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/scenario"
)

// Play plays a scenario's text in a simulated cluster. The cluster is returned for its log and its ledger,
// the run for its timeline; both are nil if the text is no scenario.
func Play(text string) (*Sim, *scenario.Run, error) {
	script, err := scenario.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	st := NewStage(script.Cluster)
	run, err := scenario.Play(context.Background(), script, st)
	return st.sim, run, err
}

// Stage is a simulated cluster for scenarios. Its time is virtual.
type Stage struct {
	sim      *Sim
	services map[string]cluster.Service
	owners   scenario.Recorder
	machines scenario.Recorder
}

var _ scenario.Stage = (*Stage)(nil)

// sampleEvery is how fine the timeline is.
const sampleEvery = 20 * time.Millisecond

// NewStage makes a cluster that has formed.
func NewStage(c scenario.Cluster) *Stage {
	st := &Stage{
		sim:      New(Config{Nodes: c.Nodes, Seed: c.Seed, Voters: c.Voters, ClusterDisk: c.ClusterDisk, Skew: 0.002}),
		services: map[string]cluster.Service{},
	}
	st.sim.every(sampleEvery, st.sample)
	return st
}

// Name of this kind of stage.
func (st *Stage) Name() string { return "simulator" }

// Nodes of the cluster.
func (st *Stage) Nodes() []string {
	var out []string
	for _, m := range st.sim.nodes {
		out = append(out, m.name)
	}
	return out
}

// Can is nil: the simulator shows all there is.
func (st *Stage) Can(scenario.Action) error { return nil }

// Tolerance is none: virtual time is exact.
func (st *Stage) Tolerance() scenario.Tolerance { return scenario.Tolerance{} }

// Now is the virtual time.
func (st *Stage) Now() time.Duration { return st.sim.now }

// Wait runs the cluster.
func (st *Stage) Wait(_ context.Context, d time.Duration) error {
	st.sim.Run(d)
	return nil
}

// Settle waits 30 s at most, and half a second more.
func (st *Stage) Settle(context.Context) error {
	s := st.sim
	if !s.Until(30*time.Second, func() bool { return len(s.Missing()) == 0 }) {
		return fmt.Errorf("after 30 s: %s", strings.Join(s.Missing(), "; "))
	}
	s.Run(500 * time.Millisecond)
	return nil
}

// Broken are violations of what is promised.
func (st *Stage) Broken() []string { return st.sim.Violations }

// Takeovers so far.
func (st *Stage) Takeovers(context.Context) (int, error) { return st.sim.Takeovers, nil }

// Coordinator is who leads.
func (st *Stage) Coordinator(context.Context) (string, error) { return st.sim.Coordinator(), nil }

// NodeState is the ledger's.
func (st *Stage) NodeState(_ context.Context, node string) (string, error) {
	if n := st.sim.Ledger.State().Node(node); n != nil {
		return string(n.State), nil
	}
	return "", nil
}

// Boots of the machines that are on.
func (st *Stage) Boots(context.Context) (map[string]string, error) {
	out := map[string]string{}
	for _, m := range st.sim.nodes {
		out[m.name] = m.boot
	}
	return out, nil
}

// Pending is the coordinator's.
func (st *Stage) Pending(_ context.Context, service string) ([]string, error) {
	var out []string
	for _, p := range st.sim.Pending() {
		if p.Service == service {
			out = append(out, p.String())
		}
	}
	return out, nil
}

// Where a service is in true fact.
func (st *Stage) Where(_ context.Context, service string) ([]string, error) {
	if addrs := st.services[service].Floating; len(addrs) > 0 {
		if o := st.sim.Owner(addrs[0]); o != "" {
			return []string{o}, nil
		}
		return nil, nil
	}
	var out []string
	for _, m := range st.sim.nodes {
		if m.runs(service) {
			out = append(out, m.name)
		}
	}
	return out, nil
}

// runs tells whether a live container of the service is on a machine that works.
func (m *machine) runs(service string) bool {
	for _, c := range m.containers {
		if c.in.Service == service && c.live && m.works() {
			return true
		}
	}
	return false
}

// Events are the log, without what was done to the cluster.
func (st *Stage) Events(context.Context) ([]scenario.Event, error) {
	var out []scenario.Event
	for i, line := range st.sim.Log {
		text := line[logPrefix:]
		if !strings.HasPrefix(text, "--- ") {
			out = append(out, scenario.Event{At: st.sim.logAt[i], Node: st.about(text), Text: text})
		}
	}
	return out, nil
}

// about is the node that a line speaks of: what comes before a colon is who says so.
func (st *Stage) about(text string) string {
	by, rest, said := strings.Cut(text, ": ")
	if !said || st.sim.machine(by) == nil {
		by, rest = "", text
	}
	for _, w := range strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(" ,;:().", r) }) {
		if st.sim.machine(w) != nil {
			return w
		}
	}
	return by
}

// Outages that the client of a service's address has seen.
func (st *Stage) Outages(_ context.Context, service string) ([]scenario.Span, error) {
	addrs := st.services[service].Floating
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%s has no address that a client could ask for", service)
	}
	return st.outages(service, addrs[0]), nil
}

func (st *Stage) outages(service string, a netip.Addr) []scenario.Span {
	p := st.sim.probes[a]
	var out []scenario.Span
	for i, o := range p.Outages {
		out = append(out, scenario.Span{What: service, From: p.ends[i] - o, To: p.ends[i]})
	}
	if p.Owner != "" && st.sim.now-p.last > leastOutage {
		out = append(out, scenario.Span{What: service, From: p.last, To: st.sim.now})
	}
	return out
}

// History for the timeline.
func (st *Stage) History(context.Context) scenario.History {
	h := scenario.History{Owned: st.owners.Spans(st.sim.now), Machines: st.machines.Spans(st.sim.now)}
	for _, name := range st.names() {
		for _, a := range st.services[name].Floating {
			h.Outages = append(h.Outages, st.outages(name, a)...)
		}
	}
	return h
}

func (st *Stage) names() []string {
	names := make([]string, 0, len(st.services))
	for n := range st.services {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (st *Stage) sample() {
	var owned, unwell []scenario.Span
	for _, m := range st.sim.nodes {
		for _, name := range st.names() {
			at := m.runs(name)
			if addrs := st.services[name].Floating; at && len(addrs) > 0 {
				at = m.serves(addrs[0])
			}
			if at {
				owned = append(owned, scenario.Span{Node: m.name, What: name})
			}
		}
		switch {
		case !m.powered:
			unwell = append(unwell, scenario.Span{Node: m.name, What: "off"})
		case m.frozen != "":
			unwell = append(unwell, scenario.Span{Node: m.name, What: "frozen"})
		case !m.agent:
			unwell = append(unwell, scenario.Span{Node: m.name, What: "no agent"})
		}
	}
	st.owners.Observe(st.sim.now, owned)
	st.machines.Observe(st.sim.now, unwell)
}

// Do does one action.
func (st *Stage) Do(_ context.Context, a scenario.Action) error {
	s := st.sim
	switch a := a.(type) {
	case scenario.Deploy:
		st.deploy(a)
	case scenario.Remove:
		s.Remove(st.services[a.Service])
	case scenario.Fail:
		s.Fail(a.Service)
	case scenario.Hang:
		s.Hang(a.Service)
	case scenario.Power:
		if a.On {
			s.PowerOn(a.Node)
		} else {
			s.PowerOff(a.Node)
		}
	case scenario.Reboot:
		s.Reboot(a.Node, a.Fast)
	case scenario.Panic:
		s.Panic(a.Node)
	case scenario.Freeze:
		s.Freeze(a.Node, a.Clock)
	case scenario.Thaw:
		s.Thaw(a.Node)
	case scenario.Clock:
		s.WallClock(a.Node, a.By)
	case scenario.Agent:
		if a.Start {
			s.StartAgent(a.Node)
		} else {
			s.StopAgent(a.Node)
		}
	case scenario.Link:
		for _, l := range lans {
			if a.Link == l || a.Link == "all" {
				s.Link(a.Node, l, a.Direction, a.Up)
			}
		}
	case scenario.Partition:
		s.Split(a.Groups...)
	case scenario.Cut:
		s.Cut(a.From, a.To, a.OneWay)
	case scenario.Heal:
		s.Heal()
	case scenario.Loss:
		s.Loss(float64(a.Percent)/100, a.Jitter)
	case scenario.Copies:
		s.Copies(float64(a.Percent) / 100)
	case scenario.Corrupt:
		s.Corrupt(float64(a.Percent) / 100)
	case scenario.Drain:
		return s.Drain(a.Node)
	case scenario.Undrain:
		return s.Undrain(a.Node)
	case scenario.Confirm:
		return s.Confirm(a.Node)
	case scenario.Path:
		s.Path(a.Node, diskOf(a.Service), a.Up)
	case scenario.Disk:
		return s.Target(diskOf(a.Service), cmp.Or(map[string]string{"restarts": "reset", "forgets": "reset without aptpl"}[a.Fault], a.Fault))
	case scenario.BMC:
		return s.BMC(a.Node, a.Mode)
	case scenario.Coordinator:
		return st.lead(a.Node)
	default:
		return errors.New("the simulator does not know this step")
	}
	return nil
}

// diskOf is the disk of a service's volume.
func diskOf(service string) string { return "disk-of-" + service }

// Writes that the disk of a service has acknowledged.
func (st *Stage) Writes(_ context.Context, service string) (int, error) {
	t := st.sim.san.disks[diskOf(service)]
	if t == nil {
		return 0, fmt.Errorf("%s has no disk", service)
	}
	return t.acked, nil
}

func (st *Stage) lead(node string) error {
	s := st.sim
	m := s.machine(node)
	if !s.leads(m) {
		return fmt.Errorf("%s is no voter that reaches a majority", node)
	}
	s.leader = m
	s.spread()
	s.Run(100 * time.Millisecond)
	return nil
}

func (st *Stage) deploy(d scenario.Deploy) {
	svc := Service(d.Service, d.Replicas, "")
	svc.Safety, svc.Hash = cluster.Safety(d.Safety), d.Spec
	svc.Reserve.Memory = int64(d.Memory) << 30
	if d.Global {
		svc.Mode = cluster.ModeGlobal
	}
	if d.Volume {
		svc.Safety, svc.Volumes = cluster.SafetyStorage, []cluster.Volume{{Name: "data", Disk: diskOf(d.Service)}}
	}
	if d.Address.IsValid() {
		svc.Floating = []netip.Addr{d.Address}
		st.sim.ProbeAddr(d.Address)
	}
	st.services[svc.Name] = svc
	st.sim.Deploy(svc)
}
