package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/takeover"
)

// foreign is the number of a host that is no member.
const foreign = 0

// writeEvery is between two writes of an instance to each of its volumes.
const writeEvery = 150 * time.Millisecond

// san is the reserved volumes and the paths to them.
type san struct {
	disks  map[string]*target
	names  []string
	cut    map[string]bool // "n1 lun1"
	claims map[takeover.Key]bool
}

func newSAN() san {
	return san{disks: map[string]*target{}, cut: map[string]bool{}, claims: map[takeover.Key]bool{}}
}

func (n *san) acked() int {
	sum := 0
	for _, d := range n.names {
		sum += n.disks[d].acked
	}
	return sum
}

// provide makes the disks that a service names.
func (s *Sim) provide(svc cluster.Service) {
	for _, v := range svc.Volumes {
		if s.san.disks[v.Disk] == nil {
			s.san.names = append(s.san.names, v.Disk)
			s.san.disks[v.Disk] = &target{writer: map[uint64]uint8{}, committed: func(k takeover.Key) bool { return k.Node == foreign || s.san.claims[k] }}
		}
	}
}

// claimed remembers claims that are committed, of services with volumes.
func (s *Sim) claimed(p cluster.Put) {
	if in, is := p.Value.(cluster.Instance); is && len(in.Spec.Volumes) > 0 {
		s.san.claims[takeover.Key{Node: s.machine(in.Node).number, Epoch: uint64(s.Ledger.records[p.Key].created)}] = true
	}
}

// holdVolumes has a container that runs in the beginning hold its disks.
func (s *Sim) holdVolumes(m *machine, c *container) {
	s.provide(c.in.Spec)
	key := takeover.Key{Node: m.number, Epoch: c.in.Epoch}
	if len(c.in.Spec.Volumes) == 0 || !c.live {
		return
	}
	s.san.claims[key] = true
	for _, v := range c.in.Spec.Volumes {
		s.san.disks[v.Disk].register(key)
		s.san.disks[v.Disk].reserved = true
	}
	m.writes(c)
}

// login is a machine's new session after its boot: what the old one had in flight is dropped, its key stays,
// since a registration is the initiator's and not the session's.
func (s *Sim) login(m *machine) {
	for _, d := range s.san.names {
		s.san.disks[d].abort(m.number)
		s.san.disks[d].attention[m.number] = false
	}
}

// path tells whether the machine's commands reach the disk.
func (s *Sim) path(m *machine, disk string) bool {
	t := s.san.disks[disk]
	return m.powered && t != nil && !t.gone && !s.san.cut[m.name+" "+disk]
}

// judge takes over what the target saw.
func (s *Sim) judge(disk string) {
	if t := s.san.disks[disk]; t.violation != "" {
		s.violate("%s: %s", disk, t.violation)
		t.violation = ""
	}
}

// Volume imitates the commands to a disk. The order travels, whatever becomes of the machine meanwhile; so
// does the answer.
func (w *world) Volume(id uint64, v cluster.Volume, op takeover.StorageOp, key, victim takeover.Key) {
	m, s, gen, boot := w.m, w.m.sim, w.m.gen, w.m.boot
	answer := func(after time.Duration, ok bool, keys []takeover.Key, err error) {
		s.after(after, func() {
			m.do(func() {
				if m.gen == gen && m.brain != nil {
					m.brain.VolumeDone(id, ok, keys, err)
				}
			})
		})
	}
	s.after(s.between(time.Millisecond, 5*time.Millisecond), func() {
		if m.boot != boot || !s.path(m, v.Disk) {
			answer(time.Second, false, nil, errors.New("the disk does not answer"))
			return
		}
		t, n := s.san.disks[v.Disk], m.number
		if op == takeover.RegisterKey && !t.drained(n) {
			answer(s.between(time.Millisecond, 5*time.Millisecond), false, nil, errors.New("what was written in an earlier epoch has not ended"))
			return
		}
		ok, keys := true, []takeover.Key(nil)
		told := t.attention[n]
		t.attention[n] = false
		switch op {
		case takeover.RegisterKey:
			t.register(key)
		case takeover.ReserveVolume:
			if ok = t.keys[n] == key; ok {
				t.reserved = true
			}
		case takeover.ReadKeys:
			keys = t.read()
		case takeover.PreemptAbort:
			held := slices.Clone(t.queue)
			if ok = t.preempt(n, victim); s.cfg.noAbort {
				t.queue = held
			}
		}
		s.Logf("%s: %s on %s %v: %v %v", m.name, op, v.Disk, victim, ok, keys)
		s.judge(v.Disk)
		if told && op != takeover.RegisterKey { // what was proven before is proven no more
			ok, keys = false, nil
		}
		answer(s.between(time.Millisecond, 5*time.Millisecond)+t.slow/4, ok, keys, nil)
	})
}

// writes lets a container write to its volumes for as long as it lives, frozen machines later. What is in
// flight arrives though its machine is frozen.
func (m *machine) writes(c *container) {
	s := m.sim
	for _, v := range c.in.Spec.Volumes {
		boot, refused := m.boot, false
		var again func()
		again = func() {
			if !c.live || m.boot != boot || refused {
				return // refused: its file system has failed
			}
			t := s.san.disks[v.Disk]
			t.flying[m.number]++
			s.after(s.between(time.Millisecond, 10*time.Millisecond), func() {
				t.flying[m.number]--
				if m.boot == boot && s.path(m, v.Disk) && !s.arrive(v.Disk, write{node: m.number, epoch: c.in.Epoch}) {
					refused = true
					gen := m.gen
					m.do(func() {
						if m.gen == gen && m.brain != nil {
							m.brain.VolumeConflict(c.in.ID, v.Disk, "it refused a write")
						}
					})
				}
			})
			s.after(s.between(writeEvery, 2*writeEvery), func() { m.do(again) })
		}
		again()
	}
}

// arrive is a write at the target; what is accepted is executed some time later.
func (s *Sim) arrive(disk string, w write) bool {
	t := s.san.disks[disk]
	if t.attention[w.node] {
		t.attention[w.node] = false
		return false
	}
	if !t.write(w) {
		return false
	}
	seq := t.seq
	s.after(s.between(time.Millisecond, 20*time.Millisecond)+t.slow, func() {
		t.finish(seq)
		s.Excused += t.excused
		t.excused = 0
		s.judge(disk)
	})
	return true
}

// Path cuts or mends a machine's way to a disk; all of them if disk is empty.
func (s *Sim) Path(name, disk string, up bool) {
	s.Logf("--- path of %s to disk %q: up %v", name, disk, up)
	for _, d := range s.san.names {
		if disk == "" || d == disk {
			s.san.cut[name+" "+d] = !up
		}
	}
}

// Target does something to a disk: "reset" keeps registrations (APTPL), "reset without aptpl" loses them,
// "slow", "gone" and "ok" are how it answers from now on, "foreign" has a host that is no member register.
func (s *Sim) Target(disk, what string) error {
	t := s.san.disks[disk]
	if t == nil {
		return fmt.Errorf("there is no disk %s", disk)
	}
	s.Logf("--- disk %s: %s", disk, what)
	switch what {
	case "reset":
		t.queue = nil
	case "reset without aptpl":
		t.reset()
		for i := range t.attention {
			t.attention[i] = true
		}
	case "slow":
		t.slow = 2 * time.Second
	case "gone":
		t.gone = true
	case "ok":
		t.slow, t.gone = 0, false
	case "foreign":
		t.register(takeover.Key{Node: foreign, Epoch: 1})
	default:
		return fmt.Errorf("disk %s: %q is nothing that can be done to it", disk, what)
	}
	return nil
}

// healSAN mends all disks and paths.
func (s *Sim) healSAN() {
	clear(s.san.cut)
	for _, d := range s.san.names {
		s.san.disks[d].slow, s.san.disks[d].gone = 0, false
	}
}

// storageFault plays one of the SAN's.
func (s *Sim) storageFault() {
	disk := s.san.names[s.dice.IntN(len(s.san.names))]
	m := s.nodes[s.dice.IntN(len(s.nodes))]
	for _, in := range s.Ledger.State().Instances { // most often of who writes
		if len(in.Spec.Volumes) > 0 && s.dice.IntN(4) > 0 {
			m = s.machine(in.Node)
		}
	}
	what := []string{"path", "path", "reset", "reset without aptpl", "slow", "gone", "foreign", "late owner"}[s.dice.IntN(8)]
	s.Faults["disk: "+what]++
	if what == "late owner" {
		s.lateOwner(disk)
		return
	}
	long := s.throw(50*time.Millisecond, 8*time.Second)
	if what == "path" {
		s.do("path down", m.name)
		s.after(long, func() { s.do("path up", m.name) })
		return
	}
	s.do("disk", disk, what)
	if what == "slow" || what == "gone" {
		s.after(long, func() { s.do("disk", disk, "ok") })
	}
}

// lateOwner is the history that only the verify write saves: a node is given the volume, and cannot reach the
// disk; it is cut off, another one takes over and writes; the disk forgets all keys, and now the first one gets
// to it, which has heard of nothing.
func (s *Sim) lateOwner(disk string) {
	owner := s.ownerOf(disk)
	if owner == nil || s.do("drain", owner.name) != nil {
		return
	}
	for _, m := range s.nodes {
		s.do(pathWord(m == owner), m.name)
	}
	s.Run(s.throw(200*time.Millisecond, 600*time.Millisecond))
	s.do("undrain", owner.name) // if it is lost by now, others are there
	late := s.ownerOf(disk)
	if late == nil || late == owner {
		s.do("heal disks")
		return
	}
	s.do("partition", late.name)
	for _, m := range s.nodes {
		s.do(pathWord(m != late), m.name)
	}
	s.Run(s.throw(1500*time.Millisecond, 2500*time.Millisecond))
	s.do("disk", disk, "reset without aptpl")
	s.do("path up", late.name)
	s.Run(s.throw(time.Second, 2*time.Second))
	s.do("heal")
}

func pathWord(up bool) string {
	if up {
		return "path up"
	}
	return "path down"
}

// ownerOf is the node that has the claim on a disk; nil if none has.
func (s *Sim) ownerOf(disk string) *machine {
	for _, in := range s.Ledger.State().Instances {
		for _, v := range in.Spec.Volumes {
			if v.Disk == disk {
				return s.machine(in.Node)
			}
		}
	}
	return nil
}

// broken are the mutations of the protocol of reserved volumes.
type broken struct {
	noVerify      bool // step 3 is not asked for
	verifyByRead  bool // from the node's own copy of the ledger
	registerEarly bool // before the claim is committed
}

// skipVerify answers a verify write of a volume without the ledger, if that is how the protocol is broken. done
// tells that it did.
func (w *world) skipVerify(id uint64, t cluster.Txn) (done bool) {
	m, b := w.m, w.m.sim.cfg.broken
	if !b.noVerify && !b.verifyByRead || len(t.Conditions) != 1 || len(t.Puts) != 1 || len(t.Events) > 0 {
		return false
	}
	st, is := t.Puts[0].Value.(cluster.Status)
	if !is || st.State != cluster.InstancePending {
		return false
	}
	ok, volumes := b.noVerify, false
	for _, in := range m.read.Instances {
		if in.ID == st.ID {
			ok, volumes = true, len(in.Spec.Volumes) > 0
		}
	}
	if !volumes {
		return false
	}
	gen := m.gen
	m.sim.after(time.Millisecond, func() {
		m.do(func() {
			if m.gen == gen && m.brain != nil {
				m.brain.Committed(id, ok, nil)
			}
		})
	})
	return true
}

// registerEarly has the node's key registered for a claim that is about to be committed, or not.
func (s *Sim) registerEarly(t cluster.Txn) {
	for _, p := range t.Puts {
		in, is := p.Value.(cluster.Instance)
		if _, there := s.Ledger.records[p.Key]; !is || there {
			continue
		}
		for _, v := range in.Spec.Volumes {
			s.san.disks[v.Disk].register(takeover.Key{Node: s.machine(in.Node).number, Epoch: uint64(s.Ledger.revision) + 1})
			s.judge(v.Disk)
		}
	}
}
