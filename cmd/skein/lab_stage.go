package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/scenario"
	"github.com/skein-os/skein/agent/workload"
	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/bmc"
	"github.com/skein-os/skein/qemu/daemon"
)

// labStage is a lab's cluster for scenarios. It has a stack of its own, and takes away the cluster's way to
// the power controllers until a scenario gives it one: else every machine that is lost would be switched off.
type labStage struct {
	lab     *daemon.Client
	cluster *api.Client
	dir     string
	dial    func(ctx context.Context, network, hostPort string) (net.Conn, error)
	nodes   []string
	slack   float64

	begin    time.Time
	services map[string]cluster.Service
	order    []string // of services, as deployed
	watch    *labWatch
}

var _ scenario.Stage = (*labStage)(nil)

const (
	// scenarioStack is the one that the simulator uses too, as events name it.
	scenarioStack = "demo"
	// scenarioImage is what every service of a scenario runs; `skein lab up --demo` loads it.
	scenarioImage = "demo/web:1"
	// settleTime bounds a settle in the lab: machines boot, voters catch up, under emulation.
	settleTime = 4 * time.Minute
	// labPatience is how late something that is expected may come.
	labPatience = 30 * time.Second
)

func (s *labStage) Name() string       { return "lab" }
func (s *labStage) Nodes() []string    { return s.nodes }
func (s *labStage) Now() time.Duration { return time.Since(s.begin) }
func (s *labStage) Broken() []string   { return nil }

func (s *labStage) Tolerance() scenario.Tolerance {
	return scenario.Tolerance{Patience: labPatience, Slack: s.slack}
}

// Can tells what virtual machines and their switches cannot show.
func (s *labStage) Can(a scenario.Action) error {
	switch a := a.(type) {
	case scenario.Agent:
		return errors.New("nobody can stop an agent from outside: its PID 1 starts it again")
	case scenario.Fail, scenario.Hang:
		return errors.New("the image it runs does not misbehave on order")
	case scenario.Panic:
		return errors.New("there is no way to make a guest's kernel panic from outside")
	case scenario.Clock:
		return errors.New("a guest's wall clock is its own")
	case scenario.Reboot:
		if a.Fast {
			return errors.New("a machine takes seconds to boot")
		}
	case scenario.Path, scenario.Disk, scenario.Writes:
		return errors.New("the lab has no disks yet")
	case scenario.Deploy:
		if a.Volume {
			return errors.New("the lab has no disks yet")
		}
	case scenario.Cut, scenario.Copies, scenario.Corrupt:
		return errors.New("the switches have no such fault")
	}
	return nil
}

// Writes to a volume: there is none.
func (s *labStage) Writes(context.Context, string) (int, error) {
	return 0, errors.New("the lab has no disks yet")
}

// Wait until ctx ends or d has passed.
func (s *labStage) Wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Settle waits until every machine that works is a member, as many vote as should, and all services run and
// answer.
func (s *labStage) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	last := "no answer"
	for quiet := 0; quiet < 3; {
		missing, err := s.missing(ctx)
		switch {
		case err != nil:
			quiet, last = 0, err.Error()
		case len(missing) > 0:
			quiet, last = 0, strings.Join(missing, "; ")
		default:
			quiet++
		}
		if s.Wait(ctx, 500*time.Millisecond) != nil {
			return fmt.Errorf("not settled after %v: %s", settleTime, last)
		}
	}
	return nil
}

func (s *labStage) missing(ctx context.Context) ([]string, error) {
	works, err := s.working(ctx)
	if err != nil {
		return nil, err
	}
	st, err := s.cluster.Status(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	if st.Coordinator == "" || st.Frozen {
		out = append(out, "there is no coordinator")
	}
	voters, members := 0, 0
	for _, n := range st.Nodes {
		if !works[n.Name] {
			continue
		}
		if members++; n.Voter {
			voters++
		}
		if n.State == cluster.NodeLost || n.State == cluster.NodeJoining || n.Restarting {
			out = append(out, fmt.Sprintf("%s is %s", n.Name, n.State))
		}
	}
	if want := min(3, members); voters < want && want != 2 {
		out = append(out, fmt.Sprintf("%d of %d vote", voters, want))
	}
	if members < len(works) {
		out = append(out, fmt.Sprintf("%d of %d machines are members", members, len(works)))
	}
	for _, name := range s.order {
		i := slices.IndexFunc(st.Services, func(v api.ServiceStatus) bool { return v.Stack == scenarioStack && v.Name == name })
		switch {
		case i < 0:
			out = append(out, name+" is not deployed yet")
		case st.Services[i].Running != st.Services[i].Wanted || len(st.Services[i].Instances) != st.Services[i].Wanted:
			out = append(out, describeMissing(st.Services[i]))
		case len(s.services[name].Floating) > 0 && !s.watch.answers(name):
			out = append(out, name+" does not answer")
		case len(s.services[name].Floating) > 0 && !s.watch.steady(name):
			out = append(out, fmt.Sprintf("%s had an outage in the last %v", name, calm))
		}
	}
	return out, nil
}

// working machines by name, as the lab knows: on and not frozen.
func (s *labStage) working(ctx context.Context) (map[string]bool, error) {
	st, err := s.lab.State(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, m := range st.Machines {
		if m.State == qemu.Running && m.Clock == "" {
			out[m.Name] = true
		}
	}
	return out, nil
}

// ask is for questions that any node can answer: the one that was asked may be the one that just died.
func (s *labStage) ask(ctx context.Context) (api.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, labPatience)
	defer cancel()
	for {
		st, err := s.cluster.Status(ctx)
		if err == nil || ctx.Err() != nil {
			return st, err
		}
		if s.Wait(ctx, 200*time.Millisecond) != nil {
			return st, err
		}
	}
}

// Coordinator asks the cluster.
func (s *labStage) Coordinator(ctx context.Context) (string, error) {
	st, err := s.ask(ctx)
	return st.Coordinator, err
}

// NodeState asks the cluster.
func (s *labStage) NodeState(ctx context.Context, node string) (string, error) {
	st, err := s.ask(ctx)
	for _, n := range st.Nodes {
		if n.Name == node {
			return string(n.State), err
		}
	}
	return "", err
}

// Boots asks the cluster: a new boot counts when it has joined.
func (s *labStage) Boots(ctx context.Context) (map[string]string, error) {
	st, err := s.ask(ctx)
	out := map[string]string{}
	for _, n := range st.Nodes {
		out[n.Name] = n.BootID
	}
	return out, err
}

// Pending asks the cluster.
func (s *labStage) Pending(ctx context.Context, service string) ([]string, error) {
	st, err := s.ask(ctx)
	for _, v := range st.Services {
		if v.Stack == scenarioStack && v.Name == service {
			return v.Pending, err
		}
	}
	return nil, err
}

// Where a service is: nowhere if its address does not answer; else where the cluster says, of the machines
// that work.
func (s *labStage) Where(ctx context.Context, service string) ([]string, error) {
	addressed := len(s.services[service].Floating) > 0
	if addressed && !s.watch.answers(service) {
		return nil, nil
	}
	works, err := s.working(ctx)
	if err != nil {
		return nil, err
	}
	st, err := s.ask(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, v := range st.Services {
		for _, in := range v.Instances {
			if v.Stack == scenarioStack && v.Name == service && in.State == cluster.InstanceRunning && works[in.Node] &&
				(!addressed || in.Slot == 1) && !slices.Contains(out, in.Node) {
				out = append(out, in.Node)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// Do does one action.
func (s *labStage) Do(ctx context.Context, a scenario.Action) error {
	call := func(c daemon.Call) error { return s.lab.Call(ctx, c) }
	switch a := a.(type) {
	case scenario.Deploy:
		return s.deploy(ctx, a)
	case scenario.Remove:
		delete(s.services, a.Service)
		s.order = slices.DeleteFunc(s.order, func(n string) bool { return n == a.Service })
		return s.apply(ctx)
	case scenario.Power:
		op := daemon.OpPowerOff
		if a.On {
			op = daemon.OpPowerOn
		}
		return call(daemon.Call{Op: op, Node: a.Node})
	case scenario.Reboot:
		return call(daemon.Call{Op: daemon.OpReset, Node: a.Node})
	case scenario.Freeze:
		return call(daemon.Call{Op: daemon.OpFreeze, Node: a.Node, Clock: qemu.Clock(a.Clock)})
	case scenario.Thaw:
		return call(daemon.Call{Op: daemon.OpThaw, Node: a.Node})
	case scenario.Link:
		return s.link(ctx, a)
	case scenario.Partition:
		return call(daemon.Call{Op: daemon.OpPartition, Groups: a.Groups})
	case scenario.Heal:
		return call(daemon.Call{Op: daemon.OpHeal})
	case scenario.Loss:
		return s.loss(ctx, a)
	case scenario.Drain:
		return s.nodeAction(ctx, a.Node, "drain")
	case scenario.Undrain:
		return s.nodeAction(ctx, a.Node, "undrain")
	case scenario.Confirm:
		_, err := s.cluster.ConfirmOff(ctx, a.Node)
		return err
	case scenario.BMC:
		if err := call(daemon.Call{Op: daemon.OpBMC, Node: a.Node, Mode: bmc.Mode(a.Mode)}); err != nil {
			return err
		}
		return setLabBMCs(ctx, s.cluster, s.dir, a.Node)
	case scenario.Coordinator:
		return s.lead(ctx, a.Node)
	}
	return errors.New("the lab does not know this step")
}

func (s *labStage) nodeAction(ctx context.Context, node, action string) error {
	return s.again(ctx, func(ctx context.Context) error { return s.cluster.NodeAction(ctx, node, action) })
}

func (s *labStage) link(ctx context.Context, a scenario.Link) error {
	for _, l := range []string{"eth0", "eth1"} {
		if a.Link != l && a.Link != "all" {
			continue
		}
		call := daemon.Call{Op: daemon.OpLink, Node: a.Node, Interface: l, Up: a.Up}
		if a.Direction != "" { // the carrier stays: nothing passes that way
			call = daemon.Call{Op: daemon.OpLoss, Node: a.Node, Interface: l, Directions: []string{a.Direction}, Loss: 1}
			if a.Up {
				call.Loss = 0
			}
		}
		if err := s.lab.Call(ctx, call); err != nil {
			return err
		}
	}
	return nil
}

// loss is of frames here: connections feel it too.
func (s *labStage) loss(ctx context.Context, a scenario.Loss) error {
	for _, n := range s.nodes {
		for _, l := range []string{"eth0", "eth1"} {
			out := []string{"out"}
			for _, call := range []daemon.Call{
				{Op: daemon.OpLoss, Node: n, Interface: l, Directions: out, Loss: float64(a.Percent) / 100},
				{Op: daemon.OpDelay, Node: n, Interface: l, Directions: out, Delay: a.Jitter / 2, Jitter: a.Jitter / 2},
			} {
				if err := s.lab.Call(ctx, call); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// lead makes a node the coordinator: as long as it is another one, that one's agent is told to begin anew,
// and hands over. Then all is waited for that this has moved.
func (s *labStage) lead(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		now, err := s.Coordinator(ctx)
		switch {
		case err != nil:
			return err
		case now == node:
			return s.Settle(ctx)
		case now != "":
			if err := s.cluster.NodeAction(ctx, now, "restart-agent"); err != nil {
				return fmt.Errorf("have %s hand over: %w", now, err)
			}
			if err := s.Settle(ctx); err != nil {
				return err
			}
		}
		if err := s.Wait(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("make %s the coordinator: it did not come to that in %v", node, settleTime)
		}
	}
}

func (s *labStage) deploy(ctx context.Context, d scenario.Deploy) error {
	list, _, err := workload.Parse(ctx, "scenario", []byte(composeOf(d)), scenarioStack, nil)
	if err != nil {
		return err
	}
	s.services[d.Service] = list[0]
	if !slices.Contains(s.order, d.Service) {
		s.order = append(s.order, d.Service)
	}
	if err := s.apply(ctx); err != nil {
		return err
	}
	if d.Address.IsValid() {
		return s.watch.ask(d.Service, d.Address)
	}
	return nil
}

// apply deploys the stack as it should be now.
func (s *labStage) apply(ctx context.Context) error {
	var list []cluster.Service
	for _, n := range s.order {
		list = append(list, s.services[n])
	}
	return s.again(ctx, func(ctx context.Context) error {
		_, err := s.cluster.Deploy(ctx, scenarioStack, list)
		return err
	})
}

// again gives an order until the cluster takes or refuses it: the ledger may be changing hands, the node that
// was asked may be the one that just died. What is to go and is gone already counts as done.
func (s *labStage) again(ctx context.Context, order func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, labPatience)
	defer cancel()
	for {
		err := order(ctx)
		var refused *api.ResponseError
		is := errors.As(err, &refused)
		switch {
		case err == nil, is && refused.Status == http.StatusNotFound:
			return nil
		case is && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusConflict:
			return err
		}
		if s.Wait(ctx, 300*time.Millisecond) != nil {
			return err
		}
	}
}

// composeOf is a service as a Compose file.
func composeOf(d scenario.Deploy) string {
	mode := fmt.Sprintf("replicas: %d", d.Replicas)
	if d.Global {
		mode = "mode: global"
	}
	memory := 16
	if d.Memory > 0 {
		memory = d.Memory << 10
	}
	ports, address := "", ""
	if d.Address.IsValid() {
		ports, address = `    ports: ["80:80"]`+"\n", fmt.Sprintf("addresses: [%s], ", d.Address)
	}
	return fmt.Sprintf(`services:
  %s:
    image: %s
    read_only: true
    tmpfs: [/tmp]
    environment: {SPEC: %q}
    stop_grace_period: 6s
    healthcheck: {interval: 5s, timeout: 5s, retries: 3, start_period: 10s}
%s    deploy:
      %s
      resources: {reservations: {memory: %dM}}
    x-skein: {%shealth: "http://:80/health", safety: %s}
`, d.Service, scenarioImage, d.Spec, ports, mode, memory, address, d.Safety)
}
