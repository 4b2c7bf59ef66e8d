package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
)

// Ledger is the cluster's ledger without the cluster: records with revisions and transactions that
// happen as a whole or not at all.
type Ledger struct {
	revision int64
	records  map[string]record
	Events   []cluster.Event
	state    *cluster.State // of revision, made when it is asked for
	meta     cluster.Meta
}

type record struct {
	value           any
	created, change int64
}

// NewLedger is empty, at revision 1.
func NewLedger(meta cluster.Meta) *Ledger {
	return &Ledger{revision: 1, records: map[string]record{}, meta: meta}
}

// Commit applies t if all of its conditions hold.
func (l *Ledger) Commit(t cluster.Txn) (ok bool) {
	for _, c := range t.Conditions {
		if l.records[c.Key].change != c.Revision {
			return false
		}
	}
	l.revision++
	l.state = nil
	touched := map[string]bool{}
	for _, d := range t.Deletes {
		delete(l.records, d)
		touched[d] = true
	}
	for _, p := range t.Puts {
		if touched[p.Key] {
			panic("one transaction changes a key twice: " + p.Key) // etcd refuses that
		}
		touched[p.Key] = true
		r := record{value: p.Value, created: l.revision, change: l.revision}
		if old, there := l.records[p.Key]; there {
			r.created = old.created
		}
		l.records[p.Key] = r
	}
	for _, e := range t.Events {
		e.Seq = uint64(l.revision)
		l.Events = append(l.Events, e)
	}
	return true
}

// State is the ledger as the store shows it: sorted, with revisions and epochs filled in.
func (l *Ledger) State() *cluster.State {
	if l.state != nil {
		return l.state
	}
	st := &cluster.State{Revision: l.revision, Meta: l.meta}
	keys := make([]string, 0, len(l.records))
	for k := range l.records {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		r := l.records[k]
		switch v := r.value.(type) {
		case cluster.Node:
			v.Revision = r.change
			st.Nodes = append(st.Nodes, v)
		case cluster.Service:
			v.Revision = r.change
			st.Services = append(st.Services, v)
		case cluster.Instance:
			v.Revision, v.Epoch = r.change, uint64(r.created)
			st.Instances = append(st.Instances, v)
		case cluster.Status:
			v.Revision = r.change
			st.Statuses = append(st.Statuses, v)
		case cluster.BMC:
			v.Revision = r.change
			st.BMCs = append(st.BMCs, v)
		case cluster.Fence:
			v.Revision = r.change
			st.Fences = append(st.Fences, v)
		case cluster.FenceRate:
			v.Revision = r.change
			st.FenceRate = v
		case cluster.WatchdogPolicy:
			v.Revision = r.change
			st.Watchdogs = append(st.Watchdogs, v)
		case cluster.SAN:
			v.Revision = r.change
			st.SANs = append(st.SANs, v)
		case cluster.Disk:
			v.Revision = r.change
			st.Disks = append(st.Disks, v)
		case cluster.VolumeRecord:
			v.Revision = r.change
			st.Volumes = append(st.Volumes, v)
		case cluster.SharedRecord:
			v.Revision = r.change
			st.Shared = append(st.Shared, v)
		case cluster.SharedReport:
			v.Revision = r.change
			st.Reports = append(st.Reports, v)
		case cluster.Update:
			v.Revision = r.change
			st.Updates = append(st.Updates, v)
		case cluster.NodePorts:
			v.Revision = r.change
			st.Ports = append(st.Ports, v)
		case string: // a slot
		default:
			panic(fmt.Sprintf("ledger: record %s of unknown type %T", k, v))
		}
	}
	l.state = st
	return st
}

// Check finds what must never be in a ledger: a claim that does not hold its slot, a slot without its
// claim, two claims of one slot.
func (l *Ledger) Check() error {
	st := l.State()
	claims := map[string]string{}
	for i := range st.Instances {
		in := &st.Instances[i]
		key := in.SlotKey()
		if other := claims[key]; other != "" {
			return fmt.Errorf("%s has two claims: %s and %s", key, other, in.ID)
		}
		claims[key] = in.ID
		r := l.records[key]
		if r.value != in.ID {
			return fmt.Errorf("%s is claimed by %s, but held by %v", key, in.ID, r.value)
		}
		if r.change != int64(in.Epoch) {
			return fmt.Errorf("%s has revision %d, but the epoch of its claim %s is %d", key, r.change, in.ID, in.Epoch)
		}
	}
	var slots []string
	for k := range l.records {
		if strings.HasPrefix(k, cluster.KeySlots) && claims[k] == "" {
			slots = append(slots, k)
		}
	}
	if len(slots) > 0 {
		slices.SortFunc(slots, cmp.Compare[string])
		return fmt.Errorf("slots are held by nobody: %v", slots)
	}
	return nil
}
