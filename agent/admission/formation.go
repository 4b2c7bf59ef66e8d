package admission

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Action is what a machine without a cluster should do.
type Action int

const (
	Wait    Action = iota // go on sending beacons
	FoundIt               // found the cluster: final, nobody else of this set of boots will
	JoinIt                // ask one of Decision.Members
)

func (a Action) String() string { return [...]string{"wait", "found", "join"}[a] }

// Decision of Formation.Step.
type Decision struct {
	Action  Action
	Reason  string           // for people: what is waited for, or why this action
	Members []netip.AddrPort // where to ask, for JoinIt; in turn, since a link may be down
}

// Formation decides, for one boot of one machine, whether it founds the cluster, joins it or waits. It is
// pure: time and beacons are arguments.
//
// A machine that has seen the same Expect or more fresh machines for Settle votes for the one of them
// with the lowest machine id. Voting for another, it gives up its own candidacy by raising its term; one
// that is a candidate and sees a lower machine does so too. A vote stays until its candidacy was given up,
// or its candidate is heard in another boot: then it can never win any more. A candidate that has the
// votes of Expect machines in its present term, its own among them, founds.
//
// Two founders would need Expect votes each, and a machine's vote counts for one: so there are never two
// as long as Expect is more than half of the machines that hold the seed. Loss and delay of beacons can
// only make it wait.
type Formation struct {
	self    Beacon
	settle  time.Duration
	window  time.Duration
	peers   map[string]*peer // by machine id
	view    string           // the fresh machines as last seen
	since   time.Duration    // when view became so
	started bool
	founded bool
}

// peer is a machine that was heard, in its last known boot.
type peer struct {
	Beacon
	heard time.Duration
}

// Defaults of formation. Window is a few beacons; Settle is short, as Expect already waits for the last
// machine.
const (
	BeaconInterval = 200 * time.Millisecond
	DefaultWindow  = 2 * time.Second
	DefaultSettle  = 600 * time.Millisecond
)

// NewFormation starts the formation of one boot, or goes on with it after the agent was restarted (m). Of
// self, Cluster, Name, Identity, Addrs and Expect are used. Window and settle may be zero.
func NewFormation(self Beacon, m Memory, window, settle time.Duration) *Formation {
	self.ClusterID, self.Vote, self.Term, self.Counter = "", m.Vote, m.Term, 0
	self.Expect = max(self.Expect, 1)
	return &Formation{self: self, founded: m.Founded, window: cmp.Or(window, DefaultWindow), settle: cmp.Or(settle, DefaultSettle), peers: make(map[string]*peer)}
}

// Hear takes in a beacon whose HMAC was right. Now is the time since the machine's boot.
func (f *Formation) Hear(now time.Duration, b Beacon) {
	if b.Cluster != f.self.Cluster || b.MachineID == f.self.MachineID {
		return // a copied machine with this one's id is told when it joins
	}
	p := f.peers[b.MachineID]
	if p != nil && p.BootID == b.BootID && b.Counter <= p.Counter {
		return // overtaken by a later one, or sent on two links
	}
	f.peers[b.MachineID] = &peer{Beacon: b, heard: now}
}

// Beacon is what to send now; each has a higher counter.
func (f *Formation) Beacon(now time.Duration) Beacon {
	f.self.Counter = max(f.self.Counter+1, uint64(now))
	return f.self
}

// Memory is what a boot must not forget of its formation, even if the agent is restarted: a vote that was
// forgotten could be given twice.
type Memory struct {
	Vote    Candidacy `json:"vote,omitzero"`
	Term    uint64    `json:"term,omitempty"`
	Founded bool      `json:"founded,omitempty"`
}

// Memory is to be stored before a beacon that tells of it is sent, and before the cluster is founded.
func (f *Formation) Memory() Memory {
	return Memory{Vote: f.self.Vote, Term: f.self.Term, Founded: f.founded}
}

// Step decides. To be called after Hear and at every interval.
func (f *Formation) Step(now time.Duration) Decision {
	if !f.started {
		f.started, f.since = true, now
	}
	if f.founded {
		return Decision{Action: FoundIt, Reason: "has founded the cluster"}
	}
	if d, ok := f.member(now); ok {
		return d
	}
	fresh := f.fresh(now)
	if v := view(fresh); v != f.view {
		f.view, f.since = v, now
	}
	f.reconsider(fresh)
	if f.self.Vote == (Candidacy{}) && len(fresh) >= f.self.Expect && now-f.since >= f.settle {
		if fresh[0].MachineID != f.self.MachineID {
			f.self.Term++ // whoever voted for this machine is free to follow
		}
		f.self.Vote = fresh[0].candidacy()
	}
	if f.self.Vote == (Candidacy{}) {
		return Decision{Reason: f.waiting(fresh)}
	}
	if f.self.Vote != f.self.candidacy() {
		return Decision{Reason: f.waitingForFounder(now)}
	}
	var voters []string
	for _, p := range f.peers {
		// A vote counts even when its machine has fallen silent since: it is for ever.
		if p.Vote == f.self.candidacy() && p.Expect == f.self.Expect {
			voters = append(voters, p.Name)
		}
	}
	if len(voters)+1 >= f.self.Expect {
		f.founded = true
		slices.Sort(voters)
		return Decision{Action: FoundIt, Reason: fmt.Sprintf("has the lowest machine id of %d and the votes of %s", len(voters)+1, listNames(voters))}
	}
	return Decision{Reason: fmt.Sprintf("waits for votes: has %d of %d", len(voters)+1, f.self.Expect)}
}

// member decides when members of a cluster of this name are heard.
func (f *Formation) member(now time.Duration) (Decision, bool) {
	ids := make(map[string]bool)
	var members []*peer
	for _, p := range f.peers {
		if p.Member() && now-p.heard <= f.window {
			members = append(members, p)
			ids[p.ClusterID] = true
		}
	}
	if len(members) == 0 {
		return Decision{}, false
	}
	slices.SortFunc(members, func(a, b *peer) int { return strings.Compare(a.MachineID, b.MachineID) })
	if len(ids) > 1 {
		var names []string
		for _, m := range members {
			names = append(names, fmt.Sprintf("%s (of %.8s)", m.Name, m.ClusterID))
		}
		return Decision{Reason: fmt.Sprintf("there are %d clusters of the name %s: %s; turn one of them off", len(ids), f.self.Cluster, strings.Join(names, ", "))}, true
	}
	d := Decision{Action: JoinIt, Reason: fmt.Sprintf("%s is a member of %s", members[0].Name, f.self.Cluster)}
	// First one address of each member, then their others: a dead link should cost one attempt.
	for i := 0; ; i++ {
		any := false
		for _, m := range members {
			if i < len(m.Addrs) {
				any = true
				d.Members = append(d.Members, netip.AddrPortFrom(m.Addrs[i], cluster.PortAPI))
			}
		}
		if !any {
			return d, true
		}
	}
}

// fresh lists the fresh machines heard lately and this one, by machine id.
func (f *Formation) fresh(now time.Duration) []Beacon {
	list := []Beacon{f.self}
	for _, p := range f.peers {
		if !p.Member() && now-p.heard <= f.window {
			list = append(list, p.Beacon)
		}
	}
	slices.SortFunc(list, func(a, b Beacon) int { return strings.Compare(a.MachineID, b.MachineID) })
	return list
}

// Machines are those heard lately, members too, and this one: for who has to know which boots have ended.
func (f *Formation) Machines(now time.Duration) []Beacon {
	list := []Beacon{f.self}
	for _, p := range f.peers {
		if now-p.heard <= f.window {
			list = append(list, p.Beacon)
		}
	}
	slices.SortFunc(list, func(a, b Beacon) int { return strings.Compare(a.MachineID, b.MachineID) })
	return list
}

// view names a set of boots.
func view(fresh []Beacon) string {
	var s strings.Builder
	for _, b := range fresh {
		fmt.Fprintf(&s, "%s/%s ", b.MachineID, b.BootID)
	}
	return s.String()
}

// reconsider takes the vote back where that can do no harm.
func (f *Formation) reconsider(fresh []Beacon) {
	v := f.self.Vote
	switch {
	case v == Candidacy{}:
	case v == f.self.candidacy():
		if fresh[0].MachineID < f.self.MachineID {
			f.self.Term++
			f.self.Vote = Candidacy{}
		}
	default:
		if p := f.peers[v.MachineID]; p != nil && (p.BootID != v.BootID || p.Term > v.Term) {
			f.self.Vote = Candidacy{}
		}
	}
}

func (f *Formation) waiting(fresh []Beacon) string {
	var names []string
	for _, b := range fresh {
		if b.MachineID != f.self.MachineID {
			names = append(names, b.Name)
		}
	}
	if len(fresh) < f.self.Expect {
		return fmt.Sprintf("waits for other machines: sees %d of %d, itself and %s", len(fresh), f.self.Expect, listNames(names))
	}
	return fmt.Sprintf("sees %d machines (itself and %s); waits until that has been so for %s", len(fresh), listNames(names), f.settle)
}

func (f *Formation) waitingForFounder(now time.Duration) string {
	p := f.peers[f.self.Vote.MachineID]
	if p == nil {
		return "waits for the machine it voted for"
	}
	if quiet := now - p.heard; quiet > f.window {
		return fmt.Sprintf("waits for %s, which it voted for and which is silent for %s: it may have founded the cluster; turn it on again, or restart this machine too",
			p.Name, quiet.Round(time.Second))
	}
	return fmt.Sprintf("waits for %s to found the cluster", p.Name)
}

func listNames(names []string) string {
	if len(names) == 0 {
		return "nobody else"
	}
	return strings.Join(names, ", ")
}
