package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/takeover"
)

// order is what a disk was asked for.
type order struct {
	id          uint64
	disk        string
	op          takeover.StorageOp
	key, victim takeover.Key
}

// stage is a World that writes down what it is told. Peers on it are played by real member cores.
type stage struct {
	t     *testing.T
	now   time.Duration
	brain *Brain
	peers map[string]*member.Core
	deaf  map[string]bool // peers that neither hear nor are heard
	mono  map[string]bool // peers that are heard but do not hear

	calls   []string // holds and commits, in order
	quiet   []string
	volumes []order
	run     []cluster.Instance
	held    []Floating
	until   time.Duration
	routes  []Route
	commits map[uint64]cluster.Txn
	events  []cluster.Event
	wills   int             // how often one was left
	bound   []time.Duration // what PID 1 was told; 0: Unbind
	doomed  string
	frames  uint64

	deafened bool // the brain hears nobody
	refuses  bool // its kernel does not withdraw addresses
	clings   bool // it cannot make sure that it answers nowhere
}

func (s *stage) Now() time.Duration { return s.now }
func (s *stage) Wall() time.Time    { return time.Unix(0, 0) }
func (s *stage) Rand() uint64       { return 4 }
func (s *stage) Frames() uint64     { return s.frames }
func (s *stage) Send(d member.Datagram) {
	for name, c := range s.peers {
		if strings.HasSuffix(d.To.Addr().String(), name[1:]) && !s.deaf[name] && !s.mono[name] {
			_ = c.Step(s.now, d.Link, d.Payload)
		}
	}
}
func (s *stage) Bequeath(b Bequest) {
	if len(b.Restarts) > 0 && len(b.Stopped) > 0 && len(b.Failed) > 0 {
		s.wills++
	}
}
func (s *stage) Renounce() bool {
	s.calls = append(s.calls, "renounce")
	s.held, s.until = nil, 0
	return !s.clings
}
func (s *stage) Bind(until time.Duration) { s.bound = append(s.bound, until) }
func (s *stage) Unbind()                  { s.bound = append(s.bound, 0) }
func (s *stage) Commit(id uint64, t cluster.Txn) {
	s.calls = append(s.calls, "commit")
	s.commits[id] = t
}
func (s *stage) Run(l []cluster.Instance) { s.run = l }
func (s *stage) Hold(a []Floating, until time.Duration) bool {
	s.calls = append(s.calls, fmt.Sprintf("hold %d", len(a)))
	if s.refuses && len(a) < len(s.held) {
		return false
	}
	s.held, s.until = a, until
	return true
}
func (s *stage) Routes(r []Route)            { s.routes = r }
func (s *stage) Condemn(reason string)       { s.doomed = reason }
func (s *stage) Power(string, fence.Command) {}
func (s *stage) Volume(id uint64, v cluster.Volume, op takeover.StorageOp, k, victim takeover.Key) {
	s.volumes = append(s.volumes, order{id, v.Disk, op, k, victim})
}
func (s *stage) Quiet(peer string)       { s.quiet = append(s.quiet, peer) }
func (s *stage) Explain(e cluster.Event) { s.events = append(s.events, e) }

var testMember = member.Config{ClusterID: "test", Key: []byte("0123456789abcdef")}

func testNode(n int) cluster.Node {
	return cluster.Node{
		Name: fmt.Sprintf("n%d", n), Number: uint8(n), BootID: fmt.Sprintf("n%d-1", n), State: cluster.NodeOnline, Voter: n <= 3, Revision: int64(n), Memory: 1 << 30,
		Links: []cluster.Link{
			{Name: "eth0", Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}), 24)},
			{Name: "eth1", Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 1, byte(n)}), 24)},
		},
	}
}

func newStage(t *testing.T, nodes int) (*stage, *cluster.State) {
	s := &stage{t: t, now: time.Second, peers: map[string]*member.Core{}, deaf: map[string]bool{}, mono: map[string]bool{}, commits: map[uint64]cluster.Txn{}}
	st := &cluster.State{Revision: 100}
	for n := 1; n <= nodes; n++ {
		st.Nodes = append(st.Nodes, testNode(n))
	}
	for n := 2; n <= nodes; n++ {
		cfg := testMember
		self := testNode(n)
		cfg.Self, cfg.BootID = self.Name, self.BootID
		c := member.New(cfg)
		var peers []member.Peer
		for _, p := range st.Nodes {
			if p.Name != self.Name {
				peers = append(peers, member.Peer{Name: p.Name, BootID: p.BootID, Voter: p.Voter, Links: matchLinks(self.Links, p.Links)})
			}
		}
		c.SetPeers(s.now, self.Voter, peers)
		s.peers[self.Name] = c
	}
	s.brain = New(testNode(1), Config{Member: testMember}, s)
	s.brain.Ledger(st, false)
	s.pass(time.Second)
	return s, st
}

// pass lets time pass, with everybody talking.
func (s *stage) pass(d time.Duration) {
	for end := s.now + d; s.now < end; s.now += 25 * time.Millisecond {
		s.brain.Tick()
		for name, c := range s.peers {
			for _, g := range c.Tick(s.now) {
				if s.deaf[name] {
					continue
				}
				if g.To.Addr().As4()[3] == 1 && !s.deafened {
					_ = s.brain.Datagram(g.Link, g.Payload)
				}
				for other, o := range s.peers {
					if other != name && !s.deaf[other] && !s.mono[other] && strings.HasSuffix(g.To.Addr().String(), other[1:]) {
						_ = o.Step(s.now, g.Link, g.Payload)
					}
				}
			}
		}
	}
}

// answer tells the brain that all commits so far have succeeded, and returns them.
func (s *stage) answer(ok bool, err error) (out []cluster.Txn) {
	var ids []uint64
	for id := range s.commits {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		out = append(out, s.commits[id])
		delete(s.commits, id)
		s.brain.Committed(id, ok, err)
	}
	return out
}

func next(st *cluster.State, change func(*cluster.State)) *cluster.State {
	n := *st
	n.Revision++
	n.Nodes = slices.Clone(st.Nodes)
	n.Instances = slices.Clone(st.Instances)
	change(&n)
	return &n
}

func webOn(node string) cluster.Instance {
	return cluster.Instance{
		ID: "demo.web.1.a", Stack: "demo", Service: "web", Slot: 1, Node: node, BootID: node + "-1", Epoch: 90, Revision: 90,
		Spec: cluster.Service{Stack: "demo", Name: "web", Mode: cluster.ModeReplicated, Replicas: 1, Safety: cluster.SafetyLease, Hash: "1", Floating: []netip.Addr{netip.MustParseAddr("10.77.9.10")}},
	}
}

func TestHoldFollowsStatusAndLease(t *testing.T) {
	s, st := newStage(t, 3)
	st = next(st, func(st *cluster.State) { st.Instances = []cluster.Instance{webOn("n1")} })
	s.brain.Ledger(st, false)
	if len(s.run) != 1 || len(s.held) != 0 {
		t.Fatalf("got %d to run and %d held, want 1 and 0 before it runs", len(s.run), len(s.held))
	}
	s.brain.Report(cluster.Status{ID: "demo.web.1.a", State: cluster.InstanceRunning})
	if len(s.held) != 1 || s.until <= s.now {
		t.Fatalf("got %v until %v at %v", s.held, s.until, s.now)
	}
	was := s.until
	s.pass(time.Second)
	if s.until <= was {
		t.Errorf("the lease was not renewed: %v", s.until)
	}
	s.answer(true, nil)

	// The address goes before anybody is told that the instance ended.
	s.calls = nil
	s.brain.Report(cluster.Status{ID: "demo.web.1.a", State: cluster.InstanceFailed})
	if want := []string{"hold 0", "commit"}; !slices.Equal(s.calls, want) {
		t.Errorf("got %v, want %v", s.calls, want)
	}
}

func TestTakeoverWaitsForProofAndVerifies(t *testing.T) {
	s, st := newStage(t, 3)
	s.deaf["n3"] = true
	s.pass(450 * time.Millisecond)
	in := webOn("n1")
	in.After = &cluster.Owner{Node: "n3", BootID: "n3-1", Epoch: 50}
	st = next(st, func(st *cluster.State) {
		st.Nodes[2].State = cluster.NodeLost
		st.Instances = []cluster.Instance{in}
	})
	s.brain.Ledger(st, false)
	s.peers["n2"].Refuse(s.now, "n3", "n3-1")
	if len(s.run) != 1 {
		t.Error("safety lease is made ready at once")
	}
	s.brain.Report(cluster.Status{ID: in.ID, State: cluster.InstanceRunning})
	s.answer(true, nil) // the status; not the verify write, which is not there yet
	if len(s.held) != 0 {
		t.Fatal("held without proof")
	}
	for range 100 {
		if s.pass(25 * time.Millisecond); len(s.commits) > 0 {
			break
		}
	}
	if len(s.commits) != 1 || len(s.held) != 0 {
		t.Fatalf("got %d commits and %v held, want the verify write and nothing", len(s.commits), s.held)
	}
	s.answer(false, errors.New("lost"))
	s.pass(100 * time.Millisecond)
	if len(s.commits) != 1 || len(s.held) != 0 {
		t.Fatalf("unknown outcome: got %d commits and %v held, want it repeated", len(s.commits), s.held)
	}
	verify := s.answer(true, nil)[0]
	if want := (cluster.Condition{Key: in.SlotKey(), Revision: 90}); !slices.Contains(verify.Conditions, want) {
		t.Errorf("got %+v, want condition %+v", verify, want)
	}
	if len(s.held) != 1 {
		t.Error("not held after the verify write")
	}
}

func TestRefusedVerifyNeverHolds(t *testing.T) {
	s, st := newStage(t, 3)
	in := webOn("n1")
	in.After = &cluster.Owner{Node: "n3", BootID: "n3-0", Epoch: 50} // an earlier boot: proof
	s.brain.Ledger(next(st, func(st *cluster.State) { st.Instances = []cluster.Instance{in} }), false)
	s.brain.Report(cluster.Status{ID: in.ID, State: cluster.InstanceRunning})
	s.answer(false, nil)
	s.pass(time.Second)
	if len(s.held) != 0 || len(s.run) != 0 {
		t.Errorf("got %v held, %v run; want nothing", s.held, s.run)
	}
}

func TestPowerDoesNotRun(t *testing.T) {
	s, st := newStage(t, 3)
	in := webOn("n1")
	in.Spec.Safety = cluster.SafetyPower
	in.After = &cluster.Owner{Node: "n3", BootID: "n3-1"}
	st = next(st, func(st *cluster.State) { st.Nodes[2].State = cluster.NodeLost; st.Instances = []cluster.Instance{in} })
	s.brain.Ledger(st, false)
	s.pass(5 * time.Second)
	if len(s.run) != 0 {
		t.Error("runs without proof")
	}
	said := s.answer(true, nil)[0].Puts[0].Value.(cluster.Status)
	if !strings.Contains(said.Message, "n3 is off") {
		t.Errorf("got %q", said.Message)
	}
	s.brain.Ledger(next(st, func(st *cluster.State) { st.Nodes[2].BootID = "n3-2" }), false)
	s.answer(true, nil)
	if len(s.run) != 1 {
		t.Error("does not run after the old owner is back in a new boot")
	}
}

func TestCondemned(t *testing.T) {
	for name, change := range map[string]func(*cluster.State){
		"lost":     func(st *cluster.State) { st.Nodes[0].State = cluster.NodeLost },
		"replaced": func(st *cluster.State) { st.Nodes[0].BootID = "n1-2" },
		"removed":  func(st *cluster.State) { st.Nodes = st.Nodes[1:] },
	} {
		s, st := newStage(t, 3)
		s.brain.Ledger(next(st, func(st *cluster.State) { st.Instances = []cluster.Instance{webOn("n1")} }), false)
		s.brain.Report(cluster.Status{ID: "demo.web.1.a", State: cluster.InstanceRunning})
		st = next(st, func(st *cluster.State) { st.Revision += 5 })
		s.brain.Ledger(next(st, change), false)
		if s.doomed == "" || len(s.held) != 0 || s.brain.Ended() == "" {
			t.Errorf("%s: got %q, %v held", name, s.doomed, s.held)
		}
		before := len(s.calls)
		s.brain.Tick()
		s.brain.Report(cluster.Status{ID: "demo.web.1.a", State: cluster.InstanceRunning})
		if len(s.calls) != before {
			t.Errorf("%s: not inert", name)
		}
	}

	// An agent that starts again in a boot that was removed meanwhile must notice.
	s, st := newStage(t, 3)
	again := testNode(1)
	again.Epoch = 50
	s.brain = New(again, Config{Member: testMember}, s)
	s.brain.Ledger(next(st, func(st *cluster.State) { st.Nodes = st.Nodes[1:] }), false)
	if s.doomed == "" {
		t.Error("removed while the agent was away: not noticed")
	}

	// A copy of the ledger from before this boot was admitted condemns nobody.
	s, st = newStage(t, 3)
	s.brain = New(testNode(1), Config{Member: testMember}, s)
	s.brain.Ledger(next(st, func(st *cluster.State) { st.Nodes[0].BootID = "n1-0" }), false)
	if s.doomed != "" {
		t.Errorf("got %q", s.doomed)
	}
}

func TestDeclareLost(t *testing.T) {
	s, st := newStage(t, 3)
	s.brain.Ledger(next(st, func(*cluster.State) {}), true)
	s.deaf["n3"] = true
	s.pass(time.Second)
	got := s.answer(true, nil)
	if len(got) == 0 || got[0].Puts[0].Value.(cluster.Node).State != cluster.NodeLost {
		t.Fatalf("got %+v", got)
	}
	if why := got[0].Events[0].Why; !strings.Contains(why, "2 nodes say so") {
		t.Errorf("got %q", why)
	}

	// The one that hears nobody gives nobody up.
	s, st = newStage(t, 3)
	s.brain.Ledger(next(st, func(*cluster.State) {}), true)
	s.deaf["n2"], s.deaf["n3"] = true, true
	s.pass(2 * time.Second)
	if got := s.answer(true, nil); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}

// A node that is heard but hears nobody has no lease and falls silent to nobody: it is given up on its own word.
func TestDeafNodeIsLost(t *testing.T) {
	for busy, patience := range map[bool]time.Duration{false: deafPatience, true: busyPatience} {
		testDeafNodeIsLost(t, busy, patience)
	}
}

func testDeafNodeIsLost(t *testing.T, busy bool, patience time.Duration) {
	s, st := newStage(t, 3)
	s.brain.Ledger(next(st, func(*cluster.State) {}), true)
	s.mono["n3"] = true
	s.peers["n3"].Busy(busy)
	s.pass(patience + s.brain.core.Silent() - 100*time.Millisecond) // a busy machine, or a bad moment of all its links
	if got := s.answer(true, nil); len(got) != 0 {
		t.Fatalf("given up too soon: %+v", got)
	}
	s.pass(500 * time.Millisecond)
	got := s.answer(true, nil)
	if len(got) == 0 || got[0].Puts[0].Value.(cluster.Node).Name != "n3" || got[0].Puts[0].Value.(cluster.Node).State != cluster.NodeLost {
		t.Fatalf("got %+v, want n3 lost", got)
	}
	if why := got[0].Events[0].Why; !strings.Contains(why, "hears nobody") {
		t.Errorf("got %q, want its own word as the reason", why)
	}
}

// A coordinator that suddenly hears nobody is the one in trouble: it does not give up even the one that the ledger
// could do without, in the moment in which it still counts as heard by a majority.
func TestWhoHearsNobodyGivesNobodyUp(t *testing.T) {
	s, st := newStage(t, 3)
	s.brain.Ledger(next(st, func(st *cluster.State) {
		st.Nodes[0].MemberID, st.Nodes[1].MemberID = 1, 2 // n3 is to be a voter and is none yet
	}), true)
	s.deaf["n2"], s.deaf["n3"] = true, true
	s.pass(2 * time.Second)
	if got := s.answer(true, nil); len(got) != 0 {
		t.Errorf("got %+v, want nobody lost", got)
	}
}

func TestManyLostAtOnce(t *testing.T) {
	// n4 and n5, no voters, are silent, and so is voter n3: n1 and n2 are a majority of the voters.
	s, st := newStage(t, 5)
	s.brain.Ledger(next(st, func(*cluster.State) {}), true)
	s.deaf["n3"], s.deaf["n4"], s.deaf["n5"] = true, true, true
	s.pass(time.Second)
	lost := map[string]bool{}
	for _, txn := range s.answer(true, nil) {
		lost[txn.Events[0].Subject] = true
	}
	if len(lost) != 3 {
		t.Errorf("with a majority of the voters all that are silent are lost: got %v", lost)
	}
}

func TestRoutesFollowLinks(t *testing.T) {
	s, _ := newStage(t, 3)
	if len(s.routes) != 2 || s.routes[0] != (Route{Number: 2, Name: "n2", Link: "eth0", Via: netip.MustParseAddr("10.77.0.2")}) {
		t.Fatalf("got %+v", s.routes)
	}
	cut := s.brain.world
	s.brain.world = &oneLink{stage: s}
	for range 40 {
		s.now += 25 * time.Millisecond
		s.brain.Tick()
		for _, c := range s.peers {
			for _, g := range c.Tick(s.now) {
				if g.To.Addr().As4()[3] == 1 && g.Link == "eth1" {
					_ = s.brain.Datagram(g.Link, g.Payload)
				}
			}
		}
	}
	s.brain.world = cut
	for _, r := range s.routes {
		if r.Link != "eth1" {
			t.Errorf("got %+v, want eth1", r)
		}
	}
	if len(s.events) == 0 || s.events[0].Kind != cluster.EventLink {
		t.Errorf("no event of the lost link: %+v", s.events)
	}
}

type oneLink struct{ *stage }

func (o *oneLink) Send(d member.Datagram) {
	if d.Link == "eth1" {
		o.stage.Send(d)
	}
}

func TestStatusesAreJoined(t *testing.T) {
	s, st := newStage(t, 3)
	st = next(st, func(st *cluster.State) {
		for i := range 5 {
			in := webOn("n1")
			in.ID, in.Slot = fmt.Sprintf("demo.web.%d.a", i+2), i+2
			st.Instances = append(st.Instances, in)
		}
	})
	s.brain.Ledger(st, false)
	for i := range 5 {
		s.brain.Report(cluster.Status{ID: fmt.Sprintf("demo.web.%d.a", i+2), State: cluster.InstanceRunning})
	}
	if len(s.commits) != 1 {
		t.Fatalf("one transaction at a time: got %d", len(s.commits))
	}
	s.answer(true, nil)
	if got := s.answer(true, nil); len(got) != 1 || len(got[0].Puts) != 4 {
		t.Errorf("got %+v, want the other four in one", got)
	}
	s.brain.Report(cluster.Status{ID: "demo.web.2.a", State: cluster.InstanceRunning, Restarts: 1})
	s.brain.Report(cluster.Status{ID: "demo.web.2.a", State: cluster.InstanceRunning, Restarts: 2})
	s.pass(200 * time.Millisecond)
	if got := s.answer(true, nil); len(got) != 1 || got[0].Puts[0].Value.(cluster.Status).Restarts != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestStopSaysGoodbye(t *testing.T) {
	s, _ := newStage(t, 3)
	s.brain.Stop("power button")
	if v := s.peers["n2"].View(s.now); v.Peers[0].Gasped != "power button" {
		t.Errorf("got %+v", v.Peers[0])
	}
}

// TestQuiet: the world is told early of a peer that begins to be silent, and not of all of them, since then it
// is this node that is cut off.
func TestQuiet(t *testing.T) {
	s, _ := newStage(t, 3)
	if len(s.quiet) > 0 {
		t.Fatalf("got %v quiet, want none", s.quiet)
	}
	s.deaf["n3"] = true
	s.pass(s.brain.core.Silent() - 50*time.Millisecond)
	if want := []string{"n3"}; !slices.Equal(s.quiet, want) {
		t.Errorf("got %v quiet, want %v, before it counts as silent", s.quiet, want)
	}
	for range 5 {
		s.deaf["n3"] = false
		s.pass(300 * time.Millisecond)
		s.deaf["n3"] = true
		s.pass(350 * time.Millisecond)
	}
	if len(s.quiet) != 1 {
		t.Errorf("got told %d times in a few seconds, want once", len(s.quiet))
	}

	s, _ = newStage(t, 3)
	s.deaf["n2"], s.deaf["n3"] = true, true
	s.pass(time.Second)
	if len(s.quiet) > 0 {
		t.Errorf("got %v quiet, want none: both at once is our own links", s.quiet)
	}
}

func TestHears(t *testing.T) {
	s, st := newStage(t, 3)
	if !s.brain.Hears("n2", "n2-1") || s.brain.Hears("n2", "n2-0") || s.brain.Hears("n9", "n2-1") {
		t.Error("want n2 heard in its boot, in no other, and nobody else")
	}
	s.brain.Ledger(next(st, func(st *cluster.State) { st.Nodes[1].State = cluster.NodeLost }), false)
	s.pass(time.Second)
	if !s.brain.Hears("n2", "n2-1") {
		t.Error("want n2 heard, lost as it is: it has not ended")
	}
	s.deaf["n2"] = true
	s.pass(2 * time.Second)
	if s.brain.Hears("n2", "n2-1") || !s.brain.Hears("n3", "n3-1") {
		t.Error("want n2 silent and n3 heard")
	}
}

// TestFramesMakeBusy: peers learn that something comes in when more does than switches say by themselves.
func TestFramesMakeBusy(t *testing.T) {
	for _, each := range []uint64{0, 1, 20} { // in 100 ms
		s, st := newStage(t, 3)
		s.brain.Ledger(next(st, func(*cluster.State) {}), false)
		s.deafened = true
		var seen bool
		for range 20 {
			s.frames += each
			s.pass(100 * time.Millisecond)
			for _, p := range s.peers["n2"].View(s.now).Peers {
				seen = seen || p.Name == "n1" && p.Busy
			}
		}
		if seen != (each == 20) {
			t.Errorf("%d frames in 100 ms: busy %v", each, seen)
		}
	}
}
