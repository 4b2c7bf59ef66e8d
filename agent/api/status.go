package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"sort"
	"strconv"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
)

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, s.Status())
	return nil
}

// Status puts the cluster's state together as people and scripts want to see it.
func (s *Server) Status() Status {
	st := s.backend.State()
	out := Status{
		Cluster:     st.Meta.Name,
		Coordinator: s.backend.Coordinator(),
		Answered:    s.backend.Self(),
		Memory:      s.backend.Memory(),
		Nodes:       []NodeStatus{},
		Services:    []ServiceStatus{},
	}
	if out.Coordinator == "" {
		out.Problems = append(out.Problems, "no coordinator: fewer than half of the voters answer; what runs goes on, nothing new can start")
	}
	seen := s.backend.Observe()
	becoming := becomingVoters(st)
	if seen.Frozen != nil {
		out.Frozen = true
		out.Problems = append(out.Problems, fmt.Sprintf("the ledger has lost its majority, this is the copy of %s: %s", out.Answered, strings.Join(seen.Frozen, "; ")))
	}
	for i := range st.Nodes {
		ns := nodeStatus(st, &st.Nodes[i], seen)
		if becoming[ns.Name] {
			ns.State, ns.Reason = cluster.NodeJoining, "becoming a voter: its copy of the ledger is not complete"
		}
		out.Nodes = append(out.Nodes, ns)
		if ns.Quarantine != "" {
			out.Warnings = append(out.Warnings, fmt.Sprintf("node %s is %s: it gets only what no other node can run; 'skein node release %[1]s' ends that early", ns.Name, ns.Quarantine))
		}
		if ns.State == cluster.NodeLost || ns.State == cluster.NodeJoining {
			out.Problems = append(out.Problems, fmt.Sprintf("node %s is %s: %s", ns.Name, ns.State, ns.Reason))
		} else if st.Nodes[i].Fetching {
			out.Problems = append(out.Problems, fmt.Sprintf("node %s has joined and still gets ready (images, containers made ahead): what it took over now would start late", ns.Name))
		} else if seen.Restarting[ns.Name] {
			out.Problems = append(out.Problems, fmt.Sprintf("node %s: its agent is restarting, its services go on", ns.Name))
		}
	}
	if have, want := voters(st); have < want {
		out.Problems = append(out.Problems, fmt.Sprintf("the ledger has %d of %d voters: until the next one has its copy complete, the loss of one more stops all decisions", have, want))
	}
	if w := st.PairWarning(); w != "" {
		out.Warnings = append(out.Warnings, w)
	}
	out.Warnings = append(out.Warnings, cablingWarnings(st)...)
	for i := range st.Services {
		ss := serviceStatus(st, &st.Services[i], seen)
		if ss.Running < ss.Wanted {
			out.Problems = append(out.Problems, fmt.Sprintf("service %s/%s: %d of %d running", ss.Stack, ss.Name, ss.Running, ss.Wanted))
		}
		if u := ss.Update; u != nil && u.State == cluster.UpdatePaused {
			out.Warnings = append(out.Warnings, fmt.Sprintf("the update of %s/%s is paused: %s; deploy a version that is mended, or go back with 'skein rollback %[1]s/%[2]s'",
				ss.Stack, ss.Name, u.Message))
		}
		out.Services = append(out.Services, ss)
	}
	out.Healthy = len(out.Problems) == 0 && len(out.Nodes) > 0
	return out
}

// voters counts the living voters of the ledger, and how many there should be: three, or one while there
// are too few nodes for three.
func voters(st *cluster.State) (have, want int) {
	alive := 0
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.State == cluster.NodeLost || n.State == cluster.NodeJoining {
			continue
		}
		alive++
		if n.MemberID != 0 {
			have++
		}
	}
	if want = 3; alive < want {
		want = 1
	}
	return have, want
}

// becomingVoters are the nodes that work already but are to be voters and are none yet: those that are
// marked, and while there are not enough marks, those that will be for certain, as no other node is left to
// choose. They are shown as joining: who waits for a node to be online before the next one is turned off
// would otherwise turn off a voter that the ledger cannot be without.
func becomingVoters(st *cluster.State) map[string]bool {
	_, want := voters(st)
	have := 0
	var marked, others []string
	for i := range st.Nodes {
		switch n := &st.Nodes[i]; {
		case n.State == cluster.NodeLost:
		case n.MemberID != 0:
			have++
		case n.Voter:
			marked = append(marked, n.Name)
		case n.State != cluster.NodeDraining:
			others = append(others, n.Name)
		}
	}
	if missing := want - have - len(marked); missing > 0 && len(others) <= missing {
		marked = append(marked, others...)
	}
	out := map[string]bool{}
	for _, name := range marked {
		if st.Node(name).State == cluster.NodeOnline {
			out[name] = true
		}
	}
	return out
}

func nodeStatus(st *cluster.State, n *cluster.Node, seen Observation) NodeStatus {
	ns := NodeStatus{
		Name: n.Name, State: n.State, Reason: n.Reason, Address: st.Meta.Network.NodeAddr(n.Number),
		Addresses: []string{}, Links: []LinkStatus{}, Epoch: n.Epoch, BootID: n.BootID, Voter: n.Voter, Witness: n.Witness,
		CPUs: n.CPUs, Memory: n.Memory, Version: n.Version, Restarting: seen.Restarting[n.Name], Quarantine: n.Quarantine(),
	}
	if ns.Restarting {
		ns.Reason = "its agent is restarting"
	}
	for _, l := range n.Links {
		ns.Addresses = append(ns.Addresses, l.Addr.Addr().String())
		link, known := seen.Links[PeerLink{n.Name, l.Name}]
		if !known {
			link.State = "unknown"
		}
		link.Name, link.Address = l.Name, l.Addr.String()
		ns.Links = append(ns.Links, link)
	}
	for i := range st.Instances {
		if in := &st.Instances[i]; in.Node == n.Name && in.BootID == n.BootID {
			ns.Instances++
		}
	}
	return ns
}

func serviceStatus(st *cluster.State, svc *cluster.Service, seen Observation) ServiceStatus {
	ss := ServiceStatus{
		Stack: svc.Stack, Name: svc.Name, Mode: svc.Mode, Safety: svc.Safety, Image: svc.Image,
		Wanted: wanted(st, svc), Addresses: []string{}, Instances: []InstanceStatus{},
		Pending: seen.Pending[svc.FullName()], Update: updateStatus(st, svc),
	}
	for _, a := range svc.Floating {
		if len(svc.Ports) == 0 {
			ss.Addresses = append(ss.Addresses, a.String())
		}
		for _, p := range svc.Ports {
			ss.Addresses = append(ss.Addresses, netip.AddrPortFrom(a, p.Published).String())
		}
	}
	for i := range st.Instances {
		in := &st.Instances[i]
		if in.Stack != svc.Stack || in.Service != svc.Name {
			continue
		}
		is := instanceStatus(st, in)
		if n := st.Node(in.Node); n == nil || n.BootID != in.BootID || n.State == cluster.NodeLost {
			is.State, is.Message = cluster.InstanceFailed, "its node is gone"
		} else if is.State == cluster.InstanceRunning && !in.Stop || is.State == cluster.InstanceComplete {
			ss.Running++
		}
		ss.Instances = append(ss.Instances, is)
	}
	sort.Slice(ss.Instances, func(i, j int) bool { return ss.Instances[i].Slot < ss.Instances[j].Slot })
	return ss
}

func instanceStatus(st *cluster.State, in *cluster.Instance) InstanceStatus {
	is := InstanceStatus{
		ID: in.ID, Stack: in.Stack, Service: in.Service, Slot: in.Slot, Node: in.Node,
		State: cluster.InstancePending, Epoch: in.Epoch, Reason: in.Reason,
	}
	if status := st.Status(in.ID); status != nil {
		is.State, is.Message, is.Restarts, is.Started = status.State, status.Message, status.Restarts, status.Started
		if status.Address.IsValid() {
			is.Address = status.Address.String()
		}
	}
	return is
}

// wanted is the number of instances that a service should have now.
func wanted(st *cluster.State, svc *cluster.Service) int {
	if svc.Mode != cluster.ModeGlobal {
		return svc.Replicas
	}
	n := 0
	for i := range st.Nodes {
		if st.Nodes[i].MayRun() {
			n++
		}
	}
	return n
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	after, _ := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64) // absent or nonsense: from the first
	st := newStream(w)
	return s.backend.Events(r.Context(), after, r.URL.Query().Get("follow") == "1", func(e cluster.Event) error {
		return st.send(e)
	})
}
