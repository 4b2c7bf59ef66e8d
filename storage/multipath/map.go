package multipath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Kernel is what a Map does to the kernel; DM is it.
type Kernel interface {
	Find(wwn string) (*Live, error)
	Load(wwn string, t Table) (device string, err error)
	Status(wwn string) (Status, error)
	Message(wwn, text string) error
	Drain(wwn string, sectors uint64) error
	Remove(wwn string) error
}

// Prober checks a path; SCSI is it. It may hang.
type Prober interface {
	Probe(ctx context.Context, dev string) Probe
}

// Config of a Map.
type Config struct {
	WWN string // of the disk, in the spelling of sysfs: naa.600..., eui.002..., t10....
	Settings
	// Admit is called before a path joins the map and before it is used again: it registers the owner's reservation
	// key on it. If it fails, the path stays out and the error is shown. Nil: nothing is needed. It is called in
	// the background, for several paths at once, for one path never twice at once. Its context ends after
	// AdmitFor and when the map is closed by FailQueue; Drain waits for it to return.
	Admit    func(ctx context.Context, dev string) error
	AdmitFor time.Duration // default 10 s
	// Every is the distance of two checks of a path, and of two looks at the kernel. Default 1 s. Shorter finds
	// a dead idle path earlier; a path that is used fails by its I/O, and Every has no part in that.
	Every time.Duration
	// Deadline is how long a check may take. Default 3 s. A check that takes longer fails the path, and no other is
	// begun on it until the kernel has given that one up.
	Deadline time.Duration
	Kernel   Kernel // default DM
	Prober   Prober // default SCSI
	Log      *slog.Logger
}

// ErrOpen: the map cannot be opened again because somebody of the former claim still has it open.
var ErrOpen = errors.New("the map is still in use by what ran before")

// errEnded: Close was called.
var errEnded = errors.New("the map is not looked after any more")

// Map looks after the map of one disk. All methods may be called at any time from any goroutine.
type Map struct {
	cfg   Config
	calls chan func()
	end   context.CancelFunc
	ended chan struct{}

	mu    sync.Mutex
	state State

	// The rest is the loop's.
	core     *Core
	device   string
	sectors  uint64
	probes   map[string]*probing
	admits   sync.WaitGroup
	base     context.Context // ends with the loop
	admitCtx context.Context // ends when the map is closed
	admitEnd context.CancelFunc
	said     map[string]string
	drains   *draining // nil: none under way
}

// probing is a check under way. late: its time is over, and the path was told to have failed. stale: what it finds is not
// enough, since the map was opened meanwhile.
type probing struct {
	begun       time.Time
	late, stale bool
}

// Start looks after the disk's map: it adopts the one that the kernel has, or makes one when the first path is fit.
// The map stays when the Map is closed or the agent dies.
func Start(cfg Config, paths ...string) (*Map, error) {
	if cfg.WWN == "" {
		return nil, errors.New("a multipath map needs the worldwide name of its disk")
	}
	for _, p := range paths {
		if _, _, err := splitDev(p); err != nil {
			return nil, fmt.Errorf("path of disk %s: %w", cfg.WWN, err)
		}
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.AdmitFor, 10*time.Second)
	def(&cfg.Every, time.Second)
	def(&cfg.Deadline, 3*time.Second)
	if cfg.Kernel == nil {
		cfg.Kernel = DM{}
	}
	if cfg.Prober == nil {
		cfg.Prober = SCSI{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Map{cfg: cfg, calls: make(chan func()), ended: make(chan struct{}), probes: map[string]*probing{}, said: map[string]string{}}
	live, err := cfg.Kernel.Find(cfg.WWN)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", cfg.WWN, err)
	}
	now := time.Now()
	if live != nil {
		m.device, m.sectors = live.Device, live.Table.Sectors
		m.core = NewCore(cfg.WWN, cfg.Settings, now, &live.Table, live.Status)
	} else {
		m.core = NewCore(cfg.WWN, cfg.Settings, now, nil, Status{})
	}
	m.core.Want(now, paths)
	ctx, cancel := context.WithCancel(context.Background())
	m.end = cancel
	m.base = ctx
	m.admitCtx, m.admitEnd = context.WithCancel(ctx)
	m.publish()
	go m.loop(ctx)
	return m, nil
}

// Close stops looking after the map, which stays as it is in the kernel. It does not wait for checks that hang.
func (m *Map) Close() {
	m.end()
	<-m.ended
	m.admits.Wait()
}

// do runs f in the loop.
func (m *Map) do(f func()) error {
	done := make(chan struct{})
	select {
	case m.calls <- func() { f(); close(done) }:
		<-done
		return nil
	case <-m.ended:
		return errEnded
	}
}

// send is do for who must not wait for the outcome.
func (m *Map) send(f func()) {
	select {
	case m.calls <- f:
	case <-m.ended:
	}
}

func (m *Map) loop(ctx context.Context) {
	defer close(m.ended)
	tick := time.NewTicker(m.cfg.Every)
	defer tick.Stop()
	m.check(ctx)
	m.act()
	for {
		now := time.Now()
		wake := m.core.Wake(now)
		for _, p := range m.probes {
			if at := p.begun.Add(m.cfg.Deadline); !p.late && (wake.IsZero() || at.Before(wake)) {
				wake = at
			}
		}
		var timer <-chan time.Time
		if !wake.IsZero() {
			timer = time.After(wake.Sub(now) + time.Millisecond)
		}
		select {
		case <-ctx.Done():
			return
		case f := <-m.calls:
			f()
			if ctx.Err() != nil { // removed
				return
			}
		case <-tick.C:
			m.check(ctx)
			if m.core.live != nil {
				if s, err := m.cfg.Kernel.Status(m.cfg.WWN); err != nil {
					m.cfg.Log.Warn("multipath status", "disk", m.cfg.WWN, "error", err)
				} else {
					m.core.Seen(time.Now(), s)
				}
			}
		case <-timer:
		}
		m.overdue()
		m.act()
	}
}

// check begins a check of each path that has none under way.
func (m *Map) check(ctx context.Context) {
	for dev := range m.core.paths {
		if m.probes[dev] != nil {
			continue
		}
		p := &probing{begun: time.Now()}
		m.probes[dev] = p
		go func() { // its owner is m.probes: there is one for a path, however long it hangs
			limit, cancel := context.WithTimeout(ctx, m.cfg.Deadline)
			defer cancel()
			r := m.cfg.Prober.Probe(limit, dev)
			r.Dev, r.Begun = dev, p.begun
			m.send(func() {
				delete(m.probes, dev)
				if !p.late {
					m.core.Probed(time.Now(), r)
				}
				if p.stale {
					m.check(ctx)
				}
			})
		}()
	}
}

// overdue fails paths whose check hangs.
func (m *Map) overdue() {
	now := time.Now()
	for dev, p := range m.probes {
		if !p.late && !now.Before(p.begun.Add(m.cfg.Deadline)) {
			p.late = true
			m.core.Probed(now, Probe{Dev: dev, Begun: p.begun, Err: fmt.Errorf("a check has had no answer for %v", m.cfg.Deadline)})
		}
	}
}

// act does what is due.
func (m *Map) act() {
	for {
		a, ok := m.core.Next(time.Now())
		if !ok {
			break
		}
		if a.Kind == Admit {
			m.admit(a)
			continue
		}
		err := m.run(a)
		if err != nil {
			m.cfg.Log.Warn("multipath", "disk", m.cfg.WWN, "action", a.String(), "error", err)
		} else {
			m.cfg.Log.Info("multipath", "disk", m.cfg.WWN, "action", a.String())
		}
		m.core.Done(time.Now(), a, err)
	}
	m.publish()
}

func (m *Map) run(a Action) error {
	send := func(text string) error { return m.cfg.Kernel.Message(m.cfg.WWN, text) }
	switch a.Kind {
	case Load:
		device, err := m.cfg.Kernel.Load(m.cfg.WWN, a.Table)
		if err == nil {
			m.device, m.sectors = device, a.Table.Sectors
		}
		return err
	case FailPath:
		return send("fail_path " + a.Dev)
	case Reinstate:
		return send("reinstate_path " + a.Dev)
	case Switch:
		return send(fmt.Sprintf("switch_group %d", a.Group))
	case QueueOn:
		return send("queue_if_no_path")
	case QueueOff:
		return send("fail_if_no_path")
	default:
		return fmt.Errorf("no action %q", a.Kind)
	}
}

func (m *Map) admit(a Action) {
	if m.cfg.Admit == nil {
		m.core.Done(time.Now(), a, nil)
		return
	}
	ctx := m.admitCtx
	m.admits.Add(1)
	go func() { // Drain and Close wait for it
		limit, cancel := context.WithTimeout(ctx, m.cfg.AdmitFor)
		err := m.cfg.Admit(limit, a.Dev)
		cancel()
		m.admits.Done()
		m.send(func() { m.core.Done(time.Now(), a, err) })
	}()
}

// publish makes the state visible and says what changed.
func (m *Map) publish() {
	s := m.core.State()
	s.Name, s.Device = Name(m.cfg.WWN), m.device
	for _, p := range s.Paths {
		if now := strings.TrimSuffix(string(p.State)+": "+p.Because, ": "); m.said[p.Dev] != now {
			m.said[p.Dev] = now
			m.cfg.Log.Info("multipath path", "disk", m.cfg.WWN, "path", p.Dev, "state", now)
		}
	}
	m.mu.Lock()
	m.state = s
	m.mu.Unlock()
}

// State tells how the map is.
func (m *Map) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Device is the map's device, such as /dev/dm-0; "" as long as no path was fit.
func (m *Map) Device() string { return m.State().Device }

// SetPaths says which paths the disk has. Who uses the map sees nothing of it.
func (m *Map) SetPaths(paths ...string) error {
	for _, p := range paths {
		if _, _, err := splitDev(p); err != nil {
			return fmt.Errorf("path of disk %s: %w", m.cfg.WWN, err)
		}
	}
	return m.do(func() { m.core.Want(time.Now(), paths); m.check(m.base); m.act() })
}

// LinkDown fails a path at once, without waiting for a command's time limit.
func (m *Map) LinkDown(dev, because string) error {
	return m.do(func() { m.core.LinkDown(time.Now(), dev, because); m.act() })
}

// FailQueue makes all I/O to the map fail from now on, also what waits for a path, and keeps paths out of it. It
// is the first step when a claim ends, whoever ended it. I/O that is under way at a target goes on: see Drain.
func (m *Map) FailQueue(ctx context.Context) error {
	var left string
	for first := true; ; first = false {
		err := m.do(func() {
			if first {
				m.core.Close(time.Now())
				m.admitEnd()
			}
			m.act()
			left = m.core.unfailed()
		})
		if err != nil || left == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("fail the queue of disk %s: %s: %w", m.cfg.WWN, left, ctx.Err())
		case <-time.After(50 * time.Millisecond): // what failed in the kernel is tried again by the loop
		}
	}
}

// Drain returns nil when nothing of the closed map is queued or under way any more: no write of the former claim can
// land from here. Only then may a new claim of this node register its key. An error proves nothing; call it again.
func (m *Map) Drain(ctx context.Context) error {
	if !m.State().Closed {
		return fmt.Errorf("drain disk %s: its queue must be failed first (FailQueue)", m.cfg.WWN)
	}
	idle := make(chan struct{})
	go func() { m.admits.Wait(); close(idle) }()
	select {
	case <-idle: // a registration that was under way has ended: it cannot come after the new claim's
	case <-ctx.Done():
		return fmt.Errorf("drain disk %s: an admission is still under way: %w", m.cfg.WWN, ctx.Err())
	}
	var d *draining
	var out error
	err := m.do(func() {
		switch {
		case !m.core.closed:
			out = fmt.Errorf("drain disk %s: its queue must be failed first (FailQueue)", m.cfg.WWN)
		case m.core.live == nil:
		default:
			d = m.drain()
		}
	})
	if err = errors.Join(err, out); err != nil || d == nil {
		return err
	}
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("drain disk %s: commands are still under way: %w", m.cfg.WWN, ctx.Err())
	case <-m.ended:
		return errEnded
	}
}

// draining is the kernel's wait for what is under way. There is one at a time: whoever asks again waits for it too,
// which is as good, since the map has been closed all along.
type draining struct {
	done chan struct{}
	err  error
}

func (m *Map) drain() *draining {
	if m.drains != nil {
		return m.drains
	}
	d := &draining{done: make(chan struct{})}
	m.drains = d
	sectors := m.sectors
	go func() { // its owner is m.drains; it ends when the kernel's wait does
		err := m.cfg.Kernel.Drain(m.cfg.WWN, sectors)
		m.send(func() {
			if err == nil {
				m.core.Drained(sectors)
			}
			d.err, m.drains = err, nil
			m.publish()
			close(d.done)
		})
	}()
	return d
}

// Open ends FailQueue and Drain: paths are checked, admitted (with the new claim's key) and used again. ErrOpen if
// somebody still has the map open: its dirty pages would be written under the new key. Unmount it, end who has it open.
func (m *Map) Open() error {
	var out error
	err := m.do(func() {
		if !m.core.closed {
			return
		}
		if m.drains != nil {
			out = fmt.Errorf("open disk %s again: commands of the former claim are still under way (Drain)", m.cfg.WWN)
			return
		}
		live, err := m.cfg.Kernel.Find(m.cfg.WWN)
		switch {
		case err != nil:
			out = err
			return
		case live != nil && live.Opens > 0:
			out = fmt.Errorf("open disk %s again: %w: %d have %s open", m.cfg.WWN, ErrOpen, live.Opens, live.Device)
			return
		case live != nil && (len(live.Table.Groups) > 0 || live.Table.Queue):
			out = fmt.Errorf("open disk %s again: it was not drained (Drain)", m.cfg.WWN)
			return
		}
		m.admitCtx, m.admitEnd = context.WithCancel(m.base)
		m.core.Open(time.Now())
		for _, p := range m.probes {
			p.stale = true
		}
		m.check(m.base) // at once: a claim waits for its paths
		m.act()
	})
	return errors.Join(err, out)
}

// Remove takes the map away and ends looking after it. It fails if somebody has it open, and is then looked
// after as before.
func (m *Map) Remove() error {
	var out error
	err := m.do(func() {
		if m.core.live == nil {
			m.end()
			return
		}
		if out = m.cfg.Kernel.Remove(m.cfg.WWN); out == nil {
			m.core.live = nil
			m.end()
		}
	})
	if err = errors.Join(err, out); err != nil {
		return fmt.Errorf("disk %s: %w", m.cfg.WWN, err)
	}
	m.Close()
	return nil
}
