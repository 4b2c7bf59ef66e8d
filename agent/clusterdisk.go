package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/store"
	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/clusterdisk"
	"github.com/skein-os/skein/storage/iscsi"
	"github.com/skein-os/skein/storage/reserve"
)

// This file is what an agent does with the cluster disk (docs/design/cluster-disk.md): before it founds a cluster
// it looks whether there is one on a disk, and restores that; and as a voter it keeps the ledger there.

// sanParameter on the kernel's command line says that this machine has disks on a network.
const sanParameter = iscsi.Parameter + "="

// lookAgain is between two looks at the disks while the ledger cannot be restored yet.
const lookAgain = time.Second

// openDisk is an opened cluster disk with its ways.
type openDisk struct {
	*clusterdisk.Disk
	name  string // for people
	keys  *clusterdisk.Keys
	close func()
}

// openClusterDisk opens a disk with the token, and its paths for reservations.
func openClusterDisk(c clusterdisk.Candidate, token []byte) (*openDisk, error) {
	dev, closer, err := clusterdisk.OpenDevice(c.Device(), c.WWN)
	if err != nil {
		return nil, err
	}
	o := &openDisk{name: fmt.Sprintf("disk %s (%s)", c.WWN, c.Device())}
	var devices []*reserve.Device
	o.close = func() {
		closer.Close()
		for _, d := range devices {
			_ = d.Close()
		}
	}
	if o.Disk, err = clusterdisk.Open(dev, token); err != nil {
		o.close()
		return nil, err
	}
	var paths []reserve.Nexus
	for _, p := range c.Paths {
		d, err := reserve.Open(p)
		if err != nil {
			o.close()
			return nil, err
		}
		devices = append(devices, d)
		paths = append(paths, d)
	}
	if err := reserve.SameDisk(devices...); err != nil {
		o.close()
		return nil, err
	}
	if o.keys, err = clusterdisk.NewKeys(o.Header().ClusterID, paths...); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// look finds the cluster disks that this machine sees. Other disks are not opened for writing and not mentioned.
func (a *Agent) look(ctx context.Context, token []byte) (e clusterdisk.Evidence, disks []*openDisk, err error) {
	e.Cluster = a.seed.Cluster
	list, err := clusterdisk.Scan("/sys", "/dev")
	if err != nil {
		return e, nil, err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return e, nil, fmt.Errorf("read the kernel's command line: %w", err)
	}
	if e.Order, err = clusterdisk.ReadOrder(string(cmdline)); err != nil {
		a.log.Error("no order to restore the ledger", "err", err)
	}
	wanted := strings.Contains(string(cmdline), sanParameter)
	if wanted {
		e.Missing = a.san.missing()
	}
	for _, c := range list {
		dev, closer, err := clusterdisk.OpenDevice(c.Device(), c.WWN)
		if err == nil {
			_, err = clusterdisk.Identify(dev)
			closer.Close()
		}
		found := clusterdisk.FoundDisk{Name: fmt.Sprintf("disk %s (%s)", c.WWN, c.Device()), WWN: c.WWN}
		var open *openDisk
		switch {
		case errors.Is(err, clusterdisk.ErrForeign) || errors.Is(err, clusterdisk.ErrBlank):
			continue
		case errors.Is(err, clusterdisk.ErrDamaged):
			found.Err = err
		case err != nil && wanted:
			e.Missing = append(e.Missing, fmt.Sprintf("%s: %v", found.Name, err))
			continue
		case err != nil:
			a.log.Warn("a disk cannot be read; it is not looked at for a cluster", "disk", found.Name, "err", err)
			continue
		default:
			if open, err = openClusterDisk(c, token); err == nil {
				err = evidence(ctx, open, &found)
			}
			if errors.Is(err, clusterdisk.ErrWrongToken) && open == nil {
				continue // another cluster's
			}
			found.Err = err
		}
		e.Disks = append(e.Disks, found)
		disks = append(disks, open)
	}
	return e, disks, nil
}

// evidence reads what a disk has to say.
func evidence(ctx context.Context, d *openDisk, into *clusterdisk.FoundDisk) error {
	c, err := d.Load(false)
	if err != nil {
		return err
	}
	into.Contents = c
	if n := c.Newest(); n != nil {
		st, err := store.StateOf(n.Ledger)
		if err != nil {
			return err
		}
		into.Voters = voters(st)
	}
	_, into.Keys, err = d.keys.Read(ctx, takeover.Key{})
	return err
}

// voters are whom a copy of the ledger names.
func voters(st *cluster.State) []clusterdisk.Voter {
	var list []clusterdisk.Voter
	for i := range st.Nodes {
		n := &st.Nodes[i]
		list = append(list, clusterdisk.Voter{Name: n.Name, MachineID: n.MachineID, BootID: n.BootID,
			Marked: n.Voter, Member: n.MemberID != 0, Lost: n.State == cluster.NodeLost})
	}
	return list
}

func heardMachines(list []admission.Beacon) []clusterdisk.Machine {
	var out []clusterdisk.Machine
	for _, b := range list {
		out = append(out, clusterdisk.Machine{Name: b.Name, MachineID: b.MachineID, BootID: b.BootID, Fresh: !b.Member()})
	}
	return out
}

// restore brings the ledger back from the cluster disk, if there is one; nil if there is none, and a new cluster may
// be founded. While it must wait it goes on calling out, and says for what.
func (a *Agent) restore(ctx context.Context, f *admission.Formation, token admission.Token, req admission.Request) (*membership, error) {
	secret, err := hex.DecodeString(a.seed.Token)
	if err != nil {
		return nil, err
	}
	said := ""
	for {
		machines, err := admission.Linger(ctx, token, f, a, a.beacons, 0)
		if err != nil {
			return nil, err
		}
		e, disks, err := a.look(ctx, secret)
		if err != nil {
			return nil, err
		}
		e.Machines = heardMachines(machines)
		v := clusterdisk.Decide(e)
		var m *membership
		if v.Action == clusterdisk.Restore {
			m, err = a.restoreFrom(ctx, disks[v.Disk], e, v, req)
		}
		for _, d := range disks {
			if d != nil && (m == nil || m.disk != d) {
				d.close()
			}
		}
		switch {
		case m != nil:
			return m, nil
		case err != nil:
			v.Reasons = append(v.Reasons, err.Error())
		case v.Action == clusterdisk.Found:
			return nil, nil
		}
		if text := v.String(); text != said {
			said = text
			a.log.Warn("no cluster is formed: there may be one on a disk", "do", v.Action.String(), "why", strings.Join(v.Reasons, "; "))
		}
		if _, err := admission.Linger(ctx, token, f, a, a.beacons, lookAgain); err != nil {
			return nil, err
		}
	}
}

// restoreFrom takes the disk and goes on with what is on it then.
func (a *Agent) restoreFrom(ctx context.Context, d *openDisk, e clusterdisk.Evidence, v clusterdisk.Verdict, req admission.Request) (*membership, error) {
	st, err := store.StateOf(v.Copy.Ledger)
	if err != nil {
		return nil, err
	}
	self := st.Node(req.Name)
	if self == nil || self.MachineID != req.MachineID {
		return nil, fmt.Errorf("the ledger on %s does not know this machine: another one has to restore it", d.name)
	}
	slot := slotOf(st.LedgerDisk, req.Name)
	if slot < 0 {
		slot = freeSlot(st, v.Copy)
	}
	from, why := int64(0), ""
	at, l, err := clusterdisk.Seize(ctx, d.Disk, d.keys, slot, clusterdisk.Owner{Node: req.Name, Number: self.Number, MachineID: req.MachineID, BootID: req.BootID},
		func(c *clusterdisk.Contents) (*clusterdisk.Ledger, error) {
			// Once more, on what is there now that nobody else can write. The keys are those of before.
			again := e
			again.Disks = slices.Clone(e.Disks)
			again.Disks[v.Disk].Contents = c
			if n := c.Newest(); n != nil {
				st, err := store.StateOf(n.Ledger)
				if err != nil {
					return nil, err
				}
				again.Disks[v.Disk].Voters = voters(st)
			}
			w := clusterdisk.Decide(again)
			if w.Action != clusterdisk.Restore {
				return nil, errors.New(w.String())
			}
			from, why = w.Copy.Ledger.Revision, strings.Join(w.Reasons, "; ")
			next := store.Rise(w.Copy.Ledger, c.Header.Incarnation)
			return next, takeSlot(next, slot, req.Name)
		})
	if err != nil {
		return nil, err
	}
	if st, err = store.StateOf(l); err != nil {
		return nil, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	adm, err := admission.Return(l.Get, st, req, key)
	if err != nil {
		return nil, err
	}
	m := &membership{Admitted: *adm, files: pki.FilesIn(a.path("pki")), disk: d}
	if err := a.settle(m); err != nil {
		return nil, err
	}
	boots := map[string]string{}
	for _, b := range e.Machines {
		if n := st.Node(b.Name); n != nil && n.MachineID == b.MachineID && b.Fresh {
			boots[b.Name] = b.BootID
		}
	}
	a.log.Warn("the ledger is restored from the cluster disk", "disk", d.name, "revision", from, "why", why)
	m.store, err = store.RestoreCopy(ctx, a.storeConfig(m), l, store.Restoration{From: from, Boots: boots, Why: why, Mirror: a.mirrorConfig(at)})
	if err != nil {
		return nil, err
	}
	m.Meta.Incarnation = l.Incarnation
	return m, a.remember(m)
}

func (a *Agent) mirrorConfig(slot *clusterdisk.Slot) store.MirrorConfig {
	return store.MirrorConfig{Slot: slot, DetachAfter: store.DefaultDetachAfter, Fenced: func(err error) {
		a.condemn(fmt.Sprintf("another node has taken the cluster disk, and what this one would commit is not on it: %v", err))
	}}
}

// slotOf is the slot of a node, -1 if it has none.
func slotOf(d *cluster.ClusterDisk, node string) int {
	if d == nil {
		return -1
	}
	return slices.Index(d.Slots, node)
}

// takeSlot has a ledger that is being restored say whose a slot is now: else another node could be given it.
func takeSlot(l *clusterdisk.Ledger, slot int, node string) error {
	for i := range l.Entries {
		e := &l.Entries[i]
		if string(e.Key) != cluster.KeyDisk {
			continue
		}
		var d cluster.ClusterDisk
		if err := json.Unmarshal(e.Value, &d); err != nil {
			return fmt.Errorf("the copy's word on its disk: %w", err)
		}
		if slot < 0 || slot >= len(d.Slots) {
			return fmt.Errorf("no slot is free: %v", d.Slots)
		}
		d.Slots[slot] = node
		value, err := json.Marshal(d)
		e.Value = value
		return err
	}
	return errors.New("the copy does not say that there is a cluster disk")
}

// freeSlot is one for a node that has none: of nobody, else of a node that is lost or is none any more, and never the one
// that is restored from.
func freeSlot(st *cluster.State, from *clusterdisk.Copy) int {
	if st.LedgerDisk == nil {
		return 0
	}
	lost := -1
	for i, name := range st.LedgerDisk.Slots {
		if from != nil && !from.Snapshot && from.Slot == i {
			continue
		}
		n := st.Node(name)
		switch {
		case name == "":
			return i
		case n == nil || n.State == cluster.NodeLost || n.MemberID == 0 && !n.Voter:
			lost = i
		}
	}
	return lost
}

// keepDisk gives this node's member its slot on the cluster disk, once there are both.
func (p *parts) keepDisk(ctx context.Context) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	said := ""
	var d *openDisk
	var registered takeover.Key
	watched := diskWatch{snapshot: time.Now()}
	defer func() {
		if d != nil {
			d.close()
		}
	}()
	for {
		st := p.state.Load()
		if st.LedgerDisk != nil {
			p.store.Expect(store.DefaultDetachAfter)
			switch {
			case p.store.Mirror().Attached:
				watched = p.watchDisk(ctx, st, watched)
			case p.store.Voter():
				var err error
				d, err = p.attachDisk(ctx, st, d, &registered)
				if err == nil {
					d = nil // the store has it from now on
				} else if ctx.Err() == nil && err.Error() != said {
					said = err.Error()
					p.a.log.Error("this node's copy of the ledger is not on the cluster disk", "disk", st.LedgerDisk.WWN, "err", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// attachDisk is one attempt; it returns the disk to be used in the next one.
func (p *parts) attachDisk(ctx context.Context, st *cluster.State, d *openDisk, registered *takeover.Key) (*openDisk, error) {
	self := st.Node(p.a.id.Name)
	if self == nil || self.BootID != p.a.id.BootID {
		return d, errors.New("the ledger does not know this boot yet")
	}
	var err error
	if d == nil {
		if d, err = p.findDisk(st); err != nil {
			return nil, err
		}
	}
	if registered.Epoch != 0 {
		// Who registered in this boot and is not any more was shut off, and does not register again.
		ok, _, err := d.keys.Read(ctx, *registered)
		if err != nil {
			return d, err
		}
		if !ok {
			p.a.condemn("this node was shut off from the cluster disk before it had its slot")
			return d, clusterdisk.ErrFenced
		}
	}
	slot, err := p.allotSlot(ctx, st)
	if err != nil {
		return d, err
	}
	owners, err := d.Owners()
	if err != nil {
		return d, err
	}
	gen, err := d.NextGeneration()
	if err != nil {
		return d, err
	}
	key := takeover.Key{Node: self.Number, Epoch: gen}
	if ok, err := d.keys.Register(ctx, key); err != nil || !ok {
		return d, errors.Join(errors.New("the disk does not register this node"), err)
	}
	*registered = key
	_, keys, err := d.keys.Read(ctx, key)
	if err != nil {
		return d, err
	}
	for _, k := range keys {
		// An earlier life of this node, and whoever had the slot before it: nothing of them may land there any more.
		old := k.Node == self.Number || owners[slot] != nil && k.Node == owners[slot].Number
		if k == key || !old {
			continue
		}
		if _, err := d.keys.Preempt(ctx, key, k); err != nil {
			return d, err
		}
	}
	s, err := d.Claim(slot, clusterdisk.Owner{Node: self.Name, Number: self.Number, MachineID: self.MachineID, BootID: self.BootID, Generation: gen})
	if err != nil {
		return d, err
	}
	if err := p.store.Attach(p.a.mirrorConfig(s)); err != nil {
		return d, err
	}
	p.a.log.Info("the ledger is kept on the cluster disk", "disk", d.name, "slot", slot)
	return d, nil
}

// findDisk opens the cluster's disk by its name. A blank one is made it, by the coordinator.
func (p *parts) findDisk(st *cluster.State) (*openDisk, error) {
	list, err := clusterdisk.Scan("/sys", "/dev")
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(list, func(c clusterdisk.Candidate) bool { return c.WWN == st.LedgerDisk.WWN })
	if at < 0 {
		return nil, fmt.Errorf("disk %s is not there: is its array on, and does this node see it?", st.LedgerDisk.WWN)
	}
	secret, err := hex.DecodeString(p.a.seed.Token)
	if err != nil {
		return nil, err
	}
	d, err := openClusterDisk(list[at], secret)
	if errors.Is(err, clusterdisk.ErrBlank) && p.store.Leader() {
		if err = p.formatDisk(list[at], st, secret); err == nil {
			d, err = openClusterDisk(list[at], secret)
		}
	}
	if err != nil {
		return nil, err
	}
	if h := d.Header(); h.ClusterID != st.Meta.ID || h.WWN != d.WWN() {
		d.close()
		return nil, fmt.Errorf("%s is that of cluster %s (%.8s), formatted as %s: this cluster leaves it alone", d.name, h.Cluster, h.ClusterID, h.WWN)
	}
	return d, nil
}

func (p *parts) formatDisk(c clusterdisk.Candidate, st *cluster.State, token []byte) error {
	dev, closer, err := clusterdisk.OpenDevice(c.Device(), c.WWN)
	if err != nil {
		return err
	}
	defer closer.Close()
	ca, err := os.ReadFile(p.m.files.CA)
	if err != nil {
		return err
	}
	print, err := fingerprint(ca)
	if err != nil {
		return err
	}
	_, err = clusterdisk.Format(dev, clusterdisk.Header{Cluster: st.Meta.Name, ClusterID: st.Meta.ID, CA: print,
		Incarnation: st.Meta.Incarnation, Slots: len(st.LedgerDisk.Slots)}, token, time.Now())
	return err
}

// allotSlot has the ledger say which slot is this node's.
func (p *parts) allotSlot(ctx context.Context, st *cluster.State) (int, error) {
	slot := slotOf(st.LedgerDisk, p.a.id.Name)
	if slot >= 0 {
		return slot, nil
	}
	if slot = freeSlot(st, nil); slot < 0 {
		return 0, fmt.Errorf("all %d slots of the cluster disk are in use", len(st.LedgerDisk.Slots))
	}
	next := cluster.ClusterDisk{WWN: st.LedgerDisk.WWN, Slots: slices.Clone(st.LedgerDisk.Slots)}
	next.Slots[slot] = p.a.id.Name
	_, ok, err := p.store.Commit(ctx, cluster.Txn{
		Conditions: []cluster.Condition{{Key: cluster.KeyDisk, Revision: st.LedgerDisk.Revision}},
		Puts:       []cluster.Put{{Key: cluster.KeyDisk, Value: next}},
	})
	if err == nil && !ok {
		err = errors.New("another node took a slot at the same time")
	}
	return slot, err
}

// snapshotEvery is between two snapshots of the coordinator. They are for when the slots are gone, so they need not
// be new.
const snapshotEvery = 10 * time.Minute

// diskWatch is what was last told of the cluster disk.
type diskWatch struct {
	detached bool
	snapshot time.Time
}

// watchDisk tells of a disk that is not waited for any more, and keeps snapshots.
func (p *parts) watchDisk(ctx context.Context, st *cluster.State, was diskWatch) diskWatch {
	now := p.store.Mirror()
	if now.Detached != was.detached {
		was.detached = now.Detached
		e := cluster.Event{Time: time.Now(), Node: p.a.id.Name, Kind: cluster.EventCluster, Subject: p.a.id.Name,
			Text: p.a.id.Name + " keeps the ledger on the cluster disk again", Why: "the disk takes writes"}
		if now.Detached {
			e.Text = fmt.Sprintf("%s cannot write the ledger to the cluster disk %s: what is committed from now on is lost if all voters lose power", p.a.id.Name, st.LedgerDisk.WWN)
			e.Why = fmt.Sprintf("the disk took no write for %v (%v); voters stay who they are until it does", store.DefaultDetachAfter, now.Err)
		}
		select {
		case p.events <- e:
		default:
		}
	}
	if p.store.Leader() && !now.Detached && time.Since(was.snapshot) >= snapshotEvery {
		was.snapshot = time.Now()
		if err := p.snapshot(ctx, st); err != nil && ctx.Err() == nil {
			p.a.log.Error("no snapshot of the ledger on the cluster disk", "err", err)
		}
	}
	return was
}

func (p *parts) snapshot(ctx context.Context, st *cluster.State) error {
	d, err := p.findDisk(st)
	if err != nil {
		return err
	}
	defer d.close()
	l, err := p.store.Copy(ctx)
	if err != nil {
		return err
	}
	return d.Snapshot(l, clusterdisk.Owner{Node: p.a.id.Name})
}

// condemn ends this boot: what it did is not the cluster's any more.
func (a *Agent) condemn(reason string) {
	a.log.Error("this boot is not part of the cluster any more: stopping everything", "why", reason)
	if err := errors.Join(a.opts.PID1.StopServices(), a.opts.PID1.Reboot(reason)); err != nil {
		a.log.Error("stop services and reboot", "err", err)
	}
}

// fingerprint of a certificate in PEM: SHA-256 of its DER, hex.
func fingerprint(data []byte) (string, error) {
	b, _ := pem.Decode(data)
	if b == nil {
		return "", errors.New("the CA's certificate is no PEM")
	}
	sum := sha256.Sum256(b.Bytes)
	return hex.EncodeToString(sum[:]), nil
}
