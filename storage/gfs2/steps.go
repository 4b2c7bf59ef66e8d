package gfs2

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"

	"github.com/skein-os/skein/storage/shared"
)

// Where the kernel has what this package writes, below /sys/kernel.
const (
	configDir = "config/dlm/cluster"
	commsDir  = configDir + "/comms"
	spacesDir = configDir + "/spaces"
	lockDir   = "dlm"
)

type verb string

const (
	mkdir verb = "mkdir"
	rmdir verb = "rmdir"
	write verb = "write"
)

// step is one change of the kernel's files.
type step struct {
	do   verb
	path string // below /sys/kernel
	data string
}

func (s step) String() string {
	if s.do == write && len(s.data) < 32 {
		return fmt.Sprintf("write %s to %s", s.data, s.path)
	}
	return fmt.Sprintf("%s %s", s.do, s.path)
}

// seen is what is there: by the names of folders, and for comms by what this driver made them for.
type seen struct {
	lock  bool // the lockspace itself
	comms []uint32
	known map[uint32]shared.Member // which member an entry of comms is for; none if not known
	space bool                     // of the lockspace
	nodes []uint32                 // of the lockspace
}

func commPath(id uint32, more ...string) string {
	return path.Join(append([]string{commsDir, strconv.FormatUint(uint64(id), 10)}, more...)...)
}

func nodePath(name string, id uint32, more ...string) string {
	return path.Join(append([]string{spacesDir, name, "nodes", strconv.FormatUint(uint64(id), 10)}, more...)...)
}

// prepareSteps makes the lock manager ready to join lockspaces: its cluster's name is part of what is written in each
// file system, and a file system of another cluster's name is not mounted.
func prepareSteps(cluster string, self shared.Member, s seen) []step {
	steps := []step{
		{do: mkdir, path: configDir},
		{write, configDir + "/cluster_name", cluster},
		{write, configDir + "/recover_callbacks", "1"},
	}
	if slices.Contains(s.comms, self.ID) {
		if s.lock {
			return steps // it was complete before a lockspace could be made, and is in use
		}
		steps = append(steps, step{do: rmdir, path: commPath(self.ID)})
	}
	return append(steps, commSteps(self, true)...)
}

// commSteps makes a node's address known. The number goes first: the kernel takes the rest for that node.
func commSteps(m shared.Member, local bool) []step {
	steps := []step{
		{do: mkdir, path: commPath(m.ID)},
		{write, commPath(m.ID, "nodeid"), strconv.FormatUint(uint64(m.ID), 10)},
	}
	if local {
		steps = append(steps, step{write, commPath(m.ID, "local"), "1"})
	}
	return append(steps, step{write, commPath(m.ID, "addr"), sockaddr(m.Address)})
}

// stopSteps stops a lockspace, cuts off who has failed, and makes the addresses of all members known before any
// of them starts. known is what the entries of comms are for afterwards.
func stopSteps(name string, self shared.Member, a shared.Action, s seen) (steps []step, known map[uint32]shared.Member) {
	if s.lock || a.Membership.Has(self) { // else it was let out before the agent was restarted
		steps = append(steps, step{write, path.Join(lockDir, name, "control"), "0"})
	}
	known = maps.Clone(s.known)
	if known == nil {
		known = map[uint32]shared.Member{}
	}
	have := slices.Clone(s.comms)
	cut := func(id uint32) {
		if i := slices.Index(have, id); i >= 0 {
			steps = append(steps, step{do: rmdir, path: commPath(id)})
			have = slices.Delete(have, i, i+1)
		}
		delete(known, id)
	}
	for _, m := range a.Failed {
		// An entry that is another run's is newer than the one that failed, which the kernel can tell.
		if k, ok := known[m.ID]; !ok || k.Incarnation == m.Incarnation {
			cut(m.ID)
		}
	}
	for _, m := range a.Membership.Members {
		if m.ID == self.ID {
			continue
		}
		if k, ok := known[m.ID]; ok && k == m && slices.Contains(have, m.ID) {
			continue
		}
		cut(m.ID)
		steps = append(steps, commSteps(m, false)...)
		known[m.ID] = m
	}
	return steps, known
}

// startSteps makes the members those of the lockspace and starts it.
func startSteps(name string, a shared.Action, s seen) []step {
	control := path.Join(lockDir, name)
	var steps []step
	if a.Admit {
		steps = append(steps,
			step{write, path.Join(control, "id"), strconv.FormatUint(uint64(lockspaceID(name)), 10)},
			step{write, path.Join(control, "nodir"), "0"})
	}
	if !s.space {
		steps = append(steps, step{do: mkdir, path: path.Join(spacesDir, name)})
	}
	var have []uint32
	for _, id := range s.nodes {
		is := func(m shared.Member) bool { return m.ID == id }
		// Who went and is back is removed and added: the kernel has to see both.
		if !slices.ContainsFunc(a.Membership.Members, is) || slices.ContainsFunc(a.Failed, is) || slices.ContainsFunc(a.Gone, is) {
			steps = append(steps, step{do: rmdir, path: nodePath(name, id)})
		} else {
			have = append(have, id)
		}
	}
	members := slices.SortedFunc(slices.Values(a.Membership.Members), func(a, b shared.Member) int { return cmp.Compare(a.ID, b.ID) })
	for _, m := range members {
		if !slices.Contains(have, m.ID) {
			steps = append(steps,
				step{do: mkdir, path: nodePath(name, m.ID)},
				step{write, nodePath(name, m.ID, "nodeid"), strconv.FormatUint(uint64(m.ID), 10)},
				step{write, nodePath(name, m.ID, "weight"), "1"})
		}
	}
	steps = append(steps, step{write, path.Join(control, "control"), "1"})
	if a.Admit {
		steps = append(steps, step{write, path.Join(control, "event_done"), "0"})
	}
	return steps
}

// releaseSteps lets a lockspace end. Addresses stay: others of this node may use them, and an entry that goes would
// make the kernel hold its node for failed.
func releaseSteps(name string, s seen) []step {
	var steps []step
	if s.lock { // else that was done before the agent was restarted
		steps = append(steps, step{write, path.Join(lockDir, name, "event_done"), "0"})
	}
	for _, id := range s.nodes {
		steps = append(steps, step{do: rmdir, path: nodePath(name, id)})
	}
	if s.space {
		steps = append(steps, step{do: rmdir, path: path.Join(spacesDir, name)})
	}
	return steps
}

// lockspaceID is the number of a lockspace in messages, the same on all nodes, and not 0, which the kernel has for
// lockspaces that have none yet.
func lockspaceID(name string) uint32 {
	return max(crc32.ChecksumIEEE([]byte("skein:"+name)), 1)
}

// sockaddr is a struct sockaddr_storage, as comms/ID/addr wants it: 128 bytes, and the port is the kernel's to set.
func sockaddr(a netip.Addr) string {
	b := make([]byte, 128)
	a = a.Unmap()
	if a.Is4() {
		binary.NativeEndian.PutUint16(b, 2) // AF_INET
		copy(b[4:], a.AsSlice())
	} else {
		binary.NativeEndian.PutUint16(b, 10) // AF_INET6
		copy(b[8:], a.AsSlice())
	}
	return string(b)
}

// Limits of names: mkfs.gfs2 takes no more, and the name is a folder's in sysfs.
const (
	maxCluster = 32
	maxName    = 30
)

// ValidName refuses what mkfs.gfs2 would.
func ValidName(cluster, name string) error {
	for _, n := range []struct {
		what, name string
		most       int
	}{{"cluster", cluster, maxCluster}, {"shared file system", name, maxName}} {
		if n.name == "" || len(n.name) > n.most {
			return fmt.Errorf("name of the %s %q: want 1 to %d characters", n.what, n.name, n.most)
		}
		for _, c := range n.name {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return fmt.Errorf("name of the %s %q: want letters, digits, - and _", n.what, n.name)
			}
		}
	}
	return nil
}

// untouched are the entries of comms that steps leave alone: of the others nothing is known while they are under way.
func untouched(known map[uint32]shared.Member, steps []step) map[uint32]shared.Member {
	left := maps.Clone(known)
	for _, s := range steps {
		if s.do != write && path.Dir(s.path) == commsDir {
			id, _ := strconv.ParseUint(path.Base(s.path), 10, 32)
			delete(left, uint32(id))
		}
	}
	return left
}
