package gfs2

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/skein-os/skein/storage/shared"
)

const fsName = "data"

// machine is a node of the model in one run of its kernel: what is decided, and the kernel it is done to.
type machine struct {
	self  shared.Member
	core  *shared.Core
	k     *kernel
	saved shared.Saved

	known  map[uint32]shared.Member // of comms, in memory and kept for a restarted agent
	action *shared.Action           // under way
	steps  []step
	after  map[uint32]shared.Member // known, when steps are done

	ledger int // entries of the ledger's history that it has seen
}

// site is all machines, the ledger, and what fences.
type site struct {
	disk     *sharedDisk
	machines []*machine // the last run of each node
	history  []func(*machine)
	cur      shared.Membership
	reports  map[uint32]shared.Report
	dead     map[shared.Member]bool // proof
	boots    uint64
	noWait   bool // a fault to be found: no member waits for the others' stop
	eager    bool // a fault to be found: a node that is fenced alive writes on
	most     int  // nodes at work at once
	keep     bool // a fault to be found: entries of comms stay
	log      []string
}

func newSite(n int) *site {
	s := &site{disk: &sharedDisk{dirty: map[uint32]uint64{}}, reports: map[uint32]shared.Report{}, dead: map[shared.Member]bool{}, boots: 1}
	for i := range n {
		s.machines = append(s.machines, nil)
		s.boot(i)
	}
	return s
}

func (s *site) boot(i int) {
	self := shared.Member{Node: fmt.Sprintf("n%d", i+1), ID: uint32(i + 1), Incarnation: s.boots, Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}
	s.boots++
	m := &machine{self: self, core: shared.NewCore(self), k: newKernel(self, s.disk), known: map[uint32]shared.Member{}, saved: shared.Saved{State: shared.Out}}
	m.k.keepComms = s.keep
	for _, st := range prepareSteps("c", self, m.k.seen()) {
		if err := m.k.do(st, fsName); err != nil {
			panic(err)
		}
	}
	s.machines[i] = m
}

// publish puts a machine's report into the ledger if it is news.
func (s *site) publish(m *machine) bool {
	m.saved = m.core.Save()
	r := m.core.Report()
	if old, ok := s.reports[m.self.ID]; ok && old == r {
		return false
	}
	s.reports[m.self.ID] = r
	s.history = append(s.history, func(o *machine) {
		if o.self.ID != r.Member.ID {
			o.core.Reported(r)
		}
	})
	return true
}

// plan is the coordinator's turn.
func (s *site) plan() bool {
	reports := slices.Collect(maps.Values(s.reports))
	slices.SortFunc(reports, func(a, b shared.Report) int { return int(a.Member.ID) - int(b.Member.ID) })
	next, why, ok := shared.Plan(s.cur, reports, 16, func(m shared.Member) bool { return s.dead[m] })
	if !ok {
		return false
	}
	if err := next.Validate(); err != nil {
		panic(fmt.Sprint(next, err))
	}
	s.log = append(s.log, fmt.Sprintf("%s (%s), left %v", next, why, next.Left))
	s.cur = next
	s.history = append(s.history, func(o *machine) { o.core.Committed(next) })
	return true
}

// hear gives a machine the next entry of the ledger.
func (s *site) hear(m *machine) bool {
	if m.ledger == len(s.history) {
		return false
	}
	s.history[m.ledger](m)
	m.ledger++
	return true
}

// act does one step of a machine's agent.
func (s *site) act(m *machine) (bool, error) {
	if m.action == nil {
		if s.noWait {
			for _, o := range s.cur.Members {
				m.core.Reported(shared.Report{Member: o, Stopped: s.cur.Generation})
			}
		}
		a, ok := m.core.Next()
		if !ok {
			return false, nil
		}
		m.action, m.saved = &a, m.core.Save() // as Controller does
		seen := m.k.seen()
		seen.known = m.known
		m.after = maps.Clone(m.known)
		switch a.Kind {
		case shared.Stop:
			m.steps, m.after = stopSteps(fsName, m.self, a, seen)
			m.known = untouched(m.known, m.steps)
		case shared.Start:
			m.steps = startSteps(fsName, a, seen)
			m.k.meant = map[uint32]uint64{}
			for _, o := range a.Membership.Members {
				m.k.meant[o.ID] = o.Incarnation
			}
		case shared.Release:
			m.steps = releaseSteps(fsName, seen)
		}
		s.log = append(s.log, fmt.Sprintf("%s: %s failed %v gone %v", m.self, a, a.Failed, a.Gone))
		return true, nil
	}
	if len(m.steps) > 0 {
		st := m.steps[0]
		m.steps = m.steps[1:]
		if err := m.k.do(st, fsName); err != nil {
			return true, fmt.Errorf("%s: %w", m.self, err)
		}
		return true, nil
	}
	m.known = m.after
	m.action = nil
	m.core.Done(nil)
	m.saved = m.core.Save()
	return true, nil
}

// restart ends a machine's agent and starts another.
func (s *site) restart(m *machine) {
	m.k.stopAll()
	m.action, m.steps = nil, nil
	m.core = shared.Resume(m.self, m.saved)
	// The new one first sees the ledger as it is.
	for _, r := range s.reports {
		if r.Member.ID != m.self.ID {
			m.core.Reported(r)
		}
	}
	m.core.Committed(s.cur)
	m.ledger = len(s.history)
	switch { // as Controller looks when events may have been lost
	case m.core.State() == shared.Out && m.k.lockspace:
		m.core.Joined()
	case m.core.State() == shared.In && m.k.offline:
		m.core.Left()
	}
}

func (s *site) kill(m *machine) { m.k.alive = false }

func (s *site) fail(t *finding, err error) {
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(s.log, "\n"))
	}
}

// turn does one thing that needs no fault.
func (s *site) turn(m *machine, what int) (bool, error) {
	if !m.k.alive {
		return false, nil
	}
	switch what {
	case 0:
		return s.act(m)
	case 1:
		return s.hear(m), nil
	case 2:
		return s.publish(m), nil
	case 3:
		return m.k.progress(), nil
	}
	return false, nil
}

// settle lets everything go on without further faults, after the dead and the broken have been fenced, until nothing
// moves.
func (s *site) settle() error {
	for range 20000 {
		moved := s.plan()
		for _, k := range s.disk.all { // earlier runs too
			if !k.alive && !s.dead[k.self] {
				s.dead[k.self], k.fenced, moved = true, true, true
			}
		}
		for _, m := range s.machines {
			if m.k.alive && (m.core.State() == shared.Broken || s.dead[m.self]) {
				s.kill(m) // a node that is fenced finds out and is reset
				moved = true
			}
			for what := range 4 {
				did, err := s.turn(m, what)
				if err != nil {
					return err
				}
				moved = moved || did
			}
			if err := s.disk.check(); err != nil {
				return err
			}
		}
		if !moved {
			return nil
		}
	}
	return fmt.Errorf("it never comes to rest")
}

// TestModel: whatever happens in whichever order, nobody uses the disk beside a journal that is not replayed or beside
// a node that it does not know, and when faults end, everybody who is left is either in or out.
func TestModel(t *testing.T) {
	runs := 10000
	if testing.Short() {
		runs = 1500
	}
	var changes, replays, most int
	for seed := range uint64(runs) {
		s := newSite(1 + int(seed%4))
		if msg := try(s, seed); msg != "" {
			t.Fatalf("seed %d: %s", seed, msg)
		}
		changes += int(s.cur.Generation)
		replays += s.disk.replays
		most = max(most, s.most)
	}
	t.Logf("%d runs, %d generations, %d journals replayed, up to %d nodes at work at once", runs, changes, replays, most)
	if changes < runs || replays < runs/10 || most < 4 {
		t.Error("the model hardly moved")
	}
}

// TestModelFinds: the check sees what it is there for.
func TestModelFinds(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*site)
		want string
	}{
		{"comms entries stay", func(s *site) { s.keep = true }, "is not replayed"},
		{"no wait for the others", func(s *site) { s.noWait = true }, "contract"},
		{"suspicion is proof", func(s *site) { s.eager = true }, "is not replayed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(2000) {
				s := newSite(3)
				c.set(s)
				for _, m := range s.machines {
					m.k.keepComms = s.keep
				}
				if msg := try(s, seed); strings.Contains(msg, c.want) {
					t.Logf("seed %d: %s", seed, strings.SplitN(msg, "\n", 2)[0])
					return
				}
			}
			t.Errorf("got nothing, want %q", c.want)
		})
	}
}

// try lets things happen in an order of chance, ends all faults, and returns what went wrong.
func try(s *site, seed uint64) (msg string) {
	f := &finding{}
	defer func() {
		if e := recover(); e != nil && e != any(f) {
			panic(e)
		}
		msg = f.msg
	}()
	random := rand.New(rand.NewPCG(seed, 1))
	s.run(f, random.IntN)
	return ""
}

// finding takes the place of a test that fails.
type finding struct{ msg string }

func (f *finding) Fatalf(format string, a ...any) { f.msg = fmt.Sprintf(format, a...); panic(f) }

func (s *site) run(t *finding, draw func(n int) int) {
	calm := []int{1, 4, 16}[draw(3)]
	fault := func(n int) bool { return draw(n*calm) == 0 }
	for range 200 + draw(2000) {
		i := draw(len(s.machines))
		m := s.machines[i]
		var err error
		switch what := draw(72); what {
		case 0:
			if m.k.alive && m.core.State() == shared.Out && !m.k.lockspace {
				s.log = append(s.log, m.self.String()+" mounts")
				m.k.mount()
				m.core.Joined()
			}
		case 1:
			if m.k.alive && m.k.mounted && m.core.State() == shared.In && fault(3) {
				s.log = append(s.log, m.self.String()+" unmounts")
				m.k.umount()
				m.core.Left()
			}
		case 2:
			if m.k.alive && fault(4) {
				s.log = append(s.log, m.self.String()+" is killed")
				s.kill(m)
			}
		case 3:
			if !m.k.alive && !s.dead[m.self] {
				s.log = append(s.log, m.self.String()+" is proven dead")
				s.dead[m.self], m.k.fenced = true, true
			}
		case 4:
			if m.k.alive && fault(8) { // wrongly suspected, and fenced all the same
				s.log = append(s.log, m.self.String()+" is fenced alive")
				s.dead[m.self], m.k.fenced = true, !s.eager
			}
		case 5:
			if !m.k.alive {
				s.boot(i) // with or without proof about the run before
				m = s.machines[i]
				s.log = append(s.log, m.self.String()+" boots")
			}
		case 6:
			if m.k.alive && fault(3) {
				s.log = append(s.log, m.self.String()+": agent restarts")
				s.restart(m)
			}
		case 7, 8, 9:
			if m.k.alive && !m.k.fenced && m.k.unblocked {
				s.disk.dirty[m.self.ID] = m.self.Incarnation
			}
		case 10, 11:
			s.plan()
		default:
			_, err = s.turn(m, what%4)
		}
		s.fail(t, err)
		s.fail(t, s.disk.check())
		working := 0
		for _, m := range s.machines {
			if m.k.alive && m.k.unblocked {
				working++
			}
		}
		s.most = max(s.most, working)
	}
	s.fail(t, s.settle())
	for _, m := range s.machines {
		if !m.k.alive {
			continue
		}
		switch m.core.State() {
		case shared.Out:
		case shared.In:
			if !m.k.unblocked {
				s.fail(t, fmt.Errorf("%s stands still at the end: waits for %q", m.self, m.core.Waiting()))
			}
		default:
			s.fail(t, fmt.Errorf("%s is %s at the end: waits for %q", m.self, m.core.State(), m.core.Waiting()))
		}
	}
}
