package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/takeover"
)

// Config of a Brain.
type Config struct {
	// Member holds the cluster's id, key and times; Self and BootID are filled in.
	Member member.Config
	// StatusDelay is how long a change of a status that is not one of its state may wait for others, to
	// be committed with them; default 50 ms. Longer spares the ledger.
	StatusDelay time.Duration
	// JoinPatience is for how long a node that is joining may stay silent; default 15 s.
	JoinPatience time.Duration
	// Watchdog of this machine in this boot, nil if it has none. Bound is not used.
	Watchdog *cluster.Watchdog
	// Resumed: an earlier agent of this boot was a member. Tell that this one goes on.
	Resumed bool
	// Decided, if set, is told of each decision of the coordinator after it was sent on its way to the
	// ledger. It must not block and must not change what it is given.
	Decided func(Decided)
}

const (
	defaultStatusDelay  = 50 * time.Millisecond
	defaultJoinPatience = 15 * time.Second
	// retry is the wait after a commit that was refused or has no known outcome, if the ledger does not
	// change before.
	retry = 200 * time.Millisecond
	// stuck is when a commit that has not come back no longer keeps the next decision waiting.
	stuck = 300 * time.Millisecond
)

// Brain decides for one node. It is not safe for concurrent use: its driver owns it and calls Tick about
// every 25 ms.
type Brain struct {
	self  cluster.Node
	cfg   Config
	world World
	core  *member.Core

	state  *cluster.State // nil until the first Ledger
	leader bool
	seen   bool   // the ledger has shown our own record, in this boot
	ended  string // condemned or stopped: why
	view   member.View

	peers    []member.Peer // as last given to core
	voter    bool
	peersSet bool

	nextID  uint64
	commits map[uint64]func(ok bool, err error)
	volumes map[uint64]func(ok bool, keys []takeover.Key, err error)
	powers  map[uint64]func(fence.Answer) // orders to power controllers that are under way

	mine       map[string]*assignment // by instance ID
	order      []*assignment          // of mine, by ID: the same inputs have the same outputs
	running    []runKey               // as last given to World.Run
	ranOnce    bool
	held       []Floating
	heldTill   time.Duration
	heldOnce   bool          // World.Hold was called
	clinging   time.Duration // since when World.Hold could not withdraw an address; 0: it could
	clingTries int
	routes     []Route

	quietAt map[string]time.Duration // peer -> when World.Quiet was last called for it

	expired map[plan.Incarnation]bool // proof L1, which holds for ever
	reset   map[plan.Incarnation]bool // proof L3, the same
	dog     binding
	gone    map[string]time.Duration // when we first saw the ledger without a node that instances name

	willAt  time.Duration // when to make the next will
	linksAt time.Duration // when to look at the links next
	// frames is how many had come in at framesAt.
	frames   uint64
	framesAt time.Duration
	news     linkNews
	resumed  bool // that this agent goes on for an earlier one is still to be told

	statusAt      time.Duration // last flush
	statusBusy    bool
	statusRetryAt time.Duration
	reconcileAt   time.Duration

	coord coordinator
}

// runKey tells whether an entry of the list for World.Run has changed.
type runKey struct {
	id   string
	stop bool
}

// assignment is one instance that this boot owns.
type assignment struct {
	in       cluster.Instance
	takeover takeover.Takeover
	verify   bool // a verify write is under way
	verifyAt time.Duration

	volumes []*volume // of SafetyStorage; as in the specification
	lost    string    // why its volumes are not its own any more: it is killed, and failed
	ran     bool      // an earlier agent had started it

	ranSince time.Duration // since when it has been running without a break; 0: it is not
	settled  bool          // it has been so for settleTime, at some time

	stopAt time.Duration // when one that is to stop is let go; 0: it is not to stop yet

	reported bool
	want     cluster.Status // newest, as reported or made up here
	dirty    bool
	urgent   bool
	sentAt   time.Duration // when it was last put into a transaction
}

// New makes the Brain of the node self, which needs Name, BootID and Links. An agent that starts again in
// a boot that was admitted before gives the Epoch too, so that a removal in the meantime is noticed.
func New(self cluster.Node, cfg Config, w World) *Brain {
	cfg.StatusDelay = cmp.Or(cfg.StatusDelay, defaultStatusDelay)
	cfg.JoinPatience = cmp.Or(cfg.JoinPatience, defaultJoinPatience)
	cfg.Member.Self, cfg.Member.BootID = self.Name, self.BootID
	return &Brain{
		self: self, cfg: cfg, world: w, core: member.New(cfg.Member),
		commits: map[uint64]func(bool, error){}, powers: map[uint64]func(fence.Answer){},
		volumes: map[uint64]func(bool, []takeover.Key, error){}, mine: map[string]*assignment{},
		quietAt: map[string]time.Duration{}, expired: map[plan.Incarnation]bool{}, reset: map[plan.Incarnation]bool{},
		gone:  map[string]time.Duration{},
		coord: newCoordinator(), resumed: cfg.Resumed,
	}
}

// Tick lets time pass.
func (b *Brain) Tick() {
	if b.ended != "" {
		return
	}
	for _, d := range b.core.Tick(b.world.Now()) {
		b.world.Send(d)
	}
	b.bequeath(b.world.Now())
	// A ledger in which nothing changes tells us nothing: not even that a status of ours got lost.
	if now := b.world.Now(); b.state != nil && now >= b.reconcileAt {
		b.reconcileAt = now + 5*retry
		b.reconcileStatuses()
	}
	b.think()
}

// bequeath keeps the will of this agent new. After it is condemned or stopped there is none.
func (b *Brain) bequeath(now time.Duration) {
	if !b.peersSet || now < b.willAt {
		return
	}
	b.willAt = now + member.WillEvery
	if will := b.core.Will(now); len(will) > 0 {
		w := Bequest{Restarts: will, Patience: b.core.Patience()}
		w.Stopped, w.Failed = b.core.LastWords(now)
		b.world.Bequeath(w)
	}
}

// Datagram takes what arrived on the heartbeat port through a link. The error is worth a counter.
func (b *Brain) Datagram(link string, payload []byte) error {
	if b.ended != "" {
		return nil
	}
	if err := b.core.Step(b.world.Now(), link, payload); err != nil {
		return fmt.Errorf("heartbeat on %s: %w", link, err)
	}
	return nil
}

// Checked is Datagram for what a member.Screen let through.
func (b *Brain) Checked(link string, d member.Checked) error {
	if b.ended != "" {
		return nil
	}
	if err := b.core.StepChecked(b.world.Now(), link, d); err != nil {
		return fmt.Errorf("heartbeat on %s: %w", link, err)
	}
	return nil
}

// Ledger takes a newer copy of the ledger, and whether this node is the coordinator. The first one must
// have been read linearizably: nothing is acknowledged to other nodes before it, and it must name every
// loss that an earlier agent of this boot may have known of.
func (b *Brain) Ledger(st *cluster.State, leader bool) {
	if b.ended != "" {
		return
	}
	if leader != b.leader {
		b.leader = leader
		b.coord = newCoordinator()
	}
	if b.state != nil && st.Meta.Incarnation > b.state.Meta.Incarnation && b.state.Revision > st.Meta.RestoredFrom {
		// What we learned from it cannot be told from the rest: proofs, refusals, what we started.
		b.condemn(fmt.Sprintf("this node acted on revision %d of a ledger that was restored as of %d: what is later never happened",
			b.state.Revision, st.Meta.RestoredFrom))
		return
	}
	if b.state == nil || st.Revision >= b.state.Revision {
		b.state = st
		b.learn()
	}
	b.think()
}

// Committed takes the outcome of World.Commit: ok tells whether the conditions held; with err it is not
// known.
func (b *Brain) Committed(id uint64, ok bool, err error) {
	done := b.commits[id]
	delete(b.commits, id)
	if done == nil || b.ended != "" {
		return
	}
	done(ok, err)
	b.think()
}

// Report takes an instance's status from the local runner. It is committed with others within
// StatusDelay, a change of its State at once.
func (b *Brain) Report(st cluster.Status) {
	if b.ended != "" {
		return
	}
	a := b.mine[st.ID]
	if a == nil {
		return // of a claim that is gone
	}
	a.reported = true
	b.setStatus(a, a.cutOff(st))
	b.think()
}

// wordsTimes is how often last words are said: they are one datagram on each link, and may be lost.
const wordsTimes = 3

// Stop ends this boot in order: addresses are given up for good, and peers are told so. Nothing is done after it.
func (b *Brain) Stop(reason string) {
	if b.ended != "" {
		return
	}
	b.ended = "stopped: " + reason
	say := b.core.Gasp
	if b.world.Renounce() {
		say = b.core.Farewell // it is proof now
	}
	for range wordsTimes {
		for _, d := range say(b.world.Now(), reason) {
			b.world.Send(d)
		}
	}
}

// View is what this node hears of the others.
func (b *Brain) View() member.View { return b.core.View(b.world.Now()) }

// Hears tells whether heartbeats of that very boot of a node arrive here, be it lost or not.
func (b *Brain) Hears(name, boot string) bool {
	for _, p := range b.View().Peers {
		if p.Name == name && p.BootID == boot {
			return heard(&p)
		}
	}
	return false
}

// Ended tells why this brain does nothing any more; empty while it does.
func (b *Brain) Ended() string { return b.ended }

// Pending tells which slots are not where they should be, and why. Any node can tell.
func (b *Brain) Pending() []plan.Pending {
	if b.state == nil {
		return nil
	}
	return plan.Plan(b.snapshot(b.world.Now())).Pending
}

// commit starts a transaction; its events get their writer and time here.
func (b *Brain) commit(t cluster.Txn, done func(ok bool, err error)) {
	t.Events = slices.Clone(t.Events)
	for i := range t.Events {
		t.Events[i].Node, t.Events[i].Time = b.self.Name, b.world.Wall()
	}
	b.nextID++
	b.commits[b.nextID] = done
	b.world.Commit(b.nextID, t)
}

// learn follows the ledger: who the peers are, who is lost, what this boot owns.
func (b *Brain) learn() {
	now, st, before := b.world.Now(), b.state, b.seen
	// Promises come before acknowledgements.
	for i := range st.Nodes {
		if n := &st.Nodes[i]; n.State == cluster.NodeLost {
			b.core.Refuse(now, n.Name, n.BootID)
		}
	}
	me := st.Node(b.self.Name)
	// A copy from before our admission says nothing about us.
	after := b.seen || b.self.Epoch > 0 && st.Revision >= int64(b.self.Epoch)
	switch {
	case me == nil && after:
		b.condemn("this node was removed from the cluster")
		return
	case me != nil && me.BootID != b.self.BootID && after:
		b.condemn(fmt.Sprintf("another boot of this node (%.8s) has joined: this one (%.8s) is not a member any more", me.BootID, b.self.BootID))
		return
	case me != nil && me.BootID == b.self.BootID && me.State == cluster.NodeLost:
		b.condemn("this boot was declared lost: " + me.Reason)
		return
	case me != nil && me.BootID == b.self.BootID:
		b.seen = true
		b.self = *me
	}
	b.setPeers(now)
	b.noteGone(now)

	live := map[string]bool{}
	for i := range st.Instances {
		in := &st.Instances[i]
		if in.Node != b.self.Name || in.BootID != b.self.BootID {
			continue
		}
		live[in.ID] = true
		a := b.mine[in.ID]
		if a == nil {
			a = &assignment{takeover: takeover.Resume(in, st.Status(in.ID))}
			if known := st.Status(in.ID); known != nil {
				a.settled = known.Settled
			}
			b.mine[in.ID] = a
			b.reserve(a, in, b.cfg.Resumed && !before)
		}
		a.in = *in
	}
	for id := range b.mine {
		if !live[id] {
			delete(b.mine, id)
		}
	}
	b.order = slices.SortedFunc(maps.Values(b.mine), func(x, y *assignment) int { return cmp.Compare(x.in.ID, y.in.ID) })
	b.reconcileStatuses()
	if b.leader {
		b.coord.noteEnded(now, st)
	}
}

// noteGone remembers since when nodes that instances speak of have had no record.
func (b *Brain) noteGone(now time.Duration) {
	named := map[string]bool{}
	for i := range b.state.Instances {
		in := &b.state.Instances[i]
		named[in.Node] = true
		if in.After != nil {
			named[in.After.Node] = true
		}
	}
	for name := range named {
		if b.state.Node(name) != nil {
			delete(b.gone, name)
		} else if _, ok := b.gone[name]; !ok {
			b.gone[name] = now
		}
	}
	for name := range b.gone {
		if !named[name] {
			delete(b.gone, name)
		}
	}
}

// think looks at everything and does what follows. It is cheap when nothing has changed.
func (b *Brain) think() {
	if b.ended != "" || b.state == nil {
		return
	}
	now := b.world.Now()
	b.view = b.core.View(now)
	if len(b.view.RefusedBy) > 0 {
		b.condemn(fmt.Sprintf("this boot was declared lost: %v refuse it", b.view.RefusedBy))
		return
	}
	for i := range b.view.Peers {
		if p := &b.view.Peers[i]; p.LeaseExpired {
			b.expired[plan.Incarnation{Node: p.Name, BootID: p.BootID}] = true
		}
		b.noteReset(&b.view.Peers[i])
	}
	if b.resumed && b.view.Majority {
		b.resumed = false
		b.world.Explain(cluster.Event{
			Node: b.self.Name, Time: b.world.Wall(), Kind: cluster.EventNode, Subject: b.self.Name,
			Text: fmt.Sprintf("the agent of %s is back, with %d instances that went on without it", b.self.Name, len(b.mine)),
			Why:  "it was restarted in the same boot, and the others hear it",
		})
	}
	b.noteQuiet(now)
	b.bind(now)
	b.takeOver(now)
	b.takeVolumes(now)
	b.settle(now)
	b.run()
	b.hold()
	if b.ended != "" {
		return // the kernel refused for too long
	}
	b.flushStatuses(now)
	b.lookAtLinks(now)
	if b.leader {
		b.coordinate(now)
	}
}

// lookEvery is between two looks at what the links are worth: it takes longer than that to find out.
const lookEvery = 50 * time.Millisecond

// lookAtLinks keeps the routes on links that work, and tells of those that do not.
func (b *Brain) lookAtLinks(now time.Duration) {
	if now < b.linksAt {
		return
	}
	b.linksAt = now + lookEvery
	b.countFrames(now)
	b.route()
	b.tellOfLinks(now, b.core.Events(now))
}

const (
	// framesEvery is how often frames are counted, and busyFrames how many of them in that time mean that something
	// comes in: more than what switches and routers say by themselves.
	framesEvery = 250 * time.Millisecond
	busyFrames  = 8
)

// countFrames has peers know whether anything but their heartbeats reaches this node.
func (b *Brain) countFrames(now time.Duration) {
	if now-b.framesAt < framesEvery {
		return
	}
	frames := b.world.Frames()
	b.core.Busy(frames-b.frames >= busyFrames && frames > b.frames)
	b.frames, b.framesAt = frames, now
}

func (b *Brain) condemn(reason string) {
	b.ended = "condemned: " + reason
	b.core.Refuse(b.world.Now(), b.self.Name, b.self.BootID)
	b.world.Hold(nil, 0)
	b.world.Condemn(reason)
}
