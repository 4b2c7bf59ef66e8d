package admission

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var testToken = Token(strings.Repeat("k", 32))

func machine(i int) Beacon {
	return Beacon{Cluster: "lab", Name: fmt.Sprintf("n%d", i), Identity: Identity{fmt.Sprintf("machine-%02d", i), fmt.Sprintf("boot-%02d-000", i)},
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 77, 0, byte(i)})}}
}

func TestFormationSteps(t *testing.T) {
	self := machine(1)
	self.Expect = 2
	fresh := machine(2)
	fresh.Expect = 2
	member := machine(3)
	member.ClusterID = "abc"
	other := machine(4)
	other.ClusterID = "def"
	voted := fresh
	voted.Vote = self.candidacy()
	lower := machine(0)
	lower.Expect = 2
	stranger := fresh
	stranger.Cluster = "prod"
	tests := []struct {
		name   string
		heard  []Beacon
		at     time.Duration
		want   Action
		reason string
	}{
		{"alone", nil, time.Second, Wait, "sees 1 of 2"},
		{"another cluster's machine", []Beacon{stranger}, time.Second, Wait, "sees 1 of 2"},
		{"not settled", []Beacon{fresh}, 10 * time.Millisecond, Wait, "waits until"},
		{"settled, no vote of the other", []Beacon{fresh}, time.Second, Wait, "has 1 of 2"},
		{"has the votes", []Beacon{voted}, time.Second, FoundIt, "votes of n2"},
		{"a lower machine", []Beacon{lower}, time.Second, Wait, "waits for n0"},
		{"a member", []Beacon{voted, member}, time.Second, JoinIt, "n3 is a member"},
		{"two clusters of the name", []Beacon{member, other}, time.Second, Wait, "2 clusters"},
		{"a member that fell silent", []Beacon{member}, 3 * time.Second, Wait, "sees 1 of 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := NewFormation(self, Memory{}, 0, 0)
			for i, b := range tt.heard {
				b.Counter = uint64(i + 1)
				f.Hear(0, b)
			}
			f.Step(0)
			got := f.Step(tt.at)
			if got.Action != tt.want || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("got %s: %s, want %s: ...%s...", got.Action, got.Reason, tt.want, tt.reason)
			}
			if got.Action == JoinIt && got.Members[0].String() != "10.77.0.3:7701" {
				t.Errorf("members: %v", got.Members)
			}
		})
	}
}

func TestVoteIsKeptUntilItCanDoNoHarm(t *testing.T) {
	self, a := machine(2), machine(1)
	self.Expect, a.Expect = 2, 2
	vote := func() (*Formation, Beacon) {
		f := NewFormation(self, Memory{}, 0, 0)
		a.Counter = 1
		f.Hear(0, a)
		f.Step(0)
		f.Step(time.Second)
		if f.Memory().Vote != a.candidacy() {
			t.Fatalf("vote: got %v, want %v", f.Memory().Vote, a.candidacy())
		}
		return f, a
	}
	f, _ := vote()
	if d := f.Step(time.Hour); f.Memory().Vote != a.candidacy() || !strings.Contains(d.Reason, "silent") {
		t.Errorf("a silent candidate: vote %v, %s", f.Memory().Vote, d.Reason)
	}
	f = NewFormation(self, f.Memory(), 0, 0) // the agent is restarted
	if f.Step(2 * time.Hour); f.Beacon(0).Vote != a.candidacy() {
		t.Error("a restart of the agent forgot the vote")
	}
	f, b := vote()
	b.Counter, b.Term = 2, 1
	f.Hear(time.Second, b)
	if f.Step(time.Second); f.Memory().Vote == a.candidacy() {
		t.Error("the candidacy was given up, vote is still bound")
	}
	f, b = vote()
	b.BootID = "another-boot"
	f.Hear(time.Second, b)
	if f.Step(time.Second); f.Memory().Vote == a.candidacy() {
		t.Error("candidate rebooted, vote is still bound")
	}
}

// sim is a set of machines in one set of boots, with a network that loses and delays.
type sim struct {
	now   time.Duration
	nodes []*simNode
	air   []flight
}

type simNode struct {
	self    Beacon
	f       *Formation
	member  string
	founded bool
}

type flight struct {
	to int
	at time.Duration
	b  Beacon
}

func (s *sim) step(draw func(from, to int) (lost bool, delay time.Duration)) {
	s.now += BeaconInterval
	for i, n := range s.nodes {
		b := n.self
		if n.member != "" {
			b.ClusterID, b.Counter = n.member, uint64(s.now)
		} else {
			b = n.f.Beacon(s.now)
		}
		for j := range s.nodes {
			if i == j {
				continue
			}
			if lost, delay := draw(i, j); !lost {
				s.air = append(s.air, flight{j, s.now + delay, b})
			}
		}
	}
	var rest []flight
	for _, fl := range s.air {
		if fl.at <= s.now {
			s.nodes[fl.to].f.Hear(s.now, fl.b)
		} else {
			rest = append(rest, fl)
		}
	}
	s.air = rest
	for i, n := range s.nodes {
		if n.member != "" {
			continue
		}
		switch d := n.f.Step(s.now); d.Action {
		case FoundIt:
			n.member, n.founded = "cluster-of-"+n.self.Name, true
		case JoinIt:
			to := int(d.Members[0].Addr().As4()[3])
			if lost, _ := draw(i, to); !lost && s.nodes[to].member != "" {
				n.member = s.nodes[to].member
			}
		}
	}
}

func (s *sim) founders() (list []string) {
	for _, n := range s.nodes {
		if n.founded {
			list = append(list, n.self.Name)
		}
	}
	return list
}

func newSim(n, expect int) *sim {
	s := &sim{}
	for i := range n {
		b := machine(i)
		b.Expect = expect
		s.nodes = append(s.nodes, &simNode{self: b, f: NewFormation(b, Memory{}, 0, 0)})
	}
	return s
}

func TestNeverTwoFoundersAndAlwaysOneInTheEnd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 7).Draw(rt, "machines")
		expect := rapid.IntRange(n/2+1, n).Draw(rt, "expect")
		s := newSim(n, expect)
		loss := rapid.IntRange(0, 90).Draw(rt, "loss percent")
		maxDelay := rapid.IntRange(0, 4000).Draw(rt, "delay ms")
		cut := make(map[[2]int]bool)
		for range rapid.IntRange(5, 80).Draw(rt, "steps of trouble") {
			switch rapid.IntRange(0, 9).Draw(rt, "event") {
			case 0: // a one-way cut
				cut[[2]int{rapid.IntRange(0, n-1).Draw(rt, "from"), rapid.IntRange(0, n-1).Draw(rt, "to")}] = true
			case 1:
				clear(cut)
			case 2: // an agent is restarted: what it heard is forgotten, what it must remember is not
				if x := s.nodes[rapid.IntRange(0, n-1).Draw(rt, "restarted")]; x.member == "" {
					x.f = NewFormation(x.self, x.f.Memory(), 0, 0)
				}
			}
			seed := rapid.Uint64().Draw(rt, "dice")
			s.step(func(from, to int) (bool, time.Duration) {
				seed = seed*6364136223846793005 + 1442695040888963407
				d := int(seed >> 33)
				return cut[[2]int{from, to}] || d%100 < loss, time.Duration(d/100%(maxDelay+1)) * time.Millisecond
			})
			if f := s.founders(); len(f) > 1 {
				rt.Fatalf("two founders: %v", f)
			}
		}
		for range 150 {
			s.step(func(int, int) (bool, time.Duration) { return false, 0 })
		}
		if f := s.founders(); len(f) != 1 {
			rt.Fatalf("founders after the trouble: %v, want one", f)
		}
		for _, x := range s.nodes {
			if x.member == "" {
				rt.Fatalf("%s is in no cluster: %+v", x.self.Name, x.f.Step(s.now))
			}
		}
	})
}

func TestBeaconCodec(t *testing.T) {
	b := machine(1)
	b.Expect, b.Counter, b.Vote = 3, 7, Candidacy{machine(2).Identity, 4}
	data, err := b.Encode(testToken)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeBeacon(testToken, data)
	if err != nil || got.Vote != b.Vote || got.Addrs[0] != b.Addrs[0] || got.Counter != 7 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := DecodeBeacon(Token(strings.Repeat("x", 32)), data); err != ErrWrongToken {
		t.Errorf("another token: got %v", err)
	}
	data[len(data)-3] ^= 1
	if _, err := DecodeBeacon(testToken, data); err != ErrWrongToken {
		t.Errorf("a changed beacon: got %v", err)
	}
	if _, err := DecodeBeacon(testToken, []byte("SKH1 heartbeat, long enough to be one, is it not, or not?")); err != ErrNoBeacon {
		t.Errorf("a heartbeat: got %v", err)
	}
	bad := machine(1)
	bad.Name = "Bad Name"
	if data, err = bad.Encode(testToken); err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeBeacon(testToken, data); err != ErrBeaconShape {
		t.Errorf("a bad name: got %v", err)
	}
}

func FuzzDecodeBeacon(f *testing.F) {
	b := machine(1)
	data, _ := b.Encode(testToken)
	f.Add(data, false)
	f.Add([]byte(`{"cluster":"lab"}`), true)
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		if sign { // past the HMAC, as a machine with the token could
			data = append(append([]byte(BeaconMagic), testToken.mac(purposeBeacon, data)...), data...)
		}
		b, err := DecodeBeacon(testToken, data)
		if err != nil {
			return
		}
		fo := NewFormation(machine(0), Memory{}, 0, 0)
		fo.Hear(1, *b)
		fo.Step(2)
		fo.Step(time.Hour)
	})
}

// hub is an Air that all machines share.
type hub struct {
	mu   sync.Mutex
	ears []chan []byte
}

type antenna struct {
	h    *hub
	self int
}

func (a antenna) Broadcast(data []byte) {
	a.h.mu.Lock()
	defer a.h.mu.Unlock()
	for i, e := range a.h.ears {
		if i != a.self {
			select {
			case e <- data:
			default: // a full queue is a lost datagram
			}
		}
	}
}

func TestDiscover(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h := &hub{}
	for range 3 {
		h.ears = append(h.ears, make(chan []byte, 64))
	}
	log := slog.New(slog.DiscardHandler)
	actions := make(chan Action, 3)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			b := machine(i)
			b.Expect = 3
			f := NewFormation(b, Memory{}, 0, 0)
			d, err := Discover(ctx, testToken, f, antenna{h, i}, h.ears[i], func(Memory) error { return nil }, func(Decision) {}, log)
			if err != nil {
				t.Error(err)
			}
			actions <- d.Action
			if d.Action == FoundIt {
				Announce(ctx, testToken, antenna{h, i}, func() Beacon { b.ClusterID = hex.EncodeToString([]byte("x")); return b }, log)
			}
		})
	}
	count := make(map[Action]int)
	for range 3 {
		count[<-actions]++
	}
	cancel()
	wg.Wait()
	if count[FoundIt] != 1 || count[JoinIt] != 2 {
		t.Errorf("actions: %v", count)
	}
}
