package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/plan"
)

// machine is one node: its power, clock, kernel, containers and agent.
type machine struct {
	sim     *Sim
	name    string
	number  uint8
	voter   bool // comes back as a voter
	witness bool
	like    *cluster.Node // the real node that it stands for, nil if none

	powered bool
	boot    string
	boots   int
	rate    float64
	wall    time.Duration // how far its clock for people is off
	epoch   time.Duration // true time at which local time was local
	local   time.Duration
	frozen  string // "", "standing" or "running": what its clock does meanwhile
	waiting []func()
	excused time.Duration // local time until which its guard may be late: it was paused with its clock

	cut map[string]bool // "eth0 in", "eth0 out"

	renounced bool // this boot has said farewell: no agent of it joins any more

	agent   bool // its process lives
	gen     int  // of the agent
	lives   int  // agents of this boot
	frames  uint64
	will    will // what the kernel sends for an agent that has ended
	brain   *node.Brain
	syncing bool
	known   *cluster.State // as last given to brain
	knownAs bool           // the coordinator, when it was
	read    *cluster.State // the newest copy it ever had

	dog dog    // of this boot
	bmc string // how its power controller behaves, "" or "ok" as it should

	containers map[string]*container
	kindled    map[string]time.Duration     // by peer: when what it would leave was started early, true time
	guard      map[netip.Addr]time.Duration // until, local time
}

type container struct {
	in     cluster.Instance
	live   bool
	status cluster.Status
	stop   bool
}

// kindleKeep is for how long a program that was started early is kept, as package container does it.
const kindleKeep = 12 * time.Second

// clock is the machine's CLOCK_BOOTTIME.
func (m *machine) clock() time.Duration {
	if m.frozen == "standing" {
		return m.local
	}
	return m.local + time.Duration(float64(m.sim.now-m.epoch)*m.rate)
}

func (m *machine) setClock(local time.Duration) { m.local, m.epoch = local, m.sim.now }

// works: it is on and not frozen.
func (m *machine) works() bool   { return m.powered && m.frozen == "" }
func (m *machine) stalled() bool { return !m.works() || !m.agent }

// do runs something on the machine: later, if it is frozen.
func (m *machine) do(f func()) {
	if m.frozen != "" {
		m.waiting = append(m.waiting, f)
		return
	}
	f()
}

func (m *machine) newBoot() {
	m.boots++
	m.powered = true
	m.boot = fmt.Sprintf("%s-boot-%d", m.name, m.boots)
	m.frozen, m.waiting, m.excused = "", nil, 0
	m.lives, m.will, m.renounced = 0, will{}, false
	m.setClock(m.sim.between(0, 5*time.Second))
	m.armWatchdog()
	m.sim.login(m)
}

func (m *machine) record(state cluster.NodeState) cluster.Node {
	n := cluster.Node{
		Name: m.name, Number: m.number, BootID: m.boot, State: state, Links: links(m.number),
		CPUs: 4, Memory: 4 << 30, Witness: m.witness,
	}
	if m.like != nil {
		n.CPUs, n.Memory, n.Labels, n.Witness = m.like.CPUs, m.like.Memory, m.like.Labels, m.like.Witness
	}
	return n
}

// startAgent begins a new life of the agent in this boot.
func (m *machine) startAgent() {
	m.gen++
	m.lives++
	m.agent, m.brain, m.known = true, nil, nil
	gen := m.gen
	var tick func()
	tick = func() {
		if m.gen != gen || !m.powered {
			return
		}
		if m.brain != nil {
			m.brain.Tick()
		}
		m.sim.after(m.sim.between(m.sim.cfg.Tick, m.sim.cfg.Tick*3/2), func() { m.do(tick) })
	}
	var poll func()
	poll = func() {
		if m.gen != gen || !m.powered {
			return
		}
		m.sync()
		m.sim.after(100*time.Millisecond, func() { m.do(poll) })
	}
	m.do(tick)
	m.do(poll)
}

func (m *machine) endAgent() {
	m.gen++
	m.agent, m.brain = false, nil
}

// sync gives the agent the newest state of the ledger, if it can be had; the first time it is admitted
// before, if this boot is not.
func (m *machine) sync() {
	if m.stalled() {
		return
	}
	s := m.sim
	if m.brain == nil && m.renounced && !s.cfg.forgetFarewell {
		return // as package agent, it asks PID 1 for a new boot, which is on its way
	}
	if m.brain == nil {
		if !s.reaches(m) {
			return
		}
		rec := s.Ledger.State().Node(m.name)
		if rec == nil || rec.BootID != m.boot {
			m.admit(rec)
			return
		}
		cfg := node.Config{Member: s.cfg.Member, Resumed: m.lives > 1, Decided: s.decided, Watchdog: m.watchdog()}
		if l := s.cfg.leaseOf[m.name]; l > 0 {
			cfg.Member.Lease = l
		}
		m.brain = node.New(*rec, cfg, &world{m: m, gen: m.gen})
		m.tellBound(m.gen) // as PID 1 tells a new agent
	}
	if s.reaches(m) {
		// The watch of a real store is silent while nothing changes; so is this one.
		if st, lead := s.Ledger.State(), s.leader == m; st != m.known || lead != m.knownAs {
			m.known, m.knownAs, m.read = st, lead, st
			m.brain.Ledger(st, lead)
		}
		return
	}
	// A leader that is cut off finds out after a while; nobody else hears anything.
	if s.leader != m && !(s.leader == nil && s.now-s.vacantSince < electionMin) {
		m.known = nil
		m.brain.Ledger(&cluster.State{Revision: -1}, false)
	}
}

// admit joins in the new boot: the old voter is removed, the new one is added when it has caught up.
func (m *machine) admit(old *cluster.Node) {
	s := m.sim
	n := m.record(cluster.NodeJoining)
	cond := cluster.Condition{Key: n.Key()}
	if old != nil {
		cond.Revision = old.Revision
		n.Returns(old)
	}
	gen := m.gen
	if !s.Ledger.Commit(cluster.Txn{Conditions: []cluster.Condition{cond}, Puts: []cluster.Put{{Key: n.Key(), Value: n}}}) {
		return
	}
	s.Logf("%s joins in %s", m.name, m.boot)
	s.spread()
	if !m.voter {
		return
	}
	var promote func()
	promote = func() {
		if m.gen != gen || !m.powered {
			return
		}
		rec := s.Ledger.State().Node(m.name)
		if rec == nil || rec.BootID != m.boot || rec.State == cluster.NodeLost {
			return
		}
		if !s.reaches(m) || m.stalled() {
			s.after(200*time.Millisecond, promote)
			return
		}
		v := *rec
		v.Voter = true
		s.Ledger.Commit(cluster.Txn{Puts: []cluster.Put{{Key: v.Key(), Value: v}}})
		s.Logf("%s is a voter", m.name)
		s.spread()
	}
	s.after(s.between(300*time.Millisecond, 800*time.Millisecond), promote)
}

// world is what the machine is to its agent. An agent that has ended reaches nothing any more.
type world struct {
	m   *machine
	gen int
}

func (w *world) Now() time.Duration { return w.m.clock() }
func (w *world) Wall() time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(w.m.sim.now + w.m.wall)
}
func (w *world) Rand() uint64            { return w.m.sim.rng.Uint64() }
func (w *world) Send(d member.Datagram)  { w.m.sim.send(w.m, d) }
func (w *world) Frames() uint64          { return w.m.frames }
func (w *world) Routes(via []node.Route) {}
func (w *world) Explain(e cluster.Event) { w.m.sim.Logf("%s: %s (%s)", w.m.name, e.Text, e.Why) }

func (w *world) Commit(id uint64, t cluster.Txn) {
	m := w.m
	if w.skipVerify(id, t) {
		return
	}
	m.sim.commit(m, t, func(ok bool, err error) {
		if ok && err == nil && !m.sim.cfg.Quiet {
			for _, e := range t.Events {
				m.sim.Logf("%s: %s (%s)", e.Node, e.Text, e.Why)
			}
		}
		if m.brain != nil {
			m.brain.Committed(id, ok, err)
		}
	})
}

// Run imitates the runner.
func (w *world) Run(list []cluster.Instance) {
	m := w.m
	listed := map[string]bool{}
	for _, in := range list {
		listed[in.ID] = true
		c := m.containers[in.ID]
		if c == nil {
			c = &container{in: in}
			m.containers[in.ID] = c
			if in.Stop { // before it was ever started: never start it
				c.stop = true
				m.exit(c, cluster.InstanceStopped)
				continue
			}
			m.start(c)
		} else {
			m.report(c, c.status.State) // after a restart of the agent
		}
		if in.Stop && !c.stop {
			c.stop = true
			if m.sim.hung[in.Service] {
				continue
			}
			m.later(c, m.sim.between(20*time.Millisecond, 200*time.Millisecond), func() { m.exit(c, cluster.InstanceStopped) })
		}
	}
	for id, c := range m.containers {
		if !listed[id] {
			c.live = false
			delete(m.containers, id)
		}
	}
}

// Hold imitates the kernel's guard: it answers until then, whatever the agent does.
func (w *world) Hold(addrs []node.Floating, until time.Duration) bool {
	m := w.m
	clear(m.guard)
	if m.sim.cfg.guardForever {
		until = 1 << 62
	}
	for _, a := range addrs {
		m.guard[a.Addr] = until
		m.sim.checkAnswer(m, a.Addr)
	}
	return true
}

// Quiet imitates programs that are started on a suspicion.
func (w *world) Quiet(peer string) { w.m.kindled[peer] = w.m.sim.now }

func (w *world) Condemn(reason string) {
	m := w.m
	m.sim.Logf("%s is condemned: %s", m.name, reason)
	m.dark()
	m.will = will{}
	m.gen++ // inert
	m.sim.after(300*time.Millisecond, func() {
		if m.powered && m.brain != nil && m.brain.Ended() != "" {
			m.powerOff()
			m.powerOn()
		}
	})
}

// dark ends all containers and answers.
func (m *machine) dark() {
	for _, c := range m.containers {
		c.live = false
	}
	m.containers = map[string]*container{}
	clear(m.kindled)
	clear(m.guard)
}

func (m *machine) powerOff() {
	m.dark()
	m.endAgent()
	m.powered, m.frozen, m.waiting = false, "", nil
	m.will = will{}
	m.boot = "" // nothing that was sent to it arrives in the next one
}

func (m *machine) powerOn() {
	if m.powered {
		return
	}
	m.newBoot()
	m.agentAfter(m.sim.between(m.sim.cfg.Boot, m.sim.cfg.Boot*3/2))
}

// agentAfter starts the agent of a boot that has just begun.
func (m *machine) agentAfter(boots time.Duration) {
	boot := m.boot
	m.sim.after(boots, func() {
		if m.boot == boot && m.powered {
			m.do(m.startAgent)
		}
	})
}

func (m *machine) freeze(clock string) {
	if !m.works() {
		return
	}
	m.local, m.epoch = m.clock(), m.sim.now
	m.frozen = clock
	m.dog.stood = m.dog.stood || clock == "standing"
}

func (m *machine) thaw() {
	if m.frozen == "" {
		return
	}
	local := m.clock()
	if m.frozen == "standing" {
		for _, until := range m.guard {
			m.excused = max(m.excused, until)
		}
	}
	m.frozen = ""
	m.setClock(local)
	waiting := m.waiting
	m.waiting = nil
	for _, f := range waiting {
		m.do(f)
	}
}

// later does something with a container that still is.
func (m *machine) later(c *container, d time.Duration, f func()) {
	m.sim.after(d, func() {
		m.do(func() {
			if m.containers[c.in.ID] == c {
				f()
			}
		})
	})
}

func (m *machine) start(c *container) {
	c.live = true
	m.sim.checkAlone(m, c)
	m.report(c, cluster.InstanceStarting)
	m.writes(c)
	takes := m.sim.between(m.sim.cfg.Start, 2*m.sim.cfg.Start)
	if c.in.After != nil && plan.StartsEarly(&c.in) {
		if at, ok := m.kindled[c.in.After.Node]; ok && m.sim.now-at < kindleKeep {
			takes = max(0, takes-(m.sim.now-at))
		}
	}
	m.later(c, takes, func() {
		if c.live && !c.stop {
			m.report(c, cluster.InstanceRunning)
		}
	})
}

func (m *machine) exit(c *container, state cluster.InstanceState) {
	c.live = false
	m.report(c, state)
}

// report is asynchronous, as the real runner's.
func (m *machine) report(c *container, state cluster.InstanceState) {
	c.status = cluster.Status{ID: c.in.ID, State: state, Address: netip.AddrFrom4([4]byte{10, 80, m.number, 2})}
	st, gen := c.status, m.gen
	m.sim.after(time.Millisecond, func() {
		m.do(func() {
			if m.gen == gen && m.brain != nil {
				m.brain.Report(st)
			}
		})
	})
}

// answers tells whether frames for the address are answered here now, kernel and all.
func (m *machine) answers(a netip.Addr) bool {
	until, ok := m.guard[a]
	return ok && m.powered && m.clock() < until
}

// serves tells whether a client gets an answer from the service itself.
func (m *machine) serves(a netip.Addr) bool {
	if !m.works() || !m.answers(a) || !slices.ContainsFunc(lans, func(l string) bool { return !m.cut[l+" in"] && !m.cut[l+" out"] }) {
		return false
	}
	for _, c := range m.containers {
		if c.live && c.status.State == cluster.InstanceRunning && slices.Contains(c.in.Spec.Floating, a) {
			return true
		}
	}
	return false
}
