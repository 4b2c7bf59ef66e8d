package sim

import (
	"errors"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// consensus stands for etcd: one list of transactions, while a majority of the voters that hold their
// log can reach each other.
type consensus struct {
	leader      *machine
	leaderSince time.Duration
	vacantSince time.Duration
	election    time.Duration // how long this vacancy takes
}

const (
	electionMin = 450 * time.Millisecond
	electionMax = 750 * time.Millisecond
	// commitWait bounds a commit, as the store does.
	commitWait = 2 * time.Second
)

// seats are the voters of the ledger now: a machine counts while it is in the boot that is a voter.
func (s *Sim) seats() (all int, up []*machine) {
	st := s.Ledger.State()
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if !n.Voter {
			continue
		}
		all++
		if m := s.machine(n.Name); m != nil && m.boot == n.BootID && m.works() && m.agent {
			up = append(up, m)
		}
	}
	return all, up
}

// leads tells whether m can have transactions committed.
func (s *Sim) leads(m *machine) bool {
	all, up := s.seats()
	seat, n := false, 0
	for _, v := range up {
		seat = seat || v == m
		if s.connected(m, v) {
			n++
		}
	}
	return seat && 2*n > all
}

// elect keeps the leader while it leads, and finds another one some time after it does not.
func (s *Sim) elect() {
	if s.leader != nil && !s.leads(s.leader) {
		old := s.leader
		s.Logf("no coordinator: %s has gone or lost its quorum", old.name)
		s.leader, s.vacantSince, s.election = nil, s.now, s.between(electionMin, electionMax)
		// It does not know yet, if it lives.
		s.after(500*time.Millisecond, old.sync)
	}
	if s.leader != nil || s.now > 0 && s.now-s.vacantSince < s.election {
		return
	}
	var can []*machine
	_, up := s.seats()
	for _, m := range up {
		if s.leads(m) {
			can = append(can, m)
		}
	}
	if len(can) == 0 {
		s.vacantSince = s.now
		return
	}
	s.leader, s.leaderSince = can[s.rng.IntN(len(can))], s.now
	s.Logf("coordinator: %s", s.leader.name)
	s.spread()
}

// spread sends the newest state to all.
func (s *Sim) spread() {
	for _, m := range s.nodes {
		if m.syncing {
			continue
		}
		m.syncing = true
		d := s.between(time.Millisecond, 8*time.Millisecond)
		if s.net.late > 0 && s.rng.IntN(20) == 0 {
			d = s.between(d, s.net.late) // a watch that lags
		}
		s.after(d, func() { m.syncing = false; m.sync() })
	}
}

// reaches tells whether m gets answers from the ledger: from its leader, or from another voter that passes
// them on, as every node asks all voters (package store).
func (s *Sim) reaches(m *machine) bool {
	if s.leader == nil || !s.leads(s.leader) {
		return false
	}
	if s.connected(m, s.leader) {
		return true
	}
	_, up := s.seats()
	for _, v := range up {
		if s.connected(m, v) && s.connected(v, s.leader) {
			return true
		}
	}
	return false
}

var errUnknown = errors.New("no answer from the ledger in time: outcome unknown")

// commit tries until the ledger answers or the time is over. done is called on m.
func (s *Sim) commit(m *machine, t cluster.Txn, done func(ok bool, err error)) {
	deadline, gen := s.now+commitWait, m.gen
	applied, ok := false, false
	var attempt func()
	attempt = func() {
		if m.gen != gen || !m.powered {
			return
		}
		if s.reaches(m) && !m.stalled() {
			if !applied {
				if s.cfg.registerEarly {
					s.registerEarly(t)
				}
				applied, ok = true, s.Ledger.Commit(t)
				if ok {
					for _, p := range t.Puts {
						s.claimed(p)
						if in, is := p.Value.(cluster.Instance); is && in.After != nil && s.Ledger.records[p.Key].created == s.Ledger.revision {
							s.Takeovers++
						}
					}
					if err := s.Ledger.Check(); err != nil {
						s.violate("ledger: %v", err)
					}
					s.spread()
				}
			}
			s.after(s.between(time.Millisecond, 5*time.Millisecond), func() {
				switch {
				case m.gen != gen:
				case s.reaches(m):
					m.do(func() {
						if m.gen == gen {
							done(ok, nil)
						}
					})
				default:
					s.after(20*time.Millisecond, attempt)
				}
			})
			return
		}
		if s.now >= deadline {
			m.do(func() {
				if m.gen == gen {
					done(false, errUnknown)
				}
			})
			return
		}
		s.after(20*time.Millisecond, attempt)
	}
	s.after(s.between(time.Millisecond, 5*time.Millisecond), attempt)
}
