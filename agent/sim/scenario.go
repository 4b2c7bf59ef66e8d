package sim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Play runs a scenario: one step a line, # begins a comment. It stops at the first expectation that is
// not met; a violation of what is promised ends it too. The simulator is returned for its log.
//
//	nodes 3 [seed 7] [voters 3]                        first line: the cluster
//	deploy NAME [replicas N] [address A] [safety power] [global] [memory GiB] [spec HASH]
//	remove NAME
//	settle                                            until all runs, 30 s at most
//	wait 2s
//	power off|on NODE          freeze NODE standing|running          thaw NODE
//	agent stop|start NODE      link NODE eth0|eth1 up|down [in|out]  partition NODE...   heal
//	loss 30                    coordinator NODE                      fail NAME
//	drain NODE                 undrain NODE
//	bmc NODE ok|lie|hang|refuse|slow                   gives it a power controller, which behaves like that
//	confirm NODE                                       an operator says that it is off
//	expect NAME on NODE|NODE   expect NAME nowhere                   expect node NODE lost|online|...
//	expect outage NAME < 1.5s  expect outage NAME > 3s               (since the last fault before a settle)
//	expect event TEXT          expect no event TEXT   (since the settle before the last step that did something)
//
// NODE is a name, or the name of a service, which means the node that answers for it, or "coordinator",
// or "that": the node that was meant last.
func Play(script string) (*Sim, error) {
	p := &player{services: map[string]cluster.Service{}}
	for i, line := range strings.Split(script, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := p.step(words); err != nil {
			return p.sim, fmt.Errorf("line %d, %s: %w", i+1, strings.TrimSpace(line), err)
		}
		if p.sim != nil && len(p.sim.Violations) > 0 {
			return p.sim, fmt.Errorf("line %d, %s: %s", i+1, strings.TrimSpace(line), strings.Join(p.sim.Violations, "; "))
		}
	}
	return p.sim, nil
}

type player struct {
	sim      *Sim
	services map[string]cluster.Service
	that     string
	settled  int // length of the log at the end of the last settle
	mark     int // the same before the last step that did something: where to look for events
}

var errUsage = errors.New("unknown step, or words are missing")

func (p *player) step(w []string) error {
	if w[0] == "nodes" {
		return p.nodes(w)
	}
	if p.sim == nil {
		return errors.New("the first step must be: nodes N")
	}
	if w[0] == "expect" && len(w) > 2 {
		return p.expect(w[1:])
	}
	if w[0] == "deploy" && len(w) > 1 {
		p.mark = p.settled
		return p.deploy(w[1:])
	}
	s := p.sim
	if w[0] != "settle" {
		p.mark = p.settled
	}
	switch key := w[0]; {
	case key == "settle":
		if !s.Until(30*time.Second, func() bool { return len(s.Missing()) == 0 }) {
			return fmt.Errorf("after 30 s: %s", strings.Join(s.Missing(), "; "))
		}
		s.Run(500 * time.Millisecond)
		for _, pr := range s.probes {
			pr.Reset()
		}
		p.settled = len(s.Log)
		return nil
	case key == "heal":
		s.Heal()
		return nil
	case len(w) < 2:
		return errUsage
	case key == "wait":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			return err
		}
		s.Run(d)
		return nil
	case key == "loss":
		n, err := strconv.Atoi(w[1])
		s.Loss(float64(n) / 100)
		return err
	case key == "fail":
		s.Fail(w[1])
		return nil
	case key == "remove":
		s.Remove(p.services[w[1]])
		return nil
	case key == "partition":
		var names []string
		for _, n := range w[1:] {
			name, err := p.node(n)
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		s.Partition(names...)
		return nil
	}
	return p.machineStep(w)
}

func (p *player) machineStep(w []string) error {
	s, at := p.sim, 1
	if w[0] == "power" || w[0] == "agent" {
		at = 2
	}
	if len(w) <= at {
		return errUsage
	}
	name, err := p.node(w[at])
	if err != nil {
		return err
	}
	switch {
	case w[0] == "power" && w[1] == "off":
		s.PowerOff(name)
	case w[0] == "power" && w[1] == "on":
		s.PowerOn(name)
	case w[0] == "agent" && w[1] == "stop":
		s.StopAgent(name)
	case w[0] == "agent" && w[1] == "start":
		s.StartAgent(name)
	case w[0] == "freeze" && len(w) == 3 && (w[2] == "standing" || w[2] == "running"):
		s.Freeze(name, w[2])
	case w[0] == "thaw":
		s.Thaw(name)
	case w[0] == "link" && len(w) >= 4 && slices.Contains(lans, w[2]):
		s.Link(name, w[2], strings.Join(w[4:], ""), w[3] == "up")
	case w[0] == "bmc" && len(w) == 3:
		return s.BMC(name, w[2])
	case w[0] == "confirm":
		return s.Confirm(name)
	case w[0] == "drain":
		return s.Drain(name)
	case w[0] == "undrain":
		return s.Undrain(name)
	case w[0] == "coordinator":
		if !s.leads(s.machine(name)) {
			return fmt.Errorf("%s is no voter that reaches a majority", name)
		}
		s.leader = s.machine(name)
		s.spread()
		s.Run(100 * time.Millisecond)
	default:
		return errUsage
	}
	return nil
}

func (p *player) nodes(w []string) error {
	var n [3]int
	for i, key := range []string{"nodes", "seed", "voters"} {
		if j := slices.Index(w, key); j >= 0 && j+1 < len(w) {
			v, err := strconv.Atoi(w[j+1])
			if err != nil {
				return err
			}
			n[i] = v
		}
	}
	if n[0] < 1 || n[0] > 50 {
		return errors.New("want 1 to 50 nodes")
	}
	p.sim = New(Config{Nodes: n[0], Seed: uint64(n[1]), Voters: n[2], Skew: 0.002})
	return nil
}

func (p *player) deploy(w []string) error {
	svc := Service(w[0], 1, "")
	for i := 1; i < len(w); i++ {
		arg := ""
		if i+1 < len(w) {
			arg = w[i+1]
		}
		var err error
		switch w[i] {
		case "global":
			svc.Mode = cluster.ModeGlobal
			continue
		case "replicas":
			svc.Replicas, err = strconv.Atoi(arg)
		case "address":
			var a netip.Addr
			a, err = netip.ParseAddr(arg)
			svc.Floating = []netip.Addr{a}
		case "safety":
			svc.Safety = cluster.Safety(arg)
		case "memory":
			var gib int64
			gib, err = strconv.ParseInt(arg, 10, 64)
			svc.Reserve.Memory = gib << 30
		case "spec":
			svc.Hash = arg
		default:
			err = errUsage
		}
		if err != nil {
			return err
		}
		i++
	}
	p.services[svc.Name] = svc
	for _, a := range svc.Floating {
		p.sim.ProbeAddr(a)
	}
	p.sim.Deploy(svc)
	return nil
}

// node finds the node that a word means.
func (p *player) node(word string) (string, error) {
	switch {
	case word == "that":
	case word == "coordinator":
		if p.sim.leader == nil {
			return "", errors.New("there is no coordinator")
		}
		p.that = p.sim.leader.name
	case p.sim.machine(word) != nil:
		p.that = word
	default:
		at := p.where(word)
		if len(at) == 0 {
			return "", fmt.Errorf("%q is no node, and no service that runs", word)
		}
		p.that = at[0]
	}
	if p.that == "" {
		return "", errors.New("no node was named before")
	}
	return p.that, nil
}

// where a service runs in fact: where its address is answered, else where its containers are.
func (p *player) where(service string) []string {
	var out []string
	if addrs := p.services[service].Floating; len(addrs) > 0 {
		if o := p.sim.Owner(addrs[0]); o != "" {
			return []string{o}
		}
		return nil
	}
	for _, m := range p.sim.nodes {
		for _, c := range m.containers {
			if c.in.Service == service && c.live && m.works() && !slices.Contains(out, m.name) {
				out = append(out, m.name)
			}
		}
	}
	return out
}

func (p *player) expect(w []string) error {
	s := p.sim
	switch {
	case w[0] == "node" && len(w) == 3:
		n := s.Ledger.State().Node(w[1])
		if w[1] == "that" {
			n = s.Ledger.State().Node(p.that)
		}
		if n == nil || string(n.State) != w[2] {
			return fmt.Errorf("got %+v", n)
		}
	case w[0] == "outage" && len(w) == 4:
		d, err := time.ParseDuration(w[3])
		svc := p.services[w[1]]
		if err != nil || len(svc.Floating) == 0 {
			return errUsage
		}
		got := s.probes[svc.Floating[0]].Longest
		if w[2] == "<" && got >= d || w[2] == ">" && got <= d {
			return fmt.Errorf("got %v", got)
		}
	case w[0] == "event" || w[0] == "no":
		text := strings.TrimPrefix(strings.Join(w, " "), "no ")
		text = strings.TrimPrefix(text, "event ")
		found := slices.ContainsFunc(s.Log[p.mark:], func(l string) bool { return strings.Contains(l, text) })
		if found != (w[0] == "event") {
			return fmt.Errorf("found: %v", found)
		}
	case w[1] == "nowhere":
		if at := p.where(w[0]); len(at) > 0 {
			return fmt.Errorf("got %v", at)
		}
	case w[1] == "on" && len(w) == 3:
		at := p.where(w[0])
		for _, n := range at {
			if !slices.Contains(strings.Split(w[2], "|"), n) {
				return fmt.Errorf("got %v", at)
			}
		}
		if len(at) == 0 {
			return errors.New("got nowhere")
		}
	default:
		return errUsage
	}
	return nil
}
