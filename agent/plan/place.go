package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
)

// host is a node with what this plan leaves free on it.
type host struct {
	node      *cluster.Node
	cpus      float64
	memory    int64
	instances int
	services  map[string]int    // instances by stack/service
	stacks    map[string]int    // instances by stack
	ports     map[string]string // published on the node itself -> service
}

func newHost(n *cluster.Node) *host {
	return &host{
		node: n, cpus: n.CPUs, memory: n.Memory,
		services: map[string]int{}, stacks: map[string]int{}, ports: map[string]string{},
	}
}

func (h *host) add(s *cluster.Service)    { h.count(s, 1) }
func (h *host) remove(s *cluster.Service) { h.count(s, -1) }

func (h *host) count(s *cluster.Service, n int) {
	h.cpus -= float64(n) * s.Reserve.CPUs
	h.memory -= int64(n) * s.Reserve.Memory
	h.instances += n
	h.services[s.FullName()] += n
	h.stacks[s.Stack] += n
	for _, port := range nodePorts(s) {
		if n > 0 {
			h.ports[port] = s.FullName()
		} else {
			if h.services[s.FullName()] == 0 {
				delete(h.ports, port)
			}
		}
	}
}

// nodePorts are the ports that a service answers on on every node: with floating addresses, none. Instances of one
// service share them.
func nodePorts(s *cluster.Service) []string {
	if len(s.Floating) > 0 {
		return nil
	}
	var out []string
	for _, p := range s.Ports {
		out = append(out, fmt.Sprintf("%d/%s", p.Published, p.Protocol))
	}
	return out
}

// refusal is the first thing that does not fit, as a clause after the node's name; empty if all does. anyway: a
// quarantine is no obstacle.
func (p *planner) refusal(h *host, s *cluster.Service, avoid map[string]string, anyway bool) string {
	n := h.node
	if n.Witness {
		return "is a witness: it runs no services"
	}
	if n.State != cluster.NodeOnline {
		return "is " + string(n.State)
	}
	if why := p.Silent[n.Name]; why != "" {
		return why
	}
	if why := n.Quarantine(); why != "" && !anyway {
		return "is " + why
	}
	for _, c := range s.Constraints {
		ok, err := matches(c, n)
		if err != nil {
			return err.Error()
		}
		if !ok {
			return fmt.Sprintf("does not match %q", c)
		}
	}
	if why := avoid[n.Name]; why != "" {
		return why
	}
	for _, port := range nodePorts(s) {
		if by := h.ports[port]; by != "" && by != s.FullName() {
			return fmt.Sprintf("has port %s taken by %s", port, by)
		}
	}
	if want := s.Reserve.Memory; want > h.memory && want > 0 {
		return fmt.Sprintf("has %s of memory free, %s are needed", bytes(h.memory), bytes(want))
	}
	// Half a thousandth: sums of decimal fractions are not exact.
	if want := s.Reserve.CPUs; want > h.cpus+0.0005 && want > 0 {
		return fmt.Sprintf("has %.4g processors free, %.4g are needed", h.cpus, want)
	}
	return ""
}

// place finds the most suitable node, and why it is that, or why no node will do. keep is the node to
// stay on if it fits, only the single one to look at; avoid are nodes not to take and why. Of nodes in quarantine
// one is taken only if no other fits: work that runs where it may be lost is better than work that does not run.
func (p *planner) place(s *cluster.Service, keep, only string, avoid map[string]string) (best *host, why string, not []NodeReason) {
	if best, why, not = p.placeOn(s, keep, only, avoid, false); best != nil || !slices.ContainsFunc(p.hosts, func(h *host) bool { return h.node.Trouble.Quarantined() }) {
		return best, why, not
	}
	best, why, not = p.placeOn(s, keep, only, avoid, true)
	if best != nil && only == "" {
		why += fmt.Sprintf("; %s is %s, and gets it because no other node fits", best.node.Name, best.node.Quarantine())
	}
	return best, why, not
}

func (p *planner) placeOn(s *cluster.Service, keep, only string, avoid map[string]string, anyway bool) (best *host, why string, not []NodeReason) {
	fits := 0
	for _, h := range p.hosts {
		if only != "" && h.node.Name != only {
			continue
		}
		if r := p.refusal(h, s, avoid, anyway); r != "" {
			not = append(not, NodeReason{h.node.Name, r})
			continue
		}
		fits++
		if best == nil || better(h, best, s, keep) {
			best = h
		}
	}
	if best == nil {
		return nil, "", not
	}
	name := best.node.Name
	switch {
	case name == keep:
		why = name + " had it before"
	case fits == 1:
		why = name + " is the only node that fits"
	default:
		why = fmt.Sprintf("of %d nodes that fit, %s runs %s of it and %s of its stack and has %s of memory free",
			fits, name, count(best.services[s.FullName()]), count(best.stacks[s.Stack]), bytes(best.memory))
	}
	sep, end := " (", ""
	for _, r := range not {
		if h := p.byName[r.Node]; h.node.State == cluster.NodeLost || h.node.Witness {
			continue // goes without saying
		}
		why += sep + r.Node + " " + r.Why
		sep, end = ", ", ")"
	}
	return best, why + end, not
}

// better tells whether a comes before b; hosts are looked at by name, so of equals the first stays.
func better(a, b *host, s *cluster.Service, keep string) bool {
	if ka, kb := a.node.Name == keep, b.node.Name == keep; ka != kb {
		return ka
	}
	if a.node.Fetching != b.node.Fetching {
		return b.node.Fetching // it would first have to fetch and unpack what it is to start
	}
	if x, y := a.services[s.FullName()], b.services[s.FullName()]; x != y {
		return x < y
	}
	if x, y := a.stacks[s.Stack], b.stacks[s.Stack]; x != y {
		return x < y
	}
	return a.memory > b.memory
}

func count(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

// bytes as people read them.
func bytes(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.size {
			s := fmt.Sprintf("%.1f", float64(n)/float64(u.size))
			return strings.TrimSuffix(s, ".0") + " " + u.name
		}
	}
	return fmt.Sprintf("%d B", max(n, 0))
}

// matches evaluates one placement constraint of Compose: "node.hostname != n1",
// "node.labels.disk == ssd". A label that is not there is the empty string.
func matches(constraint string, n *cluster.Node) (bool, error) {
	key, want, equal, err := parseConstraint(constraint)
	if err != nil {
		return false, err
	}
	got := n.Name
	if label, ok := strings.CutPrefix(key, "node.labels."); ok {
		got = n.Labels[label]
	}
	return (got == want) == equal, nil
}

// CheckConstraint tells whether a constraint can be understood, so that a deploy can refuse it.
func CheckConstraint(constraint string) error {
	_, _, _, err := parseConstraint(constraint)
	return err
}

func parseConstraint(c string) (key, value string, equal bool, err error) {
	i, j := strings.Index(c, "=="), strings.Index(c, "!=")
	equal = i >= 0 && (j < 0 || i < j)
	if !equal {
		i = j
	}
	if i < 0 {
		return "", "", false, fmt.Errorf("constraint %q: want KEY == VALUE or KEY != VALUE", c)
	}
	key, value = strings.TrimSpace(c[:i]), strings.TrimSpace(c[i+2:])
	label, isLabel := strings.CutPrefix(key, "node.labels.")
	if key != "node.hostname" && (!isLabel || label == "") {
		return "", "", false, fmt.Errorf("constraint %q: want node.hostname or node.labels.NAME before the operator", c)
	}
	return key, value, equal, nil
}
