package member

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// lab is size nodes, all voters but those above voters, perfect network, running for a second.
func lab(t testing.TB, size, voters int) *world {
	t.Helper()
	w := newWorld(1, size)
	for _, n := range w.nodes {
		n.offset = time.Duration(n.id+1) * time.Minute
		w.start(n, voters)
	}
	w.run(time.Second)
	return w
}

func (w *world) view(i int) View { return w.nodes[i].core.View(w.nodes[i].clock(w.now)) }

func (v View) peer(name string) PeerView {
	for _, p := range v.Peers {
		if p.Name == name {
			return p
		}
	}
	return PeerView{}
}

func TestHealthyClusterSeesItself(t *testing.T) {
	w := lab(t, 4, 3)
	for i := range w.nodes {
		v := w.view(i)
		left := v.LeaseUntil - w.nodes[i].clock(w.now)
		if !v.Majority || left < 550*ms || left > 800*ms {
			t.Errorf("%s: got majority %v and %v of lease left, want true and 550 to 800 ms", w.nodes[i].name, v.Majority, left)
		}
		if len(v.Disagree) != 0 || len(v.RefusedBy) != 0 {
			t.Errorf("%s: got disagree %v, refused by %v, want none", w.nodes[i].name, v.Disagree, v.RefusedBy)
		}
		for _, p := range v.Peers {
			if !p.Alive || p.LeaseExpired || p.ConfirmedSilent != 0 || p.NewBoot != "" {
				t.Errorf("%s sees %+v, want it alive and well", w.nodes[i].name, p)
			}
			for _, l := range p.Links {
				if !l.Receiving || !l.Sending || l.LossPercent != 0 || l.RTT > 20*ms {
					t.Errorf("%s to %s: got link %+v, want it good", w.nodes[i].name, p.Name, l)
				}
			}
		}
	}
}

// TestPowerCut follows the timeline of the package comment.
func TestPowerCut(t *testing.T) {
	w := lab(t, 3, 3)
	dead := w.nodes[2]
	end := dead.trueTime(w.view(2).LeaseUntil)
	dead.dead = true
	cut := w.now
	for w.view(0).peer("n03").Alive || w.view(0).peer("n03").ConfirmedSilent < 2 {
		w.run(5 * ms)
	}
	silentAfter := w.now - cut
	if silentAfter < 280*ms || silentAfter > 560*ms {
		t.Errorf("got silence confirmed by two after %v, want 300 to 550 ms", silentAfter)
	}
	if w.view(0).peer("n03").LeaseExpired {
		t.Error("got proof before anything was refused")
	}
	w.ledger = append(w.ledger, lostEntry{w.now, dead.name, dead.boot})
	for !w.view(0).peer("n03").LeaseExpired {
		w.run(5 * ms)
		if w.now-cut > 2*time.Second {
			t.Fatal("no proof two seconds after the cut")
		}
	}
	if w.now <= end {
		t.Errorf("got proof at %v, lease ended at %v", w.now, end)
	}
	if got := w.now - cut; got > 1000*ms {
		t.Errorf("got proof %v after the cut, want at most 1 s", got)
	}
	t.Logf("silence confirmed %v, proof %v after the cut", silentAfter, w.now-cut)
	if v := w.view(0); !v.Majority || v.LeaseUntil == 0 {
		t.Errorf("survivor: got %+v, want majority and lease", v)
	}
}

func TestLeaseEndsWithoutMajority(t *testing.T) {
	w := lab(t, 3, 3)
	w.cut = func(from, to int, _ string) bool { return (from == 0) != (to == 0) }
	w.run(900 * ms)
	if v := w.view(0); v.LeaseUntil != 0 || v.Majority {
		t.Errorf("isolated node: got lease %v, majority %v, want neither", v.LeaseUntil, v.Majority)
	}
	if v := w.view(1); v.LeaseUntil == 0 || !v.Majority {
		t.Errorf("majority side: got lease %v, majority %v, want both", v.LeaseUntil, v.Majority)
	}
	w.cut = func(int, int, string) bool { return false }
	w.run(400 * ms)
	if v := w.view(0); v.LeaseUntil == 0 || !v.Majority || !v.peer("n02").Alive {
		t.Errorf("healed: got %+v, want lease and majority back", v)
	}
}

func TestHealedButRefusedNodeGetsNoLease(t *testing.T) {
	w := lab(t, 3, 3)
	w.nodes[0].ledgerLag = time.Hour
	w.ledger = append(w.ledger, lostEntry{w.now, "n01", "boot-1"})
	w.run(time.Second)
	v := w.view(0)
	if v.LeaseUntil != 0 || v.Majority {
		t.Errorf("got lease %v, majority %v, want neither", v.LeaseUntil, v.Majority)
	}
	if got, want := fmt.Sprint(v.RefusedBy), "[n02 n03]"; got != want {
		t.Errorf("got refused by %v, want %v", got, want)
	}
	if p := w.view(1).peer("n01"); p.Alive || !p.LeaseExpired {
		t.Errorf("got %+v, want not alive and proof", p)
	}
}

// A worker that reads the ledger late and still hears the lost node vetoes the proof.
func TestLateReaderVetoes(t *testing.T) {
	w := lab(t, 4, 3)
	w.cut = func(from, to int, _ string) bool { return from == 0 && to != 3 || to == 0 && from != 3 }
	w.nodes[0].ledgerLag, w.nodes[3].ledgerLag = time.Hour, time.Hour
	w.ledger = append(w.ledger, lostEntry{w.now, "n01", "boot-1"})
	w.run(2 * time.Second)
	if w.view(1).peer("n01").LeaseExpired {
		t.Error("got proof while n04 hears n01 and has not refused it")
	}
	w.nodes[3].ledgerLag = 0
	w.run(1200 * ms)
	if !w.view(1).peer("n01").LeaseExpired {
		t.Error("got no proof after n04 refused too")
	}
}

func TestSelfRefusedGivesUp(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[0]
	n.core.Refuse(n.clock(w.now), n.name, n.boot)
	w.run(300 * ms)
	if v := w.view(0); v.LeaseUntil != 0 || v.Majority {
		t.Errorf("got lease %v, majority %v after own refusal, want neither", v.LeaseUntil, v.Majority)
	}
}

func TestSingleVoterHasLease(t *testing.T) {
	w := lab(t, 1, 1)
	if v := w.view(0); v.LeaseUntil == 0 || !v.Majority {
		t.Errorf("got %+v, want a lease by itself", v)
	}
}

func TestNoVotersNoLease(t *testing.T) {
	w := lab(t, 3, 0)
	if v := w.view(0); v.LeaseUntil != 0 || v.Majority {
		t.Errorf("got %+v, want no lease", v)
	}
}

func TestVoterChangeKeepsLease(t *testing.T) {
	w := lab(t, 4, 3)
	before := w.view(0).LeaseUntil
	n := w.nodes[0]
	n.core.SetPeers(n.clock(w.now), true, w.peersOf(n, 4))
	v := w.view(0)
	if v.LeaseUntil != before {
		t.Errorf("got lease %v right after the change, want %v", v.LeaseUntil, before)
	}
	w.run(200 * ms)
	if v := w.view(0); len(v.Disagree) != 3 || v.LeaseUntil > before {
		t.Errorf("got disagree %v, lease %v; want 3 and no longer than %v", v.Disagree, v.LeaseUntil, before)
	}
	for _, n := range w.nodes[1:] {
		n.core.SetPeers(n.clock(w.now), true, w.peersOf(n, 4))
	}
	w.run(300 * ms)
	if v := w.view(0); len(v.Disagree) != 0 || v.LeaseUntil <= before {
		t.Errorf("got disagree %v, lease %v; want none and longer than %v", v.Disagree, v.LeaseUntil, before)
	}
}

func TestLinksToldApart(t *testing.T) {
	for _, tt := range []struct {
		name               string
		cut                func(from, to int, link string) bool
		receiving, sending bool
		kind               LinkKind
	}{
		{"dead both ways", func(f, to int, l string) bool { return l == "eth1" && f+to == 1 }, false, false, LinkSilent},
		{"they do not hear us", func(f, to int, l string) bool { return l == "eth1" && f == 0 && to == 1 }, true, false, LinkOneWay},
		{"we do not hear them", func(f, to int, l string) bool { return l == "eth1" && f == 1 && to == 0 }, false, true, LinkOneWay},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := lab(t, 3, 3)
			n := w.nodes[0]
			n.core.Events(n.clock(w.now))
			w.cut = tt.cut
			var events []LinkEvent
			w.after = func(x *simNode) {
				if x == n {
					events = append(events, n.core.Events(n.clock(w.now))...)
				}
			}
			w.run(950 * ms)
			p := w.view(0).peer("n02")
			if !p.Alive {
				t.Error("got n02 not alive, want alive over eth0")
			}
			if l := p.Links[1]; l.Receiving != tt.receiving || l.Sending != tt.sending {
				t.Errorf("got %+v, want receiving %v, sending %v", l, tt.receiving, tt.sending)
			}
			if l := p.Links[0]; !l.Receiving || !l.Sending {
				t.Errorf("got %+v, want the other link good", l)
			}
			if len(events) != 1 || events[0].Kind != tt.kind || events[0].Link != "eth1" || events[0].Peer != "n02" {
				t.Errorf("got events %+v, want one of kind %s", events, tt.kind)
			}
			w.cut = func(int, int, string) bool { return false }
			w.run(20 * time.Second)
			if got := events[len(events)-1].Kind; got != LinkBack {
				t.Errorf("got last event %s after the repair, want back", got)
			}
		})
	}
}

// A peer that is heard but hears nobody says so; one that hears anybody on any link is not deaf.
func TestDeafPeerIsTold(t *testing.T) {
	for _, tt := range []struct {
		name string
		cut  func(from, to int, link string) bool // n02 is number 1
		deaf bool
	}{
		{"hears all", func(int, int, string) bool { return false }, false},
		{"hears nobody", func(_, to int, _ string) bool { return to == 1 }, true},
		{"hears nobody on one link", func(_, to int, l string) bool { return to == 1 && l == "eth0" }, false},
		{"does not hear us", func(f, to int, _ string) bool { return f == 0 && to == 1 }, false},
		{"hears us only", func(f, to int, _ string) bool { return f == 2 && to == 1 }, false},
		{"is not heard either", func(f, to int, _ string) bool { return f == 1 || to == 1 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := lab(t, 3, 3)
			w.cut = tt.cut
			w.run(time.Second)
			p := w.view(0).peer("n02")
			if got := p.DeafFor; (got > 0) != tt.deaf || got > 700*ms {
				t.Errorf("deaf for %v, want deaf %v since it could know", got, tt.deaf)
			}
			w.cut = func(int, int, string) bool { return false }
			w.run(300 * ms)
			if got := w.view(0).peer("n02").DeafFor; got != 0 {
				t.Errorf("deaf for %v after the repair, want 0", got)
			}
		})
	}
	// Who stood still heard nobody meanwhile, but that is no silence of others: it is not deaf.
	w := lab(t, 3, 3)
	w.nodes[1].frozenUntil = w.now + 2*time.Second
	deaf := false
	w.after = func(*simNode) { deaf = deaf || w.view(0).peer("n02").DeafFor > 0 }
	w.run(4 * time.Second)
	if deaf {
		t.Error("a node that stood still was deaf when it went on")
	}
}

// A link that flaps at 1 Hz for five minutes is a handful of events, not six hundred (catalogue row 54).
func TestFlappingLinkIsDamped(t *testing.T) {
	w := lab(t, 2, 2)
	w.cut = func(_, _ int, l string) bool { return l == "eth1" && w.now/time.Second%2 == 0 }
	count := 0
	w.after = func(x *simNode) {
		if x.id == 0 {
			count += len(x.core.Events(x.clock(w.now)))
		}
	}
	w.run(5 * time.Minute)
	if count == 0 || count > 12 {
		t.Errorf("got %d events, want 1 to 12", count)
	}
}

func TestDeadNodeIsNoLinkEvent(t *testing.T) {
	w := lab(t, 2, 2)
	w.nodes[1].dead = true
	w.after = func(x *simNode) {
		for _, e := range x.core.Events(x.clock(w.now)) {
			t.Errorf("got link event %+v of a dead node", e)
		}
	}
	w.run(3 * time.Second)
}

func TestLossIsSeenAndAloneDoesNotSilence(t *testing.T) {
	w := lab(t, 3, 3)
	w.loss = .3
	w.delay = func() time.Duration { return time.Duration(w.rng.Int64N(int64(50 * ms))) }
	silent := 0
	w.after = func(n *simNode) {
		for _, p := range n.core.View(n.clock(w.now)).Peers {
			if !p.Alive {
				silent++
			}
		}
	}
	w.run(time.Minute)
	l := w.view(0).peer("n02").Links[0]
	if l.LossPercent < 10 || l.LossPercent > 60 {
		t.Errorf("got loss %d %%, want about 30", l.LossPercent)
	}
	// Both links lose four rounds in a row once in 15,000; three nodes see 1,200 rounds each here.
	if silent > 60 {
		t.Errorf("got silent %d times in a minute of 30 %% loss", silent)
	}
}

func TestOwnStallIsNotTheirSilence(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[0]
	n.frozenUntil = w.now + 10*time.Second
	w.run(9990 * ms)
	n.backlog = nil // the socket buffer overflowed: nothing of it is left
	n.frozenUntil = 0
	now := n.clock(w.now)
	n.core.Tick(now)
	v := n.core.View(now)
	if !v.peer("n02").Alive || !v.peer("n03").Alive {
		t.Errorf("got %+v right after a stall, want peers still alive", v.Peers)
	}
	if v.LeaseUntil != 0 || v.Majority {
		t.Errorf("got lease %v, majority %v after a stall of 10 s, want neither", v.LeaseUntil, v.Majority)
	}
}

func TestGasp(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[2]
	w.send(n, n.core.Gasp(n.clock(w.now), "watchdog: agent stuck"))
	w.run(10 * ms)
	p := w.view(0).peer("n03")
	if p.Alive || p.Gasped != "watchdog: agent stuck" {
		t.Errorf("got alive %v, gasped %q, want false and the reason", p.Alive, p.Gasped)
	}
	if p.LeaseExpired {
		t.Error("got proof from a gasp, want it to be only a hint")
	}
	if v := w.view(2); v.LeaseUntil != 0 {
		t.Errorf("got lease %v after own gasp, want none", v.LeaseUntil)
	}
	if out := n.core.Tick(n.clock(w.now) + time.Second); len(out) != 0 {
		t.Errorf("got %d heartbeats after the gasp, want none", len(out))
	}
	w.start(n, 3) // the boot goes on after all: a new agent
	w.run(300 * ms)
	if p := w.view(0).peer("n03"); !p.Alive || p.Gasped != "" {
		t.Errorf("got alive %v, gasped %q after its agent came back, want true and nothing", p.Alive, p.Gasped)
	}
}

func TestNewBoot(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[2]
	recorded := n.core.Tick(n.clock(w.now) + 50*ms)
	n.boot = "boot-3b"
	n.offset -= 30 * time.Second // its clock starts again
	w.start(n, 3)
	w.run(400 * ms)
	if p := w.view(0).peer("n03"); p.NewBoot != "boot-3b" {
		t.Errorf("got new boot %q, want boot-3b", p.NewBoot)
	}
	// The ledger admits the new boot; a recording of the old one is no news.
	for _, o := range w.nodes[:2] {
		o.core.SetPeers(o.clock(w.now), true, w.peersOf(o, 3))
	}
	err := w.nodes[0].core.Step(w.nodes[0].clock(w.now), "eth0", recorded[0].Payload)
	if !errors.Is(err, ErrStale) {
		t.Errorf("recording of the old boot: got %v, want ErrStale", err)
	}
	w.run(400 * ms)
	if p := w.view(0).peer("n03"); p.NewBoot != "" || p.BootID != "boot-3b" || !p.Alive {
		t.Errorf("got %+v, want boot-3b alive and no other boot", p)
	}
	// A core that knows nothing of the past does not believe the recording either.
	w.start(w.nodes[1], 3)
	w.run(100 * ms)
	err = w.nodes[1].core.Step(w.nodes[1].clock(w.now), "eth0", recorded[0].Payload)
	if !errors.Is(err, ErrStale) || w.view(1).peer("n03").NewBoot != "" {
		t.Errorf("recording at a new core: got %v, new boot %q, want ErrStale and none", err, w.view(1).peer("n03").NewBoot)
	}
}

func TestStepRefuses(t *testing.T) {
	w := lab(t, 2, 2)
	a, b := w.nodes[0], w.nodes[1]
	now := b.clock(w.now) + 200*ms
	good := b.core.Tick(now)[0].Payload
	other := func(change func(*Config)) []byte {
		v := newWorld(1, 3)
		v.cfg = change
		v.start(v.nodes[1], 2)
		return v.nodes[1].core.Tick(0)[0].Payload
	}
	flip := bytes.Clone(good)
	flip[len(flip)/2] ^= 1
	version := bytes.Clone(good)
	version[2] = 9
	for _, tt := range []struct {
		name    string
		payload []byte
		want    error
	}{
		{"good", good, nil},
		{"copy", good, ErrStale},
		{"flipped bit", flip, ErrAuth},
		{"cut short", good[:len(good)-1], ErrAuth},
		{"tiny", good[:10], ErrMalformed},
		{"empty", nil, ErrMalformed},
		{"huge", make([]byte, 10000), ErrMalformed},
		{"noise", bytes.Repeat([]byte{7}, 200), ErrMalformed},
		{"other version", version, ErrMalformed},
		{"other cluster", other(func(c *Config) { c.ClusterID = "shop" }), ErrForeign},
		{"other key", other(func(c *Config) { c.Key = bytes.Repeat([]byte{1}, 32) }), ErrAuth},
		{"not a member", other(func(c *Config) { c.Self = "n77" }), ErrForeign},
		{"our own name", other(func(c *Config) { c.Self = "n01" }), ErrForeign},
	} {
		if err := a.core.Step(a.clock(w.now), "eth0", tt.payload); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestReorderedIsDropped(t *testing.T) {
	w := lab(t, 2, 2)
	a, b := w.nodes[0], w.nodes[1]
	t1 := b.core.Tick(b.clock(w.now) + 100*ms)[0].Payload
	t2 := b.core.Tick(b.clock(w.now) + 250*ms)[0].Payload
	if err := a.core.Step(a.clock(w.now), "eth0", t2); err != nil {
		t.Fatal(err)
	}
	if err := a.core.Step(a.clock(w.now), "eth0", t1); !errors.Is(err, ErrStale) {
		t.Errorf("got %v, want ErrStale", err)
	}
}

// A heartbeat of 64 nodes fits into one Ethernet frame.
func TestHeartbeatOf64NodesFitsOneFrame(t *testing.T) {
	w := newWorld(1, 64)
	for _, n := range w.nodes {
		n.offset = 24 * time.Hour * 365
		w.start(n, 5)
	}
	w.run(600 * ms)
	for i := range 8 {
		out := w.nodes[0].core.Tick(w.nodes[0].clock(w.now) + time.Duration(i)*100*ms)
		if len(out) == 0 {
			continue
		}
		if got, want := len(out[0].Payload), 1500-28; got > want {
			t.Errorf("got %d bytes, want at most %d", got, want)
		}
		if len(out) != 63*2 {
			t.Errorf("got %d datagrams, want 126", len(out))
		}
	}
}

func TestTickKeepsItsPaceWithoutBursts(t *testing.T) {
	w := lab(t, 2, 2)
	c, now := w.nodes[0].core, w.nodes[0].clock(w.now)
	rounds := 0
	for i := range 400 { // 10 s in steps of 25 ms
		if len(c.Tick(now+time.Duration(i)*25*ms)) > 0 {
			rounds++
		}
	}
	if rounds < 99 || rounds > 101 {
		t.Errorf("got %d rounds in 10 s, want 100", rounds)
	}
	now += time.Minute
	if got := len(c.Tick(now)) + len(c.Tick(now+25*ms)) + len(c.Tick(now+50*ms)); got != 2 {
		t.Errorf("got %d datagrams after a stall, want one round of 2", got)
	}
}

func TestNewPanicsOnUselessConfig(t *testing.T) {
	for _, change := range []func(*Config){
		func(c *Config) { c.Self = "" },
		func(c *Config) { c.BootID = "" },
		func(c *Config) { c.Key = nil },
		func(c *Config) { c.Lease = time.Minute },
		func(c *Config) { c.Silent = ms },
	} {
		cfg := DefaultConfig()
		cfg.Self, cfg.BootID, cfg.Key = "n1", "b", make([]byte, 32)
		change(&cfg)
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "member: ") {
					t.Errorf("got %v, want a panic that tells what is wrong", r)
				}
			}()
			New(cfg)
		}()
	}
}

// FuzzStep feeds bytes with and without a valid tag: nothing may panic, and a stranger's bytes may not
// change what is seen.
func FuzzStep(f *testing.F) {
	w := lab(f, 3, 3)
	a, b := w.nodes[0], w.nodes[1]
	hb := b.core.Tick(b.clock(w.now) + 500*ms)[0].Payload
	f.Add(hb, false)
	f.Add(hb[:len(hb)-tagSize], true)
	will := b.core.Will(b.clock(w.now))[0].Payload
	f.Add(will, false)
	f.Add(will[:len(will)-tagSize], true)
	f.Add(b.core.Gasp(b.clock(w.now)+500*ms, "bye")[0].Payload, false)
	f.Add(b.core.Farewell(b.clock(w.now)+500*ms, "bye")[0].Payload, false)
	f.Add([]byte("Sk\x01\x01"), true)
	f.Add([]byte("Sk\x01\x04"), true)
	f.Add([]byte("Sk\x01\x03"), true)
	now := a.clock(w.now)
	f.Fuzz(func(t *testing.T, payload []byte, sign bool) {
		if sign {
			payload = a.core.appendTag(bytes.Clone(payload))
		}
		before := fmt.Sprint(a.core.View(now))
		err := a.core.Step(now, "eth0", payload)
		after := fmt.Sprint(a.core.View(now))
		if err != nil && before != after {
			t.Errorf("refused datagram (%v) changed the view", err)
		}
		if err == nil && !sign && !bytes.Equal(payload, hb) && payload[3] == kindHeartbeat {
			t.Errorf("a datagram that nobody signed was taken")
		}
	})
}

// BenchmarkRound64 is what one node of 64 does every 100 ms: one Tick and 126 Steps.
func BenchmarkRound64(b *testing.B) {
	w := newWorld(1, 64)
	for _, n := range w.nodes {
		w.start(n, 5)
	}
	w.run(300 * ms)
	me := w.nodes[0]
	now := w.now
	var in []wire
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		now += 100 * ms
		in = in[:0]
		for _, n := range w.nodes[1:] {
			for _, d := range n.core.Tick(n.clock(now)) {
				if a := d.To.Addr().As4(); a[3] == 1 {
					in = append(in, wire{link: d.Link, payload: d.Payload})
				}
			}
		}
		b.StartTimer()
		me.core.Tick(me.clock(now))
		for _, x := range in {
			if err := me.core.Step(me.clock(now), x.link, x.payload); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkView64(b *testing.B) {
	w := newWorld(1, 64)
	for _, n := range w.nodes {
		w.start(n, 5)
	}
	w.run(300 * ms)
	b.ReportAllocs()
	for b.Loop() {
		w.view(0)
	}
}

// TestNewsIsNotKeptWaiting: who comes to suspect a node, or to refuse it, says so at once, and once.
func TestNewsIsNotKeptWaiting(t *testing.T) {
	w := lab(t, 3, 3)
	n := w.nodes[0]
	clock := func() time.Duration { return n.clock(w.now) }
	w.nodes[2].dead = true
	for n.core.silentFor(clock(), n.core.byName["n03"]) <= n.core.cfg.Silent {
		w.run(5 * ms)
	}
	for !n.core.byName["n03"].told {
		w.run(5 * ms)
	}
	if wait := n.core.silentFor(clock(), n.core.byName["n03"]) - n.core.cfg.Silent; wait > 60*ms {
		t.Errorf("got the suspicion told after %v, want it within half an interval and a tick", wait)
	}
	w.run(70 * ms)
	next := n.core.nextSend
	n.core.Refuse(clock(), "n03", w.nodes[2].boot)
	if out := n.core.Tick(clock()); len(out) == 0 || clock() >= next {
		t.Errorf("got %d datagrams %v before the next heartbeat is due, want the refusal to be told at once", len(out), next-clock())
	}
	n.core.Refuse(clock(), "n03", w.nodes[2].boot)
	if n.core.news(clock() + n.core.cfg.Interval/2) {
		t.Error("got news, want none: it is told already")
	}
}
