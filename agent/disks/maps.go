package disks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/storage/multipath"
	"github.com/skein-os/skein/storage/reserve"
)

// Map is what is mounted of a disk on a SAN. multipath.Map is one.
type Map interface {
	State() multipath.State
	SetPaths(devs ...string) error
	LinkDown(dev, because string) error
	FailQueue(ctx context.Context) error
	Drain(ctx context.Context) error
	Open() error
	Close()
}

// How long to wait for what the kernel does soon if all is well.
const (
	readyFor  = 10 * time.Second // for a path to be in the map after a claim
	grownFor  = 10 * time.Second // for the map to be as large as its paths
	lookEvery = 5 * time.Millisecond
	// pathsEvery is between two looks at the paths if the kernel tells of no change: its events can be lost.
	pathsEvery = 5 * time.Second
)

// Seen lists the disks that this node sees.
func (m *Manager) Seen() ([]Seen, error) {
	list, err := m.cfg.Scan.Scan()
	if err != nil {
		return nil, err
	}
	for i := range list {
		s := &list[i]
		s.Device = m.deviceOf(*s)
		mp := m.mapNow(s.WWN)
		if mp == nil {
			continue
		}
		st := mp.State()
		s.Map = &MapState{Name: st.Name, Closed: st.Closed, Queueing: st.Queueing, NoPathSince: st.NoPathSince, GaveUp: st.GaveUp, Error: st.Error}
		for k := range s.Paths {
			p := &s.Paths[k]
			if j := slices.IndexFunc(st.Paths, func(x multipath.Path) bool { return x.Dev == p.Dev }); j >= 0 {
				x := st.Paths[j]
				p.Use, p.Because, p.Since, p.Failures, p.Access = string(x.State), x.Because, x.Since, x.Failures, x.Access.String()
			}
		}
	}
	return list, nil
}

func (m *Manager) find(wwn string) (Seen, error) {
	list, err := m.cfg.Scan.Scan()
	if err != nil {
		return Seen{}, err
	}
	i := slices.IndexFunc(list, func(s Seen) bool { return s.WWN == wwn })
	if i < 0 {
		return Seen{}, fmt.Errorf("this node does not see disk %s", wwn)
	}
	return list[i], nil
}

func (m *Manager) mapNow(wwn string) Map {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.maps[wwn]
}

// mapOf is the map of a disk that needs one, nil for another. The disk is locked.
func (m *Manager) mapOf(s Seen) (Map, error) {
	if !s.Shared {
		return nil, nil
	}
	if mp := m.mapNow(s.WWN); mp != nil {
		return mp, mp.SetPaths(s.devs()...)
	}
	mp, err := m.cfg.Map(s.WWN, func(ctx context.Context, dev string) error { return m.admit(ctx, s.WWN, dev) }, s.devs()...)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.maps[s.WWN] = mp
	return mp, nil
}

// deviceOf is what is mounted of a disk, "" if it has no map yet and needs one.
func (m *Manager) deviceOf(s Seen) string {
	if !s.Shared {
		return s.Device
	}
	if mp := m.mapNow(s.WWN); mp != nil {
		return mp.State().Device
	}
	return ""
}

// current is deviceOf for who has mu. The disk was mounted from it.
func (m *Manager) current(wwn string) string {
	if mp := m.maps[wwn]; mp != nil {
		return mp.State().Device
	}
	return ""
}

// Together opens a disk that nodes write at once under a lock manager, without a claim, and gives its device when I/O can
// be done to it. It stays so until the agent ends, and what the map takes in needs no key.
func (m *Manager) Together(ctx context.Context, wwn string) (string, error) {
	s, err := m.find(wwn)
	if err != nil {
		return "", err
	}
	d := m.disk(wwn)
	if err := d.lock(ctx); err != nil {
		return "", err
	}
	err = func() error {
		if d.volume != nil {
			return fmt.Errorf("disk %s is claimed for a volume on this node", wwn)
		}
		d.together = true
		mp, err := m.mapOf(s)
		if err == nil && mp != nil && mp.State().Closed {
			err = mp.Open()
		}
		return err
	}()
	d.unlock()
	if err != nil {
		return "", err
	}
	return m.ready(ctx, wwn)
}

// Apart ends Together: the disk can be claimed again. Nobody may have its device open any more.
func (m *Manager) Apart(ctx context.Context, wwn string) error {
	d := m.disk(wwn)
	if err := d.lock(ctx); err != nil {
		return err
	}
	defer d.unlock()
	if !d.together {
		return nil
	}
	if mp := m.mapNow(wwn); mp != nil {
		if err := errors.Join(mp.FailQueue(ctx), mp.Drain(ctx)); err != nil {
			return err
		}
	}
	d.together = false
	return nil
}

// ready waits until I/O can be done to a disk that was claimed, and gives its device.
func (m *Manager) ready(ctx context.Context, wwn string) (string, error) {
	s, err := m.find(wwn)
	if err != nil {
		return "", err
	}
	if !s.Shared {
		return s.Device, nil
	}
	mp := m.mapNow(wwn)
	if mp == nil {
		return "", fmt.Errorf("disk %s was not claimed here", wwn)
	}
	var st multipath.State
	err = until(ctx, readyFor, func() bool {
		st = mp.State()
		return !st.Closed && st.Device != "" && slices.ContainsFunc(st.Paths, func(p multipath.Path) bool { return p.State == multipath.Up })
	})
	if err != nil {
		why := []string{st.Error}
		for _, p := range st.Paths {
			why = append(why, strings.TrimSuffix(fmt.Sprintf("path %s is %s: %s", s.name(p.Dev), p.State, p.Because), ": "))
		}
		return "", fmt.Errorf("disk %s: no path can be used: %s", wwn, strings.TrimPrefix(strings.Join(why, "; "), "; "))
	}
	return st.Device, nil
}

// grown waits until the map is as large as its paths have become.
func (m *Manager) grown(ctx context.Context, s Seen) (string, error) {
	device := m.deviceOf(s)
	if device == "" {
		return "", fmt.Errorf("disk %s has no map here", s.WWN)
	}
	mp := m.mapNow(s.WWN)
	if mp == nil {
		return device, nil
	}
	if err := until(ctx, grownFor, func() bool { return mp.State().Size >= uint64(s.Size) }); err != nil {
		return "", fmt.Errorf("the map of disk %s stays at %d bytes, its paths have %d: %s", s.WWN, mp.State().Size, s.Size, mp.State().Error)
	}
	return device, nil
}

func until(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// admit registers the owner's key on a path before the map sends I/O down it.
func (m *Manager) admit(ctx context.Context, wwn, dev string) error {
	d := m.disk(wwn)
	if err := d.lock(ctx); err != nil {
		return err
	}
	defer d.unlock()
	if d.together {
		return nil
	}
	if d.volume == nil {
		return errors.New("this node has no claim on the disk")
	}
	s, err := m.find(wwn)
	if err != nil {
		return err
	}
	name := "/dev/" + s.name(dev)
	if d.fresh[name] { // once: what a path missed when it was away is not known
		delete(d.fresh, name)
		return nil
	}
	n, err := m.cfg.Open(name)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(d.paths, func(o Nexus) bool { return o.Name() == n.Name() }); i >= 0 {
		err = d.paths[i].Close()
		d.paths[i] = n
	} else {
		d.paths = append(d.paths, n)
	}
	ok, jerr := d.volume.Join(ctx, n, d.key)
	if err = errors.Join(err, jerr); err == nil && !ok {
		err = errors.New("this node does not own the disk")
	}
	return err
}

// rejoin takes paths in again that failed a reservation's command and that the map has not missed: it will not ask for
// their admission. The disk is locked.
func (m *Manager) rejoin(ctx context.Context, d *disk, wwn string) {
	mp := m.mapNow(wwn)
	in := d.volume.Registered()
	if mp == nil || len(in) == len(d.paths) {
		return
	}
	s, err := m.find(wwn)
	if err != nil {
		return // the command that follows tells of it
	}
	for _, p := range mp.State().Paths {
		name := "/dev/" + s.name(p.Dev)
		i := slices.IndexFunc(d.paths, func(n Nexus) bool { return n.Name() == name })
		if p.State != multipath.Up || i < 0 || slices.Contains(in, name) {
			continue
		}
		if ok, err := d.volume.Join(ctx, d.paths[i], d.key); err != nil || !ok {
			m.cfg.Log.Warn("a path of a disk is not back", "disk", wwn, "path", name, "err", err)
		}
	}
}

// Follow keeps the maps' paths as the kernel has them until ctx ends. changed tells that there may be news.
func (m *Manager) Follow(ctx context.Context, changed <-chan struct{}) {
	tick := time.NewTicker(pathsEvery)
	defer tick.Stop()
	for {
		if err := m.followOnce(); err != nil {
			m.cfg.Log.Warn("the paths of this node's disks could not be brought up to date", "err", err)
		}
		select {
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, mp := range m.maps { // the kernel's stay
				mp.Close()
			}
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

func (m *Manager) followOnce() error {
	list, err := m.cfg.Scan.Scan()
	if err != nil {
		return err
	}
	m.mu.Lock()
	wanted := map[string]Map{}
	for wwn, mp := range m.maps {
		wanted[wwn] = mp
	}
	m.mu.Unlock()
	var errs []error
	for wwn, mp := range wanted {
		s := Seen{WWN: wwn} // if it has gone, it has no paths
		if i := slices.IndexFunc(list, func(s Seen) bool { return s.WWN == wwn }); i >= 0 {
			s = list[i]
		}
		errs = append(errs, mp.SetPaths(s.devs()...))
		for _, p := range s.Paths {
			if !p.usable() {
				errs = append(errs, mp.LinkDown(p.Dev, "the kernel says that it is "+p.State))
			}
		}
	}
	return errors.Join(errs...)
}

var _ Map = (*multipath.Map)(nil)

// Registration is a key on a disk.
type Registration struct {
	Key reserve.Key `json:"key"`
	// Node is the number of this cluster's node whose key it is; 0: a stranger's, or a self-test's.
	Node   uint8  `json:"node_number,omitempty"`
	Epoch  uint64 `json:"epoch,omitempty"` // of its claim
	Holder bool   `json:"holder,omitempty"`
	Paths  int    `json:"paths"` // how many nexuses have it
}

// Registrations reads who is registered on a disk. near is an epoch of about now: keys carry only the end of one.
func (m *Manager) Registrations(ctx context.Context, wwn string, near uint64) (out []Registration, err error) {
	s, err := m.find(wwn)
	if err != nil {
		return nil, err
	}
	for _, p := range s.usable() {
		if out, err = m.registrations(ctx, "/dev/"+p.Name, near); err == nil {
			return out, nil
		}
	}
	return nil, fmt.Errorf("registrations of disk %s: %w", wwn, err)
}

func (m *Manager) registrations(ctx context.Context, device string, near uint64) (out []Registration, err error) {
	n, err := m.cfg.Open(device)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	keys, err := n.Exec(ctx, reserve.Command{Op: reserve.ReadKeys})
	if err != nil {
		return nil, err
	}
	held, err := n.Exec(ctx, reserve.Command{Op: reserve.ReadReservation})
	if err != nil {
		return nil, err
	}
	for _, k := range keys.Keys {
		if i := slices.IndexFunc(out, func(r Registration) bool { return r.Key == k }); i >= 0 {
			out[i].Paths++
			continue
		}
		r := Registration{Key: k, Holder: held.Reservation != nil && held.Reservation.Key == k, Paths: 1}
		if t, ok := m.cfg.Codec.Decode(k, near); ok {
			r.Node, r.Epoch = t.Node, t.Epoch
		}
		out = append(out, r)
	}
	return out, nil
}

// rescan has the kernel ask all paths for the disk's size.
func (m *Manager) rescan(wwn string) (Seen, error) {
	if err := m.cfg.Scan.Rescan(wwn); err != nil {
		return Seen{}, err
	}
	return m.find(wwn)
}

// Grown makes the map of a disk as large as the disk has become, and tells that size, bytes.
func (m *Manager) Grown(ctx context.Context, wwn string) (int64, error) {
	s, err := m.rescan(wwn)
	if err != nil {
		return 0, err
	}
	_, err = m.grown(ctx, s)
	return s.Size, err
}
