package sim

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
)

// Config of a simulated cluster.
type Config struct {
	Seed   uint64
	Nodes  int // named n1, n2, ...
	Voters int // the first so many; default 3, or 1 below that
	// ClusterDisk has a copy of the ledger that outlasts a loss of power of all voters.
	ClusterDisk bool
	// Witness makes the last node one.
	Witness bool
	// Member has the times of heartbeats and leases; zero: member's defaults.
	Member member.Config
	// Skew is how far each clock's rate is off at most, 0.004 is 0.4 percent.
	Skew float64
	// Boot is how long a machine takes from power-on to its agent, default 2 s.
	Boot time.Duration
	// Start is how long a container takes to run and be healthy, at least; up to twice that.
	Start time.Duration

	// Quiet keeps no Log: formatting it is a fifth of the cost of a history.
	Quiet bool
	// Tick is the least time between two calls of Brain.Tick, default 20 ms; at most half as much again.
	Tick time.Duration

	// Watchdog is the timeout of each machine's watchdog, 0: they have none.
	Watchdog time.Duration

	// For tests of the checker: what is broken on purpose.
	mayFeed        func(now, until, w time.Duration) bool // another rule for PID 1
	bindLate       bool                                   // PID 1 says that it is bound, and is not
	leaseOf        map[string]time.Duration               // a node that believes in another lease
	guardForever   bool                                   // the kernel's guard does not end
	falseFarewell  bool                                   // a farewell is said before the guard is closed
	forgetFarewell bool                                   // a new agent of the same boot joins after it
	blind          bool                                   // a datagram with a flipped bit is handed over as it was sent: taken
	broken                                                // the protocol of reserved volumes
	noAbort        bool                                   // a disk executes what was queued by who is preempted
}

// Sim is one simulated cluster. Everything happens in calls of Run and Until.
type Sim struct {
	cfg   Config
	rng   *rand.Rand    // what happens by chance
	dice  *rand.Rand    // what a random history does to the cluster: apart, so that it can be played again with less
	now   time.Duration // true time
	queue queue
	seq   uint64

	Ledger *Ledger
	nodes  []*machine
	net    network
	consensus

	// Violations of what is promised; empty if all is well.
	Violations []string
	// Excused overlaps: of machines that were paused with their clock standing, of disks that forgot.
	Excused int
	// Log is what happened, when, for people.
	Log   []string
	logAt []time.Duration

	// Faults counts what was done to the cluster, by kind.
	Faults map[string]int
	// Takeovers counts the instances that were claimed after a lost owner.
	Takeovers int
	// Restored counts the times that the ledger came back from the cluster disk.
	Restored int
	// Refused counts datagrams that were not taken.
	Refused int

	hung      map[string]bool   // services whose instances ignore a stop
	services  []cluster.Service // of a random history
	steps     []Step            // of a random history, as they were done
	decisions []node.Decided
	probes    map[netip.Addr]*Probe
	san       san
}

// empty is a simulation without machines.
func empty(cfg Config, l *Ledger) *Sim {
	cfg.Boot = cmp.Or(cfg.Boot, 2*time.Second)
	cfg.Tick = cmp.Or(cfg.Tick, 20*time.Millisecond)
	cfg.Start = cmp.Or(cfg.Start, 100*time.Millisecond)
	cfg.Member.ClusterID = "simulated"
	cfg.Member.Key = []byte("a key for the simulator only....")
	return &Sim{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), dice: rand.New(rand.NewPCG(cfg.Seed, 2)), Ledger: l, net: network{delay: 2 * time.Millisecond},
		probes: map[netip.Addr]*Probe{}, san: newSAN(), Faults: map[string]int{},
	}
}

// New makes a cluster that has formed: all nodes are on, admitted and about to be online.
func New(cfg Config) *Sim {
	if cfg.Voters == 0 {
		cfg.Voters = 3
		if cfg.Nodes < 3 {
			cfg.Voters = 1
		}
	}
	s := empty(cfg, NewLedger(cluster.Meta{Name: "sim", ID: "sim", Network: cluster.DefaultNetwork, Incarnation: 1}))
	for i := 1; i <= cfg.Nodes; i++ {
		m := &machine{
			sim: s, name: fmt.Sprintf("n%d", i), number: uint8(i), voter: i <= cfg.Voters, witness: cfg.Witness && i == cfg.Nodes,
			rate: 1 + cfg.Skew*(2*s.rng.Float64()-1), containers: map[string]*container{}, kindled: map[string]time.Duration{}, guard: map[netip.Addr]time.Duration{}, cut: map[string]bool{},
		}
		s.nodes = append(s.nodes, m)
		m.newBoot()
		n := m.record(cluster.NodeJoining)
		n.Voter = m.voter
		s.Ledger.Commit(cluster.Txn{Puts: []cluster.Put{{Key: n.Key(), Value: n}}})
	}
	for _, m := range s.nodes {
		m.startAgent()
	}
	s.elect()
	s.every(50*time.Millisecond, s.elect)
	if cfg.ClusterDisk {
		s.every(500*time.Millisecond, s.restoreFromDisk)
	}
	return s
}

type event struct {
	at  time.Duration
	seq uint64 // of two at the same time the first made comes first
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	e := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return e
}

func (s *Sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, event{s.now + d, s.seq, do})
}

func (s *Sim) every(d time.Duration, do func()) {
	s.after(d, func() { do(); s.every(d, do) })
}

// between is a random duration.
func (s *Sim) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(s.rng.Int64N(int64(b-a)))
}

// Run lets d of true time pass.
func (s *Sim) Run(d time.Duration) {
	end := s.now + d
	for len(s.queue) > 0 && s.queue[0].at <= end {
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		e.do()
	}
	s.now = end
}

// Until runs until cond holds, at most d; it tells whether it does.
func (s *Sim) Until(d time.Duration, cond func() bool) bool {
	for end := s.now + d; s.now < end; s.Run(10 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return cond()
}

// Now is true time since the beginning.
func (s *Sim) Now() time.Duration { return s.now }

// logPrefix is how long the time is that each line of the log begins with.
const logPrefix = len("    0.000s  ")

// Logf notes what happened.
func (s *Sim) Logf(format string, args ...any) {
	if s.cfg.Quiet {
		return
	}
	s.Log = append(s.Log, fmt.Sprintf("%9.3fs  ", s.now.Seconds())+fmt.Sprintf(format, args...))
	s.logAt = append(s.logAt, s.now)
}

func (s *Sim) violate(format string, args ...any) {
	v := fmt.Sprintf(format, args...)
	s.Logf("VIOLATION: %s", v)
	s.Violations = append(s.Violations, v)
}

func (s *Sim) machine(name string) *machine {
	for _, m := range s.nodes {
		if m.name == name {
			return m
		}
	}
	return nil
}
