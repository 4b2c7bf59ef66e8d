package model

import "fmt"

// This is a model of two nodes that share a small disk, the cluster disk, as the arbiter between them
// (docs/design/two-nodes.md has the rules in words). On the disk are a header, which says in one sector who is
// in the cluster and in which incarnation, and a slot for each node with its copy of the ledger. Writing needs
// a registered key (write exclusive, all registrants); reading needs none.
//
//   - Together: a commit is in both slots before it is acknowledged.
//   - Alone: a node that believes that the other is gone takes the disk: it registers, preempts the other's key
//     and aborts its writes, and only then reads header and slots. It goes on from a member's slot, which it
//     copies to its own if it is no member, and writes a header of the next incarnation with itself alone.
//   - A node one of whose writes is refused or aborted stands down: it forgets all, and may begin again.
//   - Together again: the one alone offers its copy; the other writes it to its slot and says which copy that is.
//     If it is still the whole, no more is committed until a header of the next incarnation has both. The other
//     takes an offer only of the node that the header names, alone, in the incarnation of the offer.
//
// Suspicions may be wrong and come at any time, so nothing is said about who should have the head start. What
// runs late, is lost, cut or started again: messages between the nodes (which may also come twice), commands to
// the disk and their answers, and both nodes. A write that was accepted is executed at any later time, also when
// its node is off; the node's next login, or a preemption, aborts it.
//
// Left out: how the disk is made, a disk that lies, more than two nodes, and Raft, of which only this is used:
// whoever commits alone has the whole ledger, and a commit has a name of its own.
const bothNodes = 3

type pairRules struct {
	incarnations uint8 // how many more than the first
	commits      uint8 // that are asked for
	other        bool  // only the other node's steps count as luck: see pairModel.goal

	noAbort     bool // PREEMPT alone
	readFirst   bool // header and slots are read before the other is shut out
	ownCopy     bool // a node that starts alone goes on from its own slot, member or not
	memory      bool // together, the second copy is in memory only when it is acknowledged
	unguarded   bool // alone, a commit is acknowledged before it is written
	noArbiter   bool // who loses the other goes on without asking the disk
	headerFirst bool // together again before the copy is written
	busy        bool // commits go on while the header with both is written
	anyCopy     bool // the other's word that it has copied is taken without looking what
	trusting    bool // an offer is taken without a look at the header
	stubborn    bool // a write that was refused is repeated under the key registered again
	unregister  bool // who stands down or is shut off takes its key away
	forgets     bool // a disk that loses keys and reservation when it resets
	mute        bool // who is alone writes only what it is asked for, and no signs of life

	// And what the model shows not to be needed for this:
	sameKey bool // a key does not hold the incarnation
	deaf    bool // messages do not hold the incarnation
}

type phase uint8

const (
	off     phase = iota
	idle          // up, and not in a cluster
	keyed         // its key is registered: read the keys
	pushing       // preempt the other's
	alone         // read header and slots
	copying       // write the own slot
	heading       // write the header
	solo
	soloWrites
	adding     // has offered its copy; a commit makes another one of it
	addHeading // write the header with both
	asking     // wants to join, its key is registered
	joining    // write the copy to the own slot
	joined     // has told: wait for the header
	pair
	pairWrites   // the own proposal
	pairReceives // the other's
)

type write uint8

const (
	noWrite  write = iota
	accepted       // the target has it
	executed
	aborted
)

type voter struct {
	phase  phase
	inc    uint8 // of the cluster it is in, or was before it began to take the disk
	log    uint8 // its copy of the ledger: a set of entries, bit e
	open   uint8 // the entry it has proposed, together
	remote uint8 // the entry it writes for the other
	victim uint8 // the key that it read and will preempt
	write  write
	value  uint8 // for the slot, or the header's members
	next   uint8 // header: the incarnation; 0: it is for the slot
}

// message is the newest of its kind on its way to a node: the one before is lost.
type message struct{ inc, value uint8 }

type clusterDisk struct {
	inc, members uint8
	slot         [2]uint8
	keys         [2]uint8 // incarnation+1 when it was registered, 0: none
	reserved     bool
}

type twoNodes struct {
	disk                   clusterDisk
	node                   [2]voter
	offer, done, ask, told [2]message // copy, copied, proposal, its acknowledgement
	proposed               uint8
	acked                  uint8
}

// lost is the one rule: whoever commits beside the members, or instead of them, breaks it too.
const lost = "an acknowledged commit is not in the slot of a member: it is lost, or there are two clusters"

// pairStep is a step of a node.
type pairStep struct {
	node int
	what string
}

func (s pairStep) String() string { return fmt.Sprintf("%c: %s", 'A'+s.node, s.what) }

type pairModel struct {
	pairRules
	step func(pairStep, twoNodes, bool)
}

func newPairModel(r pairRules) Model[twoNodes, pairStep] {
	m := &pairModel{pairRules: r}
	start := twoNodes{disk: clusterDisk{inc: 1, members: bothNodes, keys: [2]uint8{2, 2}, reserved: true}}
	if r.sameKey {
		start.disk.keys = [2]uint8{1, 1}
	}
	for x := range start.node {
		start.node[x] = voter{phase: pair, inc: 1}
	}
	return Model[twoNodes, pairStep]{Init: start, Next: m.next, Broken: m.broken, Goal: m.goal, Limit: 20_000_000}
}

func (m *pairModel) broken(s twoNodes) string {
	for x := range s.node {
		if s.disk.members&(1<<x) != 0 && s.acked&^s.disk.slot[x] != 0 {
			return lost
		}
	}
	return ""
}

// goal: A can commit: alone, whatever B does (then all that B does is luck), or else with B. No more
// incarnations is the end of the model and not of the world.
func (m *pairModel) goal(s twoNodes) bool {
	a, b := s.node[0], s.node[1]
	switch {
	case s.disk.inc == m.incarnations+1:
		return true
	case m.other:
		return a.phase == solo && s.disk.inc == a.inc && s.disk.keys[0] != 0
	}
	return a.phase == pair && b.phase == pair && a.inc == b.inc && s.disk.inc == a.inc && s.disk.keys[0] != 0 && s.disk.keys[1] != 0
}

// to makes a step of node x; luck tells that nobody may count on it.
func (m *pairModel) to(s twoNodes, x int, luck bool, what string, change func(s *twoNodes, n *voter)) {
	change(&s, &s.node[x])
	m.step(pairStep{x, what}, s, luck || m.other && x == 1)
}

func (m *pairModel) next(s twoNodes, step func(pairStep, twoNodes, bool)) {
	m.step = step
	for x := range s.node {
		n := s.node[x]
		if n.write == accepted {
			m.to(s, x, false, "its write is executed", func(s *twoNodes, n *voter) {
				if n.write = executed; n.phase == off {
					n.write = noWrite
				}
				if n.next != 0 {
					s.disk.inc, s.disk.members = n.next, n.value
				} else {
					s.disk.slot[x] = n.value
				}
				n.value, n.next = 0, 0
			})
		}
		if n.phase == off {
			m.to(s, x, false, "starts", func(s *twoNodes, n *voter) { *n = voter{phase: idle} }) // its login aborts what it left
			continue
		}
		m.to(s, x, true, "loses power", func(s *twoNodes, n *voter) {
			if *n = (voter{write: n.write, value: n.value, next: n.next}); n.write != accepted {
				*n = voter{}
			}
			m.leave(s, x)
		})
		if n.write == aborted {
			m.refused(s, x)
			continue
		}
		if n.write == accepted {
			if m.busy && n.phase == addHeading && s.proposed < m.commits && s.disk.keys[x] != 0 {
				m.to(s, x, true, "is asked for a commit, writes it to its slot, acknowledges it", func(s *twoNodes, n *voter) {
					s.proposed++
					n.log |= 1 << s.proposed
					s.disk.slot[x] = n.log
					s.acked |= n.log
				})
			}
			continue // it waits for the answer
		}
		m.disk(s, x)
		m.talk(s, x)
	}
	if m.forgets && s.disk.reserved {
		m.to(s, 0, true, "(the disk resets)", func(s *twoNodes, _ *voter) {
			s.disk.keys, s.disk.reserved = [2]uint8{}, false
			for x := range s.node {
				if s.node[x].write == accepted {
					s.node[x].write = aborted
				}
			}
		})
	}
}

// leave is the broken habit of taking the key away.
func (m *pairModel) leave(s *twoNodes, x int) {
	if m.unregister {
		s.disk.keys[x] = 0
		s.disk.reserved = s.disk.keys != [2]uint8{}
	}
}

// key is what x registers.
func (m *pairModel) key(s *twoNodes) uint8 {
	if m.sameKey {
		return 1
	}
	return s.disk.inc + 1
}

// refused ends what x was doing.
func (m *pairModel) refused(s twoNodes, x int) {
	if m.stubborn {
		m.to(s, x, false, "is refused, registers again and repeats", func(s *twoNodes, n *voter) {
			s.disk.keys[x], s.disk.reserved = m.key(s), true
			n.write = accepted
		})
		return
	}
	m.to(s, x, false, "is refused, stands down", func(s *twoNodes, n *voter) {
		*n = voter{phase: idle}
		m.leave(s, x)
	})
}

// submit gives a write to the disk, which takes it or not.
func (m *pairModel) submit(s *twoNodes, x int, p phase, value, inc uint8) {
	n := &s.node[x]
	n.phase, n.value, n.next, n.write = p, value, inc, accepted
	if s.disk.reserved && s.disk.keys[x] == 0 {
		n.write = aborted
		if !m.stubborn {
			n.value, n.next = 0, 0
		}
	}
}

// disk is what x does at the disk, to become the only one and while it is.
func (m *pairModel) disk(s twoNodes, x int) {
	n, y := s.node[x], 1-x
	register := func(s *twoNodes, n *voter) {
		log, inc := n.log, n.inc
		*n = voter{phase: keyed}
		if m.readFirst {
			n.log, n.inc = log, inc
			if log == 0 {
				n.inc, n.log = s.disk.inc, m.choose(s, x)
			}
		}
		s.disk.keys[x], s.disk.reserved = m.key(s), true
	}
	switch n.phase {
	case idle:
		m.to(s, x, false, "registers, to take the disk", register)
		m.to(s, x, false, "registers, to join", func(s *twoNodes, n *voter) {
			register(s, n)
			*n = voter{phase: asking}
		})
	case asking, joined:
		m.to(s, x, false, "does not hear the other, registers to take the disk", register)
	case pair:
		if m.noArbiter {
			m.to(s, x, false, "does not hear the other, goes on alone", func(s *twoNodes, n *voter) { n.phase, n.open = solo, 0 })
			return
		}
		m.to(s, x, false, "does not hear the other, will take the disk", func(s *twoNodes, n *voter) {
			*n = voter{phase: keyed}
			if m.readFirst {
				n.inc, n.log = s.disk.inc, m.choose(s, x)
			}
		})
	case keyed:
		m.to(s, x, false, "reads the keys", func(s *twoNodes, n *voter) {
			switch {
			case s.disk.keys[x] == 0:
				*n = voter{phase: idle}
			case s.disk.keys[y] != 0:
				n.phase, n.victim = pushing, s.disk.keys[y]
			default:
				n.phase = alone
			}
		})
	case pushing:
		m.to(s, x, false, "preempts the other's key", func(s *twoNodes, n *voter) {
			if !m.preempt(s, x) {
				if n.phase = keyed; s.disk.keys[x] == 0 {
					*n = voter{phase: idle}
				}
			} else {
				n.phase = keyed
			}
			n.victim = 0
		})
		if t := s; m.preempt(&t, x) {
			m.to(s, x, true, "preempts the other's key, the answer is lost", func(s *twoNodes, _ *voter) { m.preempt(s, x) })
		}
	case alone:
		if s.disk.inc > m.incarnations {
			return
		}
		m.to(s, x, false, "reads header and slots, writes its slot", func(s *twoNodes, n *voter) {
			if !m.readFirst {
				n.inc, n.log = s.disk.inc, m.choose(s, x)
			}
			m.submit(s, x, copying, n.log, 0)
		})
	case copying:
		m.to(s, x, false, "writes the header: alone, next incarnation", func(s *twoNodes, n *voter) {
			n.write = noWrite
			m.submit(s, x, heading, 1<<x, n.inc+1)
		})
	case heading:
		m.to(s, x, false, "goes on alone", func(s *twoNodes, n *voter) { n.phase, n.inc, n.write = solo, n.inc+1, noWrite })
	case solo, adding:
		if n.phase == solo {
			m.commitAlone(s, x)
		}
		if s.disk.keys[x] == 0 && s.disk.reserved && !m.mute {
			m.to(s, x, false, "writes a sign of life, is refused, stands down", func(s *twoNodes, n *voter) {
				*n = voter{phase: idle}
				m.leave(s, x)
			})
		}
	case soloWrites:
		m.to(s, x, false, "acknowledges it", func(s *twoNodes, n *voter) {
			if n.phase, n.write = solo, noWrite; !m.unguarded {
				s.acked |= n.log
			}
		})
	}
}

// invited: there is an offer, and the header says that it is from the one that is the cluster now. Else x could
// be a member itself, and what it overwrites the newest copy.
func (m *pairModel) invited(s twoNodes, x int) bool {
	o := s.offer[x]
	return o.inc != 0 && (m.trusting || s.disk.inc == o.inc && s.disk.members == 1<<(1-x))
}

// choose is the copy that x goes on from when it is alone.
func (m *pairModel) choose(s *twoNodes, x int) uint8 {
	if s.disk.members&(1<<x) != 0 || m.ownCopy {
		return s.disk.slot[x]
	}
	return s.disk.slot[1-x]
}

func (m *pairModel) preempt(s *twoNodes, x int) bool {
	y := 1 - x
	if s.disk.keys[x] == 0 || s.disk.keys[y] == 0 || s.disk.keys[y] != s.node[x].victim {
		return false
	}
	s.disk.keys[y] = 0
	if o := &s.node[y]; o.write == accepted && !m.noAbort {
		if o.write = aborted; o.phase == off {
			*o = voter{}
		} else if !m.stubborn {
			o.value, o.next = 0, 0
		}
	}
	return true
}

func (m *pairModel) commitAlone(s twoNodes, x int) {
	if s.proposed == m.commits {
		return
	}
	m.to(s, x, true, "is asked for a commit, writes it to its slot", func(s *twoNodes, n *voter) {
		s.proposed++
		n.log |= 1 << s.proposed
		if m.unguarded {
			s.acked |= n.log
		}
		m.submit(s, x, soloWrites, n.log, 0)
	})
}

// talk is what x does with the other: commit together, and come together again.
func (m *pairModel) talk(s twoNodes, x int) {
	n, y := s.node[x], 1-x
	fresh := func(msg message) bool { return msg.inc != 0 && (msg.inc == n.inc || m.deaf) }
	switch n.phase {
	case solo:
		m.to(s, x, false, "offers its copy", func(s *twoNodes, n *voter) {
			n.phase = adding
			s.offer[y] = message{n.inc, n.log}
		})
	case adding:
		m.to(s, x, false, "goes on committing alone", func(s *twoNodes, n *voter) { n.phase = solo })
		m.to(s, x, false, "offers its copy again", func(s *twoNodes, n *voter) { s.offer[y] = message{n.inc, n.log} })
		if s.disk.inc <= m.incarnations && (m.headerFirst || fresh(s.done[x]) && (s.done[x].value == n.log || m.anyCopy)) {
			m.to(s, x, false, "writes the header: both, next incarnation", func(s *twoNodes, n *voter) {
				s.done[x] = message{}
				m.submit(s, x, addHeading, bothNodes, n.inc+1)
			})
		}
	case addHeading:
		m.to(s, x, false, "is together with the other", func(s *twoNodes, n *voter) { n.phase, n.inc, n.write = pair, n.inc+1, noWrite })
	case asking:
		if m.invited(s, x) {
			m.to(s, x, false, "takes the offer, writes it to its slot", func(s *twoNodes, n *voter) {
				n.inc, n.log = s.offer[x].inc, s.offer[x].value
				m.submit(s, x, joining, n.log, 0)
			})
		}
	case joining:
		m.to(s, x, false, "tells what it has copied", func(s *twoNodes, n *voter) {
			n.phase, n.write = joined, noWrite
			s.done[y] = message{n.inc, n.log}
		})
	case joined:
		m.to(s, x, false, "tells again what it has copied", func(s *twoNodes, n *voter) { s.done[y] = message{n.inc, n.log} })
		if m.invited(s, x) && s.offer[x] != (message{n.inc, n.log}) {
			m.to(s, x, false, "takes a new offer", func(s *twoNodes, n *voter) {
				n.inc, n.log = s.offer[x].inc, s.offer[x].value
				m.submit(s, x, joining, n.log, 0)
			})
		}
		if s.disk.inc == n.inc+1 && s.disk.members == bothNodes {
			m.to(s, x, false, "reads in the header that it is in", func(s *twoNodes, n *voter) { n.phase, n.inc = pair, n.inc+1 })
		}
	case pair:
		if n.open == 0 && s.proposed < m.commits {
			m.to(s, x, true, "is asked for a commit, writes it to its slot", func(s *twoNodes, n *voter) {
				s.proposed++
				n.open = s.proposed
				n.log |= 1 << n.open
				m.submit(s, x, pairWrites, n.log, 0)
			})
		}
		if n.open != 0 {
			m.to(s, x, false, "asks the other to write it too", func(s *twoNodes, n *voter) { s.ask[y] = message{n.inc, n.open} })
		}
		if fresh(s.ask[x]) {
			m.to(s, x, false, "writes to its slot what the other asks for", func(s *twoNodes, n *voter) {
				n.log |= 1 << s.ask[x].value
				n.remote = s.ask[x].value
				if m.memory {
					s.told[y] = message{n.inc, n.remote}
				}
				m.submit(s, x, pairReceives, n.log, 0)
			})
		}
		if n.open != 0 && fresh(s.told[x]) && s.told[x].value == n.open {
			m.to(s, x, false, "acknowledges it, as both have it", func(s *twoNodes, n *voter) {
				n.open = 0
				s.acked |= 1 << s.told[x].value
				s.told[x] = message{}
			})
		}
	case pairWrites:
		m.to(s, x, false, "asks the other to write it too", func(s *twoNodes, n *voter) {
			n.phase, n.write = pair, noWrite
			s.ask[y] = message{n.inc, n.open}
		})
	case pairReceives:
		m.to(s, x, false, "tells the other that it is written", func(s *twoNodes, n *voter) {
			n.phase, n.write = pair, noWrite
			s.told[y] = message{n.inc, n.remote}
			n.remote = 0
		})
	}
}
