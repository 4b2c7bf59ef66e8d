package gfs2

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-os/skein/storage/shared"
)

// sharedDisk is the shared disk of the model: who left which journal dirty. A node has one journal.
type sharedDisk struct {
	dirty map[uint32]uint64 // ID to incarnation
	all   []*kernel         // that use it, dead ones too

	replays int // of journals that were dirty
}

// peer is a member as a kernel knows it.
type peer struct {
	seq         int    // of its comms entry when it was added
	incarnation uint64 // which run the agent meant: the kernel does not know, but only that one answers as a member
}

type node struct {
	fresh bool // added since the last start
}

// kernel is as much of one machine's DLM and GFS2 as membership needs, by the rules of Linux 6.1: dlm_ls_stop,
// dlm_ls_start, dlm_recover_members and dlm_lsop_recover_slot in fs/dlm/member.c, gfs2_control_func in
// fs/gfs2/lock_dlm.c.
type kernel struct {
	self   shared.Member
	disk   *sharedDisk
	alive  bool
	fenced bool // writes are refused

	seq   int
	comms map[uint32]int
	space bool
	nodes map[uint32]*node

	lockspace bool // exists
	online    bool // mount(2) waits for event_done
	offline   bool // umount(2) waits for event_done
	mounted   bool
	begun     bool // started, and not stopped since
	running   bool // recovery of the lock manager is through
	unblocked bool // GFS2 gives locks
	members   map[uint32]peer
	failed    map[uint32]bool // journals to replay that this kernel found
	lvb       map[uint32]bool // journals to replay that the members know of
	ever      bool            // has been running: it has the control lock's value

	meant map[uint32]uint64 // the incarnations of the members that the agent has in mind

	keepComms bool // a fault to be found: entries of comms are never removed
}

func newKernel(self shared.Member, d *sharedDisk) *kernel {
	k := &kernel{self: self, disk: d, alive: true, comms: map[uint32]int{}, nodes: map[uint32]*node{}}
	d.all = append(d.all, k)
	return k
}

func (k *kernel) seen() seen {
	return seen{lock: k.lockspace, comms: slices.Sorted(maps.Keys(k.comms)), space: k.space, nodes: slices.Sorted(maps.Keys(k.nodes))}
}

// mount and umount begin those calls.
func (k *kernel) mount() {
	k.lockspace, k.online = true, true
	k.begun, k.running, k.unblocked, k.ever, k.mounted = false, false, false, false, false
	k.members, k.failed, k.lvb = map[uint32]peer{}, map[uint32]bool{}, map[uint32]bool{}
}

func (k *kernel) umount() {
	if !k.fenced {
		delete(k.disk.dirty, k.self.ID)
	}
	k.mounted, k.unblocked, k.offline = false, false, true
}

// stopAll is what happens when /dev/dlm-monitor is closed.
func (k *kernel) stopAll() { k.begun, k.running, k.unblocked = false, false, false }

// do carries out one step as the kernel would.
func (k *kernel) do(s step, name string) error {
	id := func(s string) uint32 { n, _ := strconv.ParseUint(path.Base(s), 10, 32); return uint32(n) }
	space := path.Join(spacesDir, name)
	control := path.Join(lockDir, name)
	switch {
	case s.do == mkdir && path.Dir(s.path) == commsDir:
		if _, ok := k.comms[id(s.path)]; ok && !k.keepComms {
			return fmt.Errorf("%s: exists", s)
		}
		if k.seq++; k.comms[id(s.path)] == 0 {
			k.comms[id(s.path)] = k.seq
		}
	case s.do == rmdir && path.Dir(s.path) == commsDir:
		if _, ok := k.comms[id(s.path)]; !ok {
			return fmt.Errorf("%s: not there", s)
		}
		if !k.keepComms {
			delete(k.comms, id(s.path))
		}
	case s.do == write && strings.HasPrefix(s.path, commsDir):
		if _, ok := k.comms[id(path.Dir(s.path))]; !ok {
			return fmt.Errorf("%s: not there", s)
		}
	case s.do == mkdir && s.path == space:
		k.space = true
	case s.do == rmdir && s.path == space:
		if len(k.nodes) > 0 {
			return fmt.Errorf("%s: not empty", s)
		}
		k.space = false
	case s.do == mkdir && path.Dir(s.path) == space+"/nodes" && k.space:
		if k.nodes[id(s.path)] != nil {
			return fmt.Errorf("%s: exists", s)
		}
		k.nodes[id(s.path)] = &node{fresh: true}
	case s.do == rmdir && path.Dir(s.path) == space+"/nodes":
		if k.nodes[id(s.path)] == nil {
			return fmt.Errorf("%s: not there", s)
		}
		delete(k.nodes, id(s.path))
	case s.do == write && path.Base(s.path) == "nodeid" && k.nodes[id(path.Dir(s.path))] != nil:
		if _, ok := k.comms[id(path.Dir(s.path))]; !ok {
			return fmt.Errorf("%s: its address is not known", s)
		}
	case s.do == write && path.Base(s.path) == "weight":
	case s.do == write && path.Dir(s.path) == control:
		if !k.lockspace {
			return fmt.Errorf("%s: not there", s)
		}
		switch path.Base(s.path) + "=" + s.data {
		case "control=0":
			k.stopAll()
		case "control=1":
			return k.start()
		case "event_done=0":
			if k.offline {
				k.lockspace = false
				k.stopAll()
			}
			k.online, k.offline = false, false
		}
	case strings.HasPrefix(s.path, configDir):
	default:
		return fmt.Errorf("%s: no such thing", s)
	}
	return nil
}

func (k *kernel) start() error {
	if k.begun {
		return fmt.Errorf("start ignored: lockspace running")
	}
	for id, m := range k.members {
		n := k.nodes[id]
		if n != nil && !n.fresh {
			continue
		}
		for _, o := range k.disk.all {
			if o != k && o.self.ID == id && o.alive && !o.fenced && o.ever && m.incarnation == o.self.Incarnation && n != nil && o.members[k.self.ID].incarnation == k.self.Incarnation {
				return fmt.Errorf("node %d forgets the locks of node %d, which goes on", k.self.ID, id)
			}
		}
		delete(k.members, id)
		if seq, ok := k.comms[id]; !ok || seq != m.seq {
			k.failed[id] = true
		}
	}
	for id, n := range k.nodes {
		n.fresh = false
		if _, ok := k.members[id]; ok {
			continue
		}
		k.members[id] = peer{k.comms[id], k.meant[id]}
	}
	k.begun = true
	// What dlm_ls_start wants of user space. A fenced one is late, and talks to nobody: its address is cut.
	for _, o := range k.disk.all {
		if o != k && !k.fenced && o.alive && !o.fenced && o.begun && k.members[o.self.ID].incarnation == o.self.Incarnation && !sameMembers(o, k) {
			return fmt.Errorf("contract: node %d starts with %v while node %d is started with %v", k.self.ID, k.members, o.self.ID, o.members)
		}
	}
	return nil
}

func sameMembers(a, b *kernel) bool {
	if len(a.members) != len(b.members) {
		return false
	}
	for id, p := range a.members {
		if q, ok := b.members[id]; !ok || q.incarnation != p.incarnation {
			return false
		}
	}
	return true
}

// group are the kernels of a membership, if all of them have begun with the same one.
func (k *kernel) group() []*kernel {
	var group []*kernel
	for _, o := range k.disk.all {
		if p, ok := k.members[o.self.ID]; ok && p.incarnation == o.self.Incarnation {
			if !o.alive || !o.begun || !sameMembers(o, k) {
				return nil
			}
			group = append(group, o)
		}
	}
	if len(group) != len(k.members) {
		return nil
	}
	return group
}

// progress does one thing that the kernels do by themselves, and tells whether there was one.
func (k *kernel) progress() bool {
	if !k.alive || !k.begun {
		return false
	}
	group := k.group()
	if group == nil {
		return false
	}
	if !k.running {
		known, old := map[uint32]bool{}, false
		for _, o := range group {
			maps.Copy(known, o.failed)
			maps.Copy(known, o.lvb)
			old = old || o.ever && o.mounted
		}
		if !old { // the first to mount looks at all journals
			for id := range k.disk.dirty {
				known[id] = true
			}
		}
		for _, o := range group {
			o.running, o.ever, o.lvb, o.failed = true, true, maps.Clone(known), map[uint32]bool{}
		}
		return true
	}
	if len(k.lvb) > 0 {
		id := slices.Min(slices.Collect(maps.Keys(k.lvb)))
		if !k.fenced {
			if k.disk.dirty[id] != 0 {
				k.disk.replays++
			}
			delete(k.disk.dirty, id)
			for _, o := range group {
				delete(o.lvb, id)
			}
			return true
		}
		return false
	}
	if !k.unblocked && !k.online && !k.offline {
		k.unblocked, k.mounted = true, true
		return true
	}
	return false
}

// check looks whether the kernels use the disk as they may.
func (d *sharedDisk) check() error {
	for _, k := range d.all {
		if !k.alive || k.fenced || !k.unblocked {
			continue
		}
		for id, inc := range d.dirty {
			if p, ok := k.members[id]; !ok || p.incarnation != inc {
				return fmt.Errorf("node %d/%d uses the disk while the journal of %d/%d is not replayed", k.self.ID, k.self.Incarnation, id, inc)
			}
		}
		for _, o := range d.all {
			if o != k && o.alive && !o.fenced && o.unblocked && k.members[o.self.ID].incarnation != o.self.Incarnation {
				return fmt.Errorf("nodes %d and %d use the disk and do not know each other", k.self.ID, o.self.ID)
			}
		}
	}
	return nil
}
