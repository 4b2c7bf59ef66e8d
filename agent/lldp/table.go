package lldp

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"time"
)

// mostNeighbours of one port are kept. A port of a switch has one; more come through a switch that forwards LLDP,
// as many cheap ones do, or from somebody who makes them up.
const mostNeighbours = 8

// Table holds the neighbours of one port. The zero value is empty.
type Table struct {
	list []neighbour
	// TooMany counts units that found no room.
	TooMany uint64
}

type neighbour struct {
	unit  Unit
	until time.Duration
}

// Receive takes a unit that came in, and tells whether the list has changed by it: a new neighbour, one that says
// something else, or one that said goodbye.
func (t *Table) Receive(now time.Duration, u *Unit) (changed bool) {
	changed = t.Expire(now)
	at := slices.IndexFunc(t.list, func(n neighbour) bool { return n.unit.Chassis == u.Chassis && n.unit.Port == u.Port })
	switch {
	case u.TTL == 0 && at >= 0:
		t.list = slices.Delete(t.list, at, at+1)
		return true
	case u.TTL == 0:
		return changed
	case at >= 0:
		before := t.list[at].unit
		before.TTL = u.TTL
		t.list[at] = neighbour{*u, now + u.TTL}
		return changed || !reflect.DeepEqual(before, *u)
	case len(t.list) >= mostNeighbours:
		t.TooMany++
		return changed
	}
	t.list = append(t.list, neighbour{*u, now + u.TTL})
	slices.SortFunc(t.list, func(a, b neighbour) int {
		return cmp.Or(compare(a.unit.Chassis, b.unit.Chassis), compare(a.unit.Port, b.unit.Port))
	})
	return true
}

func compare(a, b ID) int {
	return cmp.Or(cmp.Compare(a.Subtype, b.Subtype), strings.Compare(a.Value, b.Value))
}

// Expire forgets neighbours whose time has passed, and tells whether there were any.
func (t *Table) Expire(now time.Duration) (changed bool) {
	before := len(t.list)
	t.list = slices.DeleteFunc(t.list, func(n neighbour) bool { return now >= n.until })
	return len(t.list) != before
}

// Clear forgets all: the cable is out. It tells whether there was anything to forget.
func (t *Table) Clear() (changed bool) {
	changed = len(t.list) > 0
	t.list = nil
	return changed
}

// Next is when the first of them expires, if there is one.
func (t *Table) Next() (at time.Duration, ok bool) {
	for _, n := range t.list {
		if !ok || n.until < at {
			at, ok = n.until, true
		}
	}
	return at, ok
}

// List is what the neighbours say, sorted by chassis and port.
func (t *Table) List() []Unit {
	out := make([]Unit, 0, len(t.list))
	for _, n := range t.list {
		out = append(out, n.unit)
	}
	return out
}
