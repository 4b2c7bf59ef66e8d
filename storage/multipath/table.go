package multipath

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// SectorSize is device-mapper's unit of length, bytes, whatever the disk's block size.
const SectorSize = 512

// Table is the one line of a multipath map: what package device-mapper's "multipath" target is loaded with.
type Table struct {
	Sectors uint64 // length of the map in units of SectorSize
	Queue   bool   // I/O waits while no path works (queue_if_no_path); otherwise it fails
	Groups  []Group
}

// Group is a set of paths among which I/O is spread. The kernel uses the first group that has a working path, until
// that has none any more.
type Group struct {
	Paths []string // major:minor
}

// String is the line as the kernel takes it (Documentation/admin-guide/device-mapper, drivers/md/dm-mpath.c):
// features, hardware handler, number of groups, first group, then each group with its selector and its paths.
// No hardware handler is named: a target that changes access states by itself (implicit ALUA) needs none.
func (t Table) String() string {
	var b strings.Builder
	if t.Queue {
		b.WriteString("1 queue_if_no_path")
	} else {
		b.WriteString("0")
	}
	first := 0
	if len(t.Groups) > 0 {
		first = 1
	}
	fmt.Fprintf(&b, " 0 %d %d", len(t.Groups), first)
	for _, g := range t.Groups {
		fmt.Fprintf(&b, " service-time 0 %d 1", len(g.Paths))
		for _, p := range g.Paths {
			b.WriteString(" " + p + " 1") // relative throughput: all the same
		}
	}
	return b.String()
}

// Has tells whether a path is in the table.
func (t Table) Has(dev string) bool { return t.group(dev) > 0 }

// group is the number of the path's group as the kernel counts, from 1; 0 if it is in none.
func (t Table) group(dev string) int {
	for i, g := range t.Groups {
		if slices.Contains(g.Paths, dev) {
			return i + 1
		}
	}
	return 0
}

func (t Table) equal(o Table) bool {
	return t.Sectors == o.Sectors && t.Queue == o.Queue && t.sameGroups(o)
}

func (t Table) sameGroups(o Table) bool {
	return slices.EqualFunc(t.Groups, o.Groups, func(a, b Group) bool { return slices.Equal(a.Paths, b.Paths) })
}

// groups puts paths of the same priority together, the highest first.
func groups(priority map[string]int) []Group {
	devs := make([]string, 0, len(priority))
	for d := range priority {
		devs = append(devs, d)
	}
	slices.SortFunc(devs, func(a, b string) int {
		return cmp.Or(cmp.Compare(priority[b], priority[a]), compareDev(a, b))
	})
	var out []Group
	for i, d := range devs {
		if i == 0 || priority[d] != priority[devs[i-1]] {
			out = append(out, Group{})
		}
		g := &out[len(out)-1]
		g.Paths = append(g.Paths, d)
	}
	return out
}

func compareDev(a, b string) int {
	am, an, _ := splitDev(a)
	bm, bn, _ := splitDev(b)
	return cmp.Or(cmp.Compare(am, bm), cmp.Compare(an, bn))
}

// splitDev reads major:minor.
func splitDev(dev string) (major, minor uint32, err error) {
	a, b, ok := strings.Cut(dev, ":")
	x, err1 := strconv.ParseUint(a, 10, 12) // the kernel has 12 bits for one and 20 for the other
	y, err2 := strconv.ParseUint(b, 10, 20)
	if !ok || err1 != nil || err2 != nil || dev != fmt.Sprintf("%d:%d", x, y) {
		return 0, 0, fmt.Errorf("%q is no device number (major:minor)", dev)
	}
	return uint32(x), uint32(y), nil
}
