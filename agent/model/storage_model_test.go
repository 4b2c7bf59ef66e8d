package model

import (
	"fmt"

	"github.com/skein-os/skein/agent/takeover"
)

// This is a model of one reserved volume, its target, its ledger and the nodes that claim it. Each node's
// takeover is the real takeover.Storage; around it is what a driver of it has to do (the rules 1 to 4), and
// a target that behaves as SPC-4 says, bad habits included.
//
// Every step may come as late as it likes, or never: that is what pauses, slow networks and frozen nodes
// amount to. Bad luck is: a reply that is lost (the command was executed; it is given again), a target that
// resets (what it had queued is gone; without APTPL its keys and the reservation too), a node that reboots
// (its sessions end, what it had queued at the target does not).
//
// What the driver must do, as the mutations show:
//
//  1. begin an epoch only after whatever wrote in an earlier one on this node has been killed, and each of its
//     commands was answered or aborted; a login does that for what an earlier boot left;
//  2. clear unit attentions before it begins: they tell of the past;
//  3. repeat a command only when the one without an answer can no longer be executed (the kernel's error
//     handling aborts it first);
//  4. on GiveUp kill what runs, and leave the key where it is; at least where it holds the reservation, if it is of
//     the type that one holds.
//
// Left out: more than one path to the target (a path joins after the takeover's steps 2 and 3 on it), two
// volumes, and a target that lies.
const (
	mostNodes  = 3
	mostClaims = 4
)

type volumeRules struct {
	nodes, claims int
	// forgets: a target without APTPL.
	forgets bool
	// slow: whatever writes goes on until GiveUp is carried out, however late that is, and the agent may hear of
	// a reset late or never, as the kernel repeats the command that was answered with the news. Else both are
	// one: the first command after the reset fails and its service is dead.
	slow bool
	// holder: the reservation is of the type that one node holds (5, registrants only), not all registrants
	// together (7).
	holder bool
	// parks: with such a reservation, GiveUp may remove the own key if it is not the holder's: also safe.
	parks bool

	noVerify      bool // step 3 is not asked for
	verifyByRead  bool // from an own copy of the ledger, which may be old
	registerEarly bool // before the claim is committed
	noAbort       bool // PREEMPT, not PREEMPT AND ABORT
	oneKey        bool // a node's key is of its first epoch for ever
	unregister    bool // GiveUp removes the own key, against rule 4
	overlap       bool // against rule 1
	oldNews       bool // against rule 2
	ghosts        bool // against rule 3
}

// volume is the whole state. Epochs count from 1, nodes from 0.
type volume struct {
	owner  [mostClaims + 1]uint8 // of each epoch that is committed, node+1
	last   uint8                 // newest epoch that is committed
	struck bool                  // bad luck has ended the newest claim: there must be another one
	node   [mostNodes]member

	keys     [mostNodes]uint8 // epoch of the key that is registered, 0: none
	reserved uint8            // 0: not; else the holder's node+1, or 1
	queue    uint8            // bit e: a write of epoch e was accepted and is not executed yet
	newest   uint8            // highest epoch of an acknowledged write
	harm     harm
}

type member struct {
	takeover  uint8 // index in takeovers, 0: none
	epoch     uint8 // the newest it has begun
	key       uint8 // the epoch in its key
	writes    bool  // its service lives
	attention bool  // the target's next answer is news of a reset
	left      bool  // it rebooted and has not logged in since
	known     uint8 // newest epoch in its copy of the ledger
	ghost     uint8 // epoch of a REGISTER that is still on its way although it was given up
}

type harm uint8

const (
	none harm = iota
	olderWrite
	uncommittedKey
	noReason
)

func (h harm) String() string {
	return [...]string{"", "a write of an older epoch is executed after one of a newer epoch was acknowledged",
		"a key is registered whose claim is not committed", "the newest claim is given up for no reason"}[h]
}

// takeovers numbers the states of takeover.Storage, which keeps volume small.
type takeovers struct {
	all   []takeover.Storage
	index map[takeover.Storage]uint8
}

func (t *takeovers) number(s takeover.Storage) uint8 {
	n, ok := t.index[s]
	if !ok {
		n = uint8(len(t.all))
		t.all = append(t.all, s)
		t.index[s] = n
	}
	return n
}

// storageStep is one step, printed as a line of a counterexample.
type storageStep struct {
	what  string // printf, given node and epoch
	node  int
	epoch uint8
}

func (s storageStep) String() string {
	if s.node < 0 {
		return fmt.Sprintf(s.what, s.epoch)
	}
	return fmt.Sprintf("n%d, epoch %d: %s", s.node+1, s.epoch, s.what)
}

type volumeModel struct {
	volumeRules
	takeovers
	step func(storageStep, volume, bool)
}

func newVolumeModel(r volumeRules) Model[volume, storageStep] {
	m := &volumeModel{volumeRules: r, takeovers: takeovers{all: make([]takeover.Storage, 1), index: map[takeover.Storage]uint8{}}}
	return Model[volume, storageStep]{Next: m.next, Goal: m.goal, Broken: func(v volume) string { return v.harm.String() }}
}

// goal: the newest claim may write, or cannot any more.
func (m *volumeModel) goal(v volume) bool {
	if v.last == 0 || v.struck {
		return true
	}
	op, _ := m.all[v.node[v.owner[v.last]-1].takeover].Next()
	return op == takeover.MayWrite && v.node[v.owner[v.last]-1].epoch == v.last
}

func (m *volumeModel) next(v volume, step func(storageStep, volume, bool)) {
	m.step = step
	m.claim(v)
	for e := uint8(1); e <= v.last; e++ {
		if v.queue&(1<<e) != 0 {
			m.execute(v, e)
		}
	}
	m.reset(v)
	for n := range m.nodes {
		h := &v.node[n]
		for e := h.epoch + 1; e <= v.last; e++ {
			if v.owner[e] == uint8(n+1) {
				m.begin(v, n, e)
			}
		}
		if m.verifyByRead && h.known != v.last && h.takeover != 0 {
			to := v
			to.node[n].known = v.last
			step(storageStep{"reads the ledger", n, h.epoch}, to, false)
		}
		if h.ghost != 0 {
			to := v
			if to.node[n].ghost = 0; v.keys[n] == 0 { // a REGISTER names the key that it replaces: none
				to.keys[n] = h.ghost
			}
			step(storageStep{"the REGISTER that was given up is executed", n, h.ghost}, to, true)
		}
		if h.writes {
			m.write(v, n)
		}
		if h.takeover != 0 {
			m.reboot(v, n)
			m.command(v, n)
		}
	}
}

// claim commits the next epoch for any node, whatever the others do. Nodes are alike: they are numbered in
// the order in which they first appear.
func (m *volumeModel) claim(v volume) {
	if int(v.last) == m.claims {
		return
	}
	seen := uint8(0)
	for _, o := range v.owner {
		seen = max(seen, o)
	}
	for n := range min(m.nodes, int(seen)+1) {
		to := v
		to.last++
		to.owner[to.last], to.struck = uint8(n+1), false
		m.step(storageStep{"the claim is committed", n, to.last}, to, true)
		if m.registerEarly {
			early := v
			m.register(&early, n, early.last+1)
			m.step(storageStep{"registers its key", n, early.last + 1}, early, false)
		}
	}
}

// begin is what the driver does first with a claim that it has read.
func (m *volumeModel) begin(v volume, n int, e uint8) {
	to := v
	h := &to.node[n]
	for old := uint8(1); old < e; old++ {
		if bit := uint8(1) << old; v.owner[old] == uint8(n+1) && v.queue&bit != 0 {
			switch {
			case h.left: // the login ends it
				to.queue &^= bit
			case !m.overlap:
				return // rule 1: wait until it is answered
			}
		}
	}
	key := takeover.Key{Node: uint8(n), Epoch: uint64(e)}
	for first := uint8(1); m.oneKey && first < e; first++ {
		if v.owner[first] == uint8(n+1) {
			key.Epoch = uint64(first)
			break
		}
	}
	*h = member{takeover: m.number(takeover.NewStorage(key)), epoch: e, key: uint8(key.Epoch), ghost: h.ghost, attention: h.attention && m.oldNews}
	if m.verifyByRead {
		h.known = e
	}
	m.step(storageStep{"begins", n, e}, to, false)
}

// command carries out what the takeover of n asks for: with an answer, and with the answer lost.
func (m *volumeModel) command(v volume, n int) {
	h := v.node[n]
	s := m.all[h.takeover]
	op, victim := s.Next()
	if h.attention {
		to, told := v, s
		told.Attention()
		to.node[n].attention = false
		m.think(&to, n, told)
		m.step(storageStep{"is told that the target was reset", n, h.epoch}, to, false)
		if !m.slow {
			return
		}
	}
	if op == takeover.GiveUp {
		to := v
		to.node[n] = member{epoch: h.epoch, ghost: h.ghost}
		what := "gives up, kills its service"
		if (m.unregister || m.parks && v.reserved != uint8(n+1)) && v.keys[n] == h.key {
			what += ", unregisters"
			to.keys[n] = 0
			if v.reserved == uint8(n+1) && m.holder || to.keys == [mostNodes]uint8{} && !m.holder {
				to.reserved = 0
			}
		}
		m.step(storageStep{what, n, h.epoch}, to, false)
		return
	}
	if op == takeover.MayWrite {
		return // its service writes when it likes
	}
	to, ok := v, true
	what := string(op)
	switch op {
	case takeover.RegisterKey:
		m.register(&to, n, h.key)
		if m.ghosts {
			later := v
			later.node[n].ghost = h.key
			m.step(storageStep{"register, without an answer, and not executed yet", n, h.epoch}, later, true)
		}
	case takeover.ReserveVolume:
		if ok = v.keys[n] == h.key; ok && v.reserved == 0 {
			to.reserved = 1
			if m.holder {
				to.reserved = uint8(n + 1)
			}
		}
	case takeover.PreemptAbort:
		what = fmt.Sprintf("preempt and abort the key of n%d, epoch %d", victim.Node+1, victim.Epoch)
		ok = m.preempt(&to, n, victim)
	case takeover.VerifyClaim:
		ok = v.last == h.epoch || m.noVerify
		if m.verifyByRead {
			ok = h.known == h.epoch
		}
	}
	if to != v {
		m.step(storageStep{what + "; the answer is lost", n, h.epoch}, to, true)
	}
	if op == takeover.ReadKeys {
		m.read(to, n, s)
		return
	}
	if !ok {
		what += ", is refused"
	}
	s.Done(ok, nil)
	m.think(&to, n, s)
	m.step(storageStep{what, n, h.epoch}, to, false)
}

// read gives the keys in either order, since the target chooses it.
func (m *volumeModel) read(v volume, n int, s takeover.Storage) {
	var up, down []takeover.Key
	for i, e := range v.keys {
		if e != 0 {
			k := takeover.Key{Node: uint8(i), Epoch: uint64(e)}
			up, down = append(up, k), append([]takeover.Key{k}, down...)
		}
	}
	for i, keys := range [][]takeover.Key{up, down} {
		if i == 1 && len(keys) < 2 {
			return
		}
		to, after := v, s
		after.Done(true, keys)
		m.think(&to, n, after)
		m.step(storageStep{"read keys", n, v.node[n].epoch}, to, false)
	}
}

// think is what follows from a takeover's new state.
func (m *volumeModel) think(v *volume, n int, s takeover.Storage) {
	h := &v.node[n]
	h.takeover = m.number(s)
	switch op, _ := s.Next(); op {
	case takeover.MayWrite:
		h.writes = true
	case takeover.GiveUp:
		if h.epoch == v.last && !v.struck {
			v.harm = noReason
		}
		h.writes = h.writes && m.slow
	}
}

func (m *volumeModel) register(v *volume, n int, e uint8) {
	if v.owner[e] != uint8(n+1) {
		v.harm = uncommittedKey
	}
	v.keys[n] = e
}

func (m *volumeModel) preempt(v *volume, by int, victim takeover.Key) bool {
	if v.keys[by] == 0 || v.keys[victim.Node] != uint8(victim.Epoch) {
		return false
	}
	v.keys[victim.Node] = 0
	if m.holder && v.reserved == victim.Node+1 {
		v.reserved = uint8(by + 1)
	}
	for e := uint8(1); e <= v.last && !m.noAbort; e++ {
		if v.owner[e] == victim.Node+1 {
			v.queue &^= 1 << e
		}
	}
	return true
}

// write is accepted or refused by the key that its node has at the target.
func (m *volumeModel) write(v volume, n int) {
	h := v.node[n]
	if h.attention && !m.slow {
		return // fails, see command
	}
	if v.reserved == 0 || v.keys[n] != 0 {
		if to := v; to.queue&(1<<h.epoch) == 0 {
			to.queue |= 1 << h.epoch
			m.step(storageStep{"its service writes, the target has it", n, h.epoch}, to, false)
		}
		return
	}
	s := m.all[h.takeover]
	if op, _ := s.Next(); op == takeover.MayWrite {
		to := v
		s.Done(false, nil)
		m.think(&to, n, s)
		m.step(storageStep{"its service writes, is refused", n, h.epoch}, to, false)
	}
}

// execute ends a write, in any order, and acknowledges it.
func (m *volumeModel) execute(v volume, e uint8) {
	to := v
	to.queue &^= 1 << e
	if e < v.newest {
		to.harm = olderWrite
	}
	to.newest = max(to.newest, e)
	m.step(storageStep{"the write is executed and acknowledged", int(v.owner[e]) - 1, e}, to, false)
}

func (m *volumeModel) reset(v volume) {
	to := v
	to.queue = 0
	if m.forgets {
		to.keys, to.reserved = [mostNodes]uint8{}, 0
	}
	for n := range m.nodes {
		if h := &to.node[n]; h.takeover != 0 || m.oldNews {
			h.attention = true
			to.struck = to.struck || v.owner[v.last] == uint8(n+1) && h.epoch == v.last
		}
	}
	m.step(storageStep{what: "the target resets (of %d claims)", node: -1, epoch: v.last}, to, true)
}

func (m *volumeModel) reboot(v volume, n int) {
	to := v
	h := member{left: true}
	for e := uint8(1); e <= v.last; e++ { // claims are a boot's
		if v.owner[e] == uint8(n+1) {
			h.epoch = e
		}
	}
	to.node[n] = h
	to.struck = v.struck || v.owner[v.last] == uint8(n+1)
	m.step(storageStep{"its node reboots", n, v.node[n].epoch}, to, true)
}
