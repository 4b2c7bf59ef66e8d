package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/takeover"
)

// mostActions go into one transaction.
const mostActions = 20

// coordinator is what a node remembers while it is the coordinator. A new one starts with nothing: all
// that matters is in the ledger.
type coordinator struct {
	nodeAt     map[string]time.Duration // node -> from when its record may be written again
	ended      map[string]time.Duration // instance -> when it was first seen ended
	ran        map[string]time.Duration // instance -> since when it is seen running
	fences     map[string]*fencing      // lost node -> its fencing
	restrained bool                     // the event is written
	pairSince  time.Duration            // since when there have been two nodes only
	pairTold   bool                     // the warning of that is written
	restarting map[string]bool          // incarnations whose agent restarts; the event is written
	rate       fenceRate
	calm       map[string]*calm         // node -> what is not credited to its trouble yet
	sharedAt   map[string]time.Duration // shared file system -> from when its membership may be written again

	inFlight  int
	startedAt time.Duration // of the newest transactions of a plan
	planned   int64         // revision of the last plan
	looked    string        // what else the last plan depended on
	wake      time.Duration
	again     time.Duration // plan anew at this time even if nothing changes
	single    bool          // a batch was refused: one action a transaction
}

func newCoordinator() coordinator {
	return coordinator{nodeAt: map[string]time.Duration{}, ended: map[string]time.Duration{}, ran: map[string]time.Duration{}, restarting: map[string]bool{}, fences: map[string]*fencing{}, calm: map[string]*calm{}, sharedAt: map[string]time.Duration{}}
}

// noteEnded notes since when instances have ended, or run.
func (c *coordinator) noteEnded(now time.Duration, st *cluster.State) {
	note := func(since map[string]time.Duration, is func(cluster.InstanceState) bool) {
		still := map[string]bool{}
		for i := range st.Statuses {
			if s := &st.Statuses[i]; is(s.State) {
				still[s.ID] = true
				if _, ok := since[s.ID]; !ok {
					since[s.ID] = now
				}
			}
		}
		maps.DeleteFunc(since, func(id string, _ time.Duration) bool { return !still[id] })
	}
	note(c.ended, cluster.InstanceState.Ended)
	note(c.ran, func(s cluster.InstanceState) bool { return s == cluster.InstanceRunning })
}

// coordinate does the coordinator's duties. Without a majority of the voters that hear us there are none:
// the ledger is frozen, or another coordinator is about to be.
func (b *Brain) coordinate(now time.Duration) {
	if !b.view.Majority {
		return
	}
	b.noteCalm(now)
	b.noteFences(now)
	b.admit(now)
	b.noteRestarts(now)
	b.warnOfPair(now)
	b.declareLost(now)
	b.plan(now)
	b.share(now)
	b.fence(now) // after the plan: who needs no such proof goes first
}

// admit puts nodes that have joined and are heard to work.
func (b *Brain) admit(now time.Duration) {
	for i := range b.state.Nodes {
		n := &b.state.Nodes[i]
		if n.State != cluster.NodeJoining {
			continue
		}
		why := "it is the coordinator itself"
		if n.Name != b.self.Name {
			p := b.peerView(n.Name, n.BootID)
			if p == nil || !p.Alive || !heard(p) {
				continue
			}
			why = "its heartbeats arrive"
		}
		next := *n
		next.State, next.Reason = cluster.NodeOnline, why
		b.writeNode(now, n, next, cluster.Event{Text: n.Name + " is online", Why: why})
	}
}

// heard tells that a peer was really heard, and not only became known a moment ago.
func heard(p *member.PeerView) bool {
	return slices.ContainsFunc(p.Links, func(l member.LinkView) bool { return l.Receiving })
}

func (b *Brain) peerView(name, boot string) *member.PeerView {
	for i := range b.view.Peers {
		if p := &b.view.Peers[i]; p.Name == name && p.BootID == boot {
			return p
		}
	}
	return nil
}

const (
	// deafPatience is how long a node must have said that it hears nobody; it says so only after Silent. Longer keeps
	// its addresses dark longer: they are answered for again some 0.9 s after this. It is for a bad moment of its links.
	deafPatience = 700 * time.Millisecond
	// busyPatience is the same while it says that other frames do reach it: its heartbeats may be held up behind a
	// bulk transfer. 1 s gave up a node in the lab that took an image.
	busyPatience = 4 * time.Second
)

type loss struct {
	node *cluster.Node
	why  string
	// certain: it said so itself, or was heard in a new boot. Silence alone is a suspicion.
	certain bool
	// wanted: it was stopped in order, as its last words say.
	wanted bool
}

// noteRestarts tells of agents that ended while their nodes go on. That one is back it tells itself.
func (b *Brain) noteRestarts(now time.Duration) {
	for i := range b.view.Peers {
		p := &b.view.Peers[i]
		key := p.Name + "/" + p.BootID
		if p.Alive || now >= p.RestartingUntil {
			delete(b.coord.restarting, key)
			continue
		}
		if n := b.state.Node(p.Name); b.coord.restarting[key] || n == nil || n.BootID != p.BootID || n.State == cluster.NodeLost {
			continue
		}
		b.coord.restarting[key] = true
		b.world.Explain(cluster.Event{
			Node: b.self.Name, Time: b.world.Wall(), Kind: cluster.EventNode, Subject: p.Name,
			Text: fmt.Sprintf("%s: its agent is restarting, nothing is moved", p.Name),
			Why:  fmt.Sprintf("its kernel says so: the services there go on; if it is not heard in %v it counts as lost", (p.RestartingUntil - now).Round(100*time.Millisecond)),
		})
	}
}

// declareLost commits the loss of nodes that are silent, with restraint (see the package comment).
func (b *Brain) declareLost(now time.Duration) {
	v := b.judge(now)
	if len(v.lost) == 0 && len(v.kept) == 0 && v.doubt == "" {
		b.coord.restrained = false
		return
	}
	if len(v.kept) > 0 && !b.coord.restrained {
		b.coord.restrained = true
		b.world.Explain(cluster.Event{
			Node: b.self.Name, Time: b.world.Wall(), Kind: cluster.EventNode, Subject: v.kept[0],
			Text: fmt.Sprintf("%s is silent, but is not given up", strings.Join(v.kept, ", ")),
			Why:  "without it the ledger would have no majority of voters; if it were dead, its loss could not even be written",
		})
	}
	if v.doubt != "" {
		if !b.coord.restrained {
			b.coord.restrained = true
			var names []string
			for _, l := range v.lost {
				names = append(names, l.node.Name)
			}
			b.world.Explain(cluster.Event{
				Node: b.self.Name, Time: b.world.Wall(), Kind: cluster.EventNode, Subject: b.self.Name,
				Text: fmt.Sprintf("%s are silent, but are not given up", strings.Join(names, ", ")), Why: v.doubt,
			})
		}
		return
	}
	var written []cluster.Node
	for _, l := range v.lost {
		next := *l.node
		next.State, next.Reason = cluster.NodeLost, l.why
		events := append([]cluster.Event{{Text: l.node.Name + " is lost", Why: l.why}}, b.trouble(now, l, &next)...)
		if b.writeNode(now, l.node, next, events...) {
			written = append(written, next)
			b.credited(now, next.Name)
		}
	}
	if len(written) > 0 {
		b.decided(Decided{Losses: written, Snapshot: plan.Snapshot{State: b.state, Now: now}})
	}
}

// verdict on the nodes that may be lost.
type verdict struct {
	lost  []loss
	kept  []string // silent, but the ledger cannot do without them
	doubt string   // why none of the lost is given up after all, empty if they are
}

// judge decides from the ledger and from what is heard, and changes nothing.
func (b *Brain) judge(now time.Duration) verdict {
	var losses []loss
	members, voters, heardVoters := 0, 0, 0
	for i := range b.state.Nodes {
		n := &b.state.Nodes[i]
		p := b.peerView(n.Name, n.BootID)
		self := n.Name == b.self.Name
		if n.Voter {
			voters++
			if self || p != nil && p.Alive {
				heardVoters++
			}
		}
		if n.State == cluster.NodeLost {
			continue
		}
		members++
		if self || p == nil {
			continue
		}
		if why := b.whyLost(now, n, p); why != "" {
			losses = append(losses, loss{n, why, p.NewBoot != "" || p.Gasped != "", p.Ordered})
		}
	}
	v := verdict{}
	v.lost, v.kept = b.affordable(losses)
	// All suspicions count here, also of those that the ledger needs: who hears nobody at all looks at itself first.
	if len(v.lost) > 0 && (len(losses) > 1 || 2*len(losses) >= members) && 2*heardVoters <= voters {
		v.doubt = fmt.Sprintf("%s hears only %d of %d voters: it may be the one that is cut off", b.self.Name, heardVoters, voters)
	}
	return v
}

// affordable leaves out suspicions of voters without which the ledger has no quorum. To commit such a loss
// the ledger would need the vote of the very node that is to be dead: if the commit succeeds, the
// suspicion was wrong, and a voter that forgets its log in a reboot ends the ledger for good.
func (b *Brain) affordable(losses []loss) (rest []loss, kept []string) {
	suspected := map[string]bool{}
	for _, l := range losses {
		suspected[l.node.Name] = true
	}
	total, alive := 0, 0
	for i := range b.state.Nodes {
		n := &b.state.Nodes[i]
		if n.MemberID == 0 {
			continue // chosen to be a voter, but none yet
		}
		total++
		p := b.peerView(n.Name, n.BootID)
		if n.State != cluster.NodeLost && !suspected[n.Name] && (n.Name == b.self.Name || p != nil && p.Alive) {
			alive++
		}
	}
	for _, l := range losses {
		if l.node.MemberID != 0 && !l.certain && 2*alive <= total {
			kept = append(kept, l.node.Name)
		} else {
			rest = append(rest, l)
		}
	}
	return rest, kept
}

// whyLost is the reason to give a node up, empty if there is none. One that is heard but hears nobody has links that
// pass in one direction only: its addresses go dark with its lease and its silence never comes, so its own word is
// taken for it.
func (b *Brain) whyLost(now time.Duration, n *cluster.Node, p *member.PeerView) string {
	switch {
	case p.NewBoot != "":
		return fmt.Sprintf("it was heard in a new boot (%.8s): this one (%.8s) has ended", p.NewBoot, n.BootID)
	case p.Gasped != "":
		if !p.Ordered {
			return "its last words: " + p.Gasped
		}
		return "it said goodbye: " + p.Gasped
	case p.Alive && p.DeafFor >= deafPatience && (!p.Busy || p.DeafFor >= busyPatience) && n.State != cluster.NodeJoining:
		return fmt.Sprintf("it is heard, but says since %v that it hears nobody on any link: no lease of it can be renewed", p.DeafFor.Round(10*time.Millisecond))
	case p.Alive:
		return ""
	case now < p.RestartingUntil:
		return "" // it is the agent that is silent, not the node
	case n.State == cluster.NodeJoining && p.SilentFor < b.cfg.JoinPatience:
		return "" // it may not have its network yet
	}
	others := 0
	for i := range b.view.Peers {
		if q := &b.view.Peers[i]; q.Name != n.Name && q.Alive {
			others++
		}
	}
	silent := fmt.Sprintf("nothing was heard of it on any link for %v", p.SilentFor.Round(10*time.Millisecond))
	if p.RestartingUntil > 0 {
		silent += "; its agent ended and did not come back in time"
	}
	if others == 0 {
		return silent + "; there is nobody else to ask"
	}
	if p.ConfirmedSilent < 2 || !p.Unheard {
		// Somebody hears it: then it is a matter of links. To give up who may still be heard by a majority would
		// restart it again and again: it would join by way of them, and be missed here.
		return ""
	}
	return fmt.Sprintf("%s; %d nodes say so", silent, p.ConfirmedSilent)
}

// writeNode commits a node's next state, once at a time. It tells whether it began to.
func (b *Brain) writeNode(now time.Duration, n *cluster.Node, next cluster.Node, events ...cluster.Event) bool {
	if now < b.coord.nodeAt[n.Name] {
		return false
	}
	b.coord.nodeAt[n.Name] = now + stuck
	for i := range events {
		events[i].Kind, events[i].Subject = cluster.EventNode, n.Name
	}
	name := n.Name
	b.commit(cluster.Txn{
		Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}},
		Puts:       []cluster.Put{{Key: n.Key(), Value: next}},
		Events:     events,
	}, func(ok bool, err error) {
		b.coord.nodeAt[name] = b.world.Now() + retry // by then the ledger has shown it
	})
	return true
}

// snapshot is what a plan made here and now depends on.
func (b *Brain) snapshot(now time.Duration) plan.Snapshot {
	s := plan.Snapshot{
		State: b.state, Now: now, Ended: b.coord.ended, Ran: b.coord.ran,
		Silent: map[string]string{}, Evidence: map[plan.Incarnation]takeover.Evidence{},
	}
	for i := range b.view.Peers {
		p := &b.view.Peers[i]
		if p.Alive {
			continue
		}
		s.Silent[p.Name] = "is not heard"
		if now < p.RestartingUntil {
			s.Silent[p.Name] = "restarts its agent"
		}
	}
	note := func(node, boot string) {
		if e := b.evidence(node, boot, now); e != (takeover.Evidence{}) {
			s.Evidence[plan.Incarnation{Node: node, BootID: boot}] = e
		}
	}
	for i := range b.state.Instances {
		in := &b.state.Instances[i]
		note(in.Node, in.BootID)
		if in.After != nil {
			note(in.After.Node, in.After.BootID)
		}
	}
	return s
}

// looks is a digest of the parts of a snapshot that change without the ledger.
func looks(s plan.Snapshot) string {
	var parts []string
	for n := range s.Silent {
		parts = append(parts, n)
	}
	for i, e := range s.Evidence {
		parts = append(parts, fmt.Sprintf("%s/%s %v %v %v %v %s %v", i.Node, i.BootID, e.LeaseExpired, e.Dark, e.NewBoot, e.GoneFor >= takeover.GoneGrace, e.PoweredOff, e.Reset))
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

// plan makes a plan if anything that it depends on has changed, and commits it.
func (b *Brain) plan(now time.Duration) {
	c := &b.coord
	if c.inFlight > 0 && now-c.startedAt < stuck {
		return
	}
	snap := b.snapshot(now)
	seen := looks(snap)
	due := b.state.Revision > c.planned || seen != c.looked || c.wake > 0 && now >= c.wake || c.again > 0 && now >= c.again
	if !due {
		return
	}
	d := plan.Plan(snap)
	c.planned, c.looked, c.wake, c.again = b.state.Revision, seen, d.Wake, 0
	if len(d.Actions) == 0 {
		return
	}
	most := mostActions
	if c.single {
		most = 1
	}
	c.startedAt, c.again = now, now+retry
	txns := plan.Batch(d.Actions, most)
	c.inFlight = len(txns)
	for _, t := range txns {
		b.commit(t, b.planned())
	}
	b.decided(Decided{Snapshot: snap, Decision: d})
}

// planned counts the outcomes of one plan; those of an earlier one that come late count no more.
func (b *Brain) planned() func(bool, error) {
	started := b.coord.startedAt
	return func(ok bool, err error) {
		if b.coord.startedAt != started {
			return
		}
		b.coord.inFlight--
		b.coord.single = !ok
		b.coord.again = b.world.Now() + retry
	}
}
