package iscsi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/storage/disk"
	"github.com/skein-os/skein/storage/modules"
)

// Config of an Initiator.
type Config struct {
	// Name is the iSCSI name of this machine (InitiatorName). It must not change while iscsid runs.
	Name string
	// Cgroup is a cgroup v2 folder for iscsid, made if it is not there: iscsid outlives the Initiator in it, and sessions
	// notice nothing of an agent that is restarted. Nobody else may be in it. Empty: iscsid ends with the Initiator.
	Cgroup string
	// Output has what iscsid prints. It must be good for as long as iscsid runs. Nil: it is lost.
	Output *os.File
	Log    *slog.Logger
	// Changed is called when the state of a portal has changed, and when disks may have come, gone or grown. It must not
	// block or call the Initiator. Nil: nobody cares.
	Changed func()
}

// PortalState is how far this machine is with a portal.
type PortalState string

// The states of a portal.
const (
	Waiting    PortalState = "waiting"     // for the next try of a login; Err tells why
	LoggingIn  PortalState = "logging-in"  // now
	Scanning   PortalState = "scanning"    // logged in; the disks are being looked for
	Ready      PortalState = "logged-in"   // and the disks are there
	Lost       PortalState = "failed"      // a session without a connection; iscsid connects it again
	LoggingOut PortalState = "logging-out" // or about to, because it is wanted no more
)

// Status is what is known of a portal.
type Status struct {
	Target  string         `json:"target"`
	Portal  netip.AddrPort `json:"portal"`
	State   PortalState    `json:"state"`
	Session int            `json:"session,omitempty"` // the kernel's number, 0 if there is none
	Err     string         `json:"error,omitempty"`   // the last one, until a session is well again
	Since   time.Time      `json:"since"`             // wall clock: when State became what it is; waiting and logging-in are one
}

// Intervals and limits of the loop.
const (
	// look is between two looks at sysfs: the kernel tells nobody but iscsid that a session has lost its connection.
	look = time.Second
	// settleLimit is how long a session's disks may take to get their device files after they were found.
	settleLimit = 30 * time.Second
	// goneLimit is how long a session and its disks may take to be gone after a logout.
	goneLimit = 10 * time.Second
)

// Initiator keeps this machine's iSCSI sessions as wanted. There is one for a machine: the kernel and iscsid have no
// more than one each.
type Initiator struct {
	cfg    Config
	sys    disk.Sys
	dir    string // /etc/iscsi: iscsiadm knows no other
	locks  string // /run/lock/iscsi, likewise
	tools  tools
	daemon func(context.Context)       // runs iscsid until the end
	ready  func(context.Context) error // waits for it
	load   func() error                // kernel modules

	wake chan struct{}
	up   chan struct{} // closed when iscsid takes commands for the first time
	wg   sync.WaitGroup

	records sync.Mutex // the folder of a target is made and removed for any of its portals

	mu    sync.Mutex
	want  []Want
	whole bool // want is all there is
	asked bool // somebody needs iscsid
	now   map[Portal]*progress
	order Reconciler
	busy  map[Portal]PortalState // what a task is doing
	scans map[int]scan           // by session
	// patient is until when iscsid may still be connecting sessions that it found.
	patient time.Time
	failed  error // why nothing can be done at all
}

// progress is a Status in the making.
type progress struct {
	state   PortalState
	session int
	err     string
	since   time.Time
}

// scan is how far the disks of a session are known.
type scan struct {
	done  bool
	again time.Time
}

// New makes an Initiator; Run does the work.
func New(cfg Config) (*Initiator, error) {
	if len(cfg.Name) > maxName || !targetName.MatchString(cfg.Name) {
		return nil, fmt.Errorf("%q is not an iSCSI name, which this machine needs as an initiator", cfg.Name)
	}
	i := newInitiator(cfg, "/etc/iscsi")
	d := &daemon{path: "/sbin/iscsid", args: []string{"-f", "-c", i.file(configFile), "-i", i.file(nameFile)}, cgroup: cfg.Cgroup, output: cfg.Output,
		log: cfg.Log, starting: i.starting}
	i.sys, i.tools, i.daemon, i.ready = disk.Kernel, newOpenISCSI(), d.run, awaitDaemon
	i.load = func() error { return modules.Load(modules.ISCSI...) }
	return i, nil
}

func newInitiator(cfg Config, dir string) *Initiator {
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	return &Initiator{cfg: cfg, dir: dir, locks: "/run/lock/iscsi", wake: make(chan struct{}, 1), up: make(chan struct{}), now: map[Portal]*progress{}, busy: map[Portal]PortalState{},
		scans: map[int]scan{}}
}

// Name is the initiator's iSCSI name.
func (i *Initiator) Name() string { return i.cfg.Name }

// Names of files in the folder.
const (
	configFile = "iscsid.conf"
	nameFile   = "initiatorname.iscsi"
)

func (i *Initiator) file(name string) string { return filepath.Join(i.dir, name) }

// Want says which portals are to be logged in to from now on. What is wrong with one is in its Status. Other sessions
// are ended only if the list is the whole: a node that has not read its ledger yet must not end those it needs.
func (i *Initiator) Want(list []Want, whole bool) {
	i.mu.Lock()
	i.want, i.whole = slices.Clone(list), whole
	i.mu.Unlock()
	i.poke()
}

func (i *Initiator) poke() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// Status lists the portals that are wanted or still have a session, in order.
func (i *Initiator) Status() []Status {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []Status
	for p, n := range i.now {
		err := n.err
		if i.failed != nil {
			err = i.failed.Error()
		}
		out = append(out, Status{p.Target, p.Addr, n.state, n.session, err, n.since})
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Or(cmp.Compare(a.Target, b.Target), a.Portal.Compare(b.Portal)) })
	return out
}

// Run keeps the sessions as wanted until ctx ends. It starts iscsid when something is wanted for the first time.
// Sessions stay, for the next Initiator to find.
func (i *Initiator) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer i.wg.Wait()
	defer cancel()
	wait := firstRestart
	for { // until something is wanted, and what that takes is there
		seen, _ := Sessions(i.sys.Root) // none is as good as one that cannot be read
		i.mu.Lock()
		idle := !i.asked && len(i.want) == 0 && !(i.whole && len(seen) > 0)
		i.show(seen, time.Now())
		i.mu.Unlock()
		var again <-chan time.Time
		if !idle {
			err := i.prepare()
			i.mu.Lock()
			i.failed = err
			i.mu.Unlock()
			if err == nil {
				break
			}
			i.cfg.Log.Error("no iSCSI target can be logged in to", "err", err)
			again = time.After(wait)
			wait = min(2*wait, maxRestart)
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-i.wake:
		}
	}
	i.wg.Go(func() { i.daemon(ctx) })
	i.wg.Go(func() { i.follow(ctx) })
	if err := i.ready(ctx); err != nil && ctx.Err() == nil {
		i.cfg.Log.Error("iSCSI", "err", err) // logins will say so too, and be tried again
	}
	close(i.up)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(i.turn(ctx, time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-i.wake:
		}
	}
}

// prepare makes what iscsid needs.
func (i *Initiator) prepare() error {
	if err := i.load(); err != nil {
		return err
	}
	for _, d := range []string{i.dir, i.file("nodes"), i.file("ifaces"), i.file("send_targets"), i.locks} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("folder for iscsid: %w", err)
		}
	}
	// Of an iscsiadm that was killed with its agent: others would wait for it in vain.
	if err := os.Remove(filepath.Join(i.locks, "lock.write")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeFile(i.file(configFile), configText()); err != nil {
		return err
	}
	return writeFile(i.file(nameFile), "InitiatorName="+i.cfg.Name+"\n")
}

// writeFile writes a file that only root reads, whole or not at all.
func writeFile(name, text string) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return fmt.Errorf("file for iscsid: %w", err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("file for iscsid: %w", err)
	}
	return nil
}

// follow wakes the loop when the kernel says something of SCSI devices, and looks again at what it says has changed.
func (i *Initiator) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := disk.Watch(ctx, func(e disk.Event) {
			switch e.Values["SDEV_UA"] {
			case "REPORTED_LUNS_DATA_HAS_CHANGED", "CAPACITY_DATA_HAS_CHANGED", "INQUIRY_DATA_HAS_CHANGED":
				i.Rescan()
			}
			i.poke()
		})
		if ctx.Err() != nil {
			return
		}
		i.cfg.Log.Warn("changes of disks are seen later", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(maxRestart):
		}
	}
}

// Rescan has all sessions looked through again for disks, and the sizes of those that are known read again. It does
// not wait for that; Config.Changed tells.
func (i *Initiator) Rescan() {
	i.mu.Lock()
	clear(i.scans)
	i.mu.Unlock()
	i.poke()
}

// turn starts what there is to do now and returns when to look again at the latest.
func (i *Initiator) turn(ctx context.Context, now time.Time) time.Duration {
	seen, err := Sessions(i.sys.Root)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failed = err
	if err != nil {
		return look
	}
	if i.whole {
		if err := i.sweep(seen); err != nil {
			i.cfg.Log.Error("a record of a portal that is not wanted stays, perhaps with a secret", "err", err)
		}
	}
	if len(i.want) == 0 && len(seen) == 0 && len(i.busy) == 0 {
		i.show(seen, now)
		return time.Hour // Want wakes
	}
	var want []Portal
	for _, w := range i.want {
		want = append(want, w.Portal)
	}
	steps, _ := i.order.Next(now, want, seen) // looks are more frequent than what it would wait for
	for _, s := range steps {
		if i.busy[s.Portal] != "" || !i.whole && s.Do == Logout && !slices.Contains(want, s.Portal) {
			continue
		}
		doing := LoggingIn
		if s.Do == Logout {
			doing = LoggingOut
		}
		i.start(s.Portal, doing, func() { i.do(ctx, s, want, seen) })
	}
	if now.After(i.patient) {
		i.limit(seen, RecoveryTimeout) // also where an older agent logged in, or iscsid had started
	}
	for _, s := range seen {
		sc := i.scans[s.ID]
		if s.State != LoggedIn {
			delete(i.scans, s.ID) // what the target has may be another thing when it is back
		} else if !sc.done && !now.Before(sc.again) && i.busy[s.Portal] == "" && slices.Contains(want, s.Portal) {
			i.start(s.Portal, Scanning, func() { i.scan(ctx, s) })
		}
	}
	i.show(seen, now)
	return look
}

// start runs a task of a portal, one at a time for each. The caller has the lock.
func (i *Initiator) start(p Portal, doing PortalState, task func()) {
	i.busy[p] = doing
	i.wg.Go(func() {
		task()
		i.mu.Lock()
		delete(i.busy, p)
		i.mu.Unlock()
		i.poke()
	})
}

// limit tells the kernel for how long the sessions' commands wait for a lost connection. It refuses for a session that
// has lost it already.
func (i *Initiator) limit(seen []Session, d time.Duration) {
	for _, s := range seen {
		if s.State != LoggedIn {
			continue
		}
		file := filepath.Join(i.sys.Root, "class/iscsi_session", "session"+strconv.Itoa(s.ID), "recovery_tmo")
		data, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(data)) != seconds(d) {
			err = os.WriteFile(file, []byte(seconds(d)), 0)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			i.cfg.Log.Warn("a dead path may be seen late", "portal", s.Portal, "err", err)
		}
	}
}

// patience is what sessions are given while iscsid starts: it connects all of them anew, at once, and a machine that is
// slow at that would lose all paths to a disk. It is also how long a dead path may be hidden then.
const patience = 5 * time.Second

// starting is called before each start of iscsid.
func (i *Initiator) starting() {
	seen, err := Sessions(i.sys.Root)
	if err != nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.patient = time.Now().Add(2 * patience)
	i.limit(seen, patience)
}

// show brings the statuses up to date. The caller has the lock.
func (i *Initiator) show(seen []Session, now time.Time) {
	type place struct {
		state   PortalState
		session int
	}
	at := map[Portal]place{}
	for _, w := range i.want {
		at[w.Portal] = place{Waiting, 0}
	}
	for p, doing := range i.busy {
		if _, wanted := at[p]; wanted || doing == LoggingOut {
			at[p] = place{doing, 0}
		}
	}
	for _, s := range seen {
		have := at[s.Portal]
		wanted := slices.ContainsFunc(i.want, func(w Want) bool { return w.Portal == s.Portal })
		switch {
		case have.session != 0: // a second one, about to be logged out
		case !wanted && !i.whole:
		case !wanted:
			at[s.Portal] = place{LoggingOut, s.ID}
		case have.state == LoggingOut:
			at[s.Portal] = place{LoggingOut, s.ID}
		case s.State != LoggedIn && have.state == LoggingIn: // not there yet
		case s.State != LoggedIn:
			at[s.Portal] = place{Lost, s.ID}
		case !i.scans[s.ID].done:
			at[s.Portal] = place{Scanning, s.ID}
		default:
			at[s.Portal] = place{Ready, s.ID}
		}
	}
	for p := range i.now {
		if _, ok := at[p]; !ok {
			delete(i.now, p)
		}
	}
	for p, a := range at {
		n := i.now[p]
		if n == nil {
			n = &progress{}
			i.now[p] = n
		}
		// The tries of a login are one state to whoever waits for its end: since when, and once in the log.
		out := func(s PortalState) bool { return s == Waiting || s == LoggingIn }
		if out(n.state) && out(a.state) {
			n.state = a.state
		}
		if n.state != a.state {
			i.cfg.Log.Info("iSCSI portal", "portal", p, "state", a.state, "was", n.state, "session", a.session)
			n.state, n.since = a.state, now
			i.cfg.Changed()
		}
		switch n.session = a.session; {
		case a.state == Ready:
			n.err = ""
		case a.state == Lost && n.err == "":
			n.err = "the portal does not answer; iscsid connects to it again and again"
		}
	}
}

// fail notes why something with a portal did not work, and tells the log what is new.
func (i *Initiator) fail(p Portal, err error) {
	i.mu.Lock()
	n := i.now[p]
	if n == nil {
		n = &progress{state: LoggingOut, since: time.Now()}
		i.now[p] = n
	}
	said := n.err == err.Error()
	n.err = err.Error()
	i.mu.Unlock()
	if !said {
		i.cfg.Log.Warn("iSCSI", "err", err)
	}
}

// do carries out a step. Errors are noted with its portal, and the reconciler says when to try again.
func (i *Initiator) do(ctx context.Context, s Step, want []Portal, seen []Session) {
	var err error
	switch s.Do {
	case Login:
		if err = i.logIn(ctx, s.Portal); err == nil || ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("log in to %s: %w", s.Portal, err)
		i.mu.Lock()
		i.order.Refused(time.Now(), s.Portal)
		i.mu.Unlock()
	case Logout:
		if err = i.logOut(ctx, s, want, seen); err == nil || ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("log out of %s, as %s: %w", s.Portal, s.Why, err)
		i.mu.Lock()
		i.order.Stayed(time.Now(), s.ID)
		i.mu.Unlock()
	}
	i.fail(s.Portal, err)
}

func (i *Initiator) logIn(ctx context.Context, p Portal) error {
	i.mu.Lock()
	at := slices.IndexFunc(i.want, func(w Want) bool { return w.Portal == p })
	if at < 0 {
		i.mu.Unlock()
		return nil // not any more
	}
	w := i.want[at]
	i.mu.Unlock()
	if err := w.Check(); err != nil {
		return err
	}
	if err := i.remember(w); err != nil {
		return err
	}
	if err := i.tools.login(ctx, p); err != nil {
		return errors.Join(err, i.forget(p))
	}
	return nil
}

// remember writes the record of a portal.
func (i *Initiator) remember(w Want) error {
	i.records.Lock()
	defer i.records.Unlock()
	record := recordPath(i.dir, w.Portal)
	if err := os.MkdirAll(filepath.Dir(record), 0o700); err != nil {
		return fmt.Errorf("folder for iscsid: %w", err)
	}
	return writeFile(record, recordText(w))
}

// forget removes the record of a portal, with its secrets.
func (i *Initiator) forget(p Portal) error {
	i.records.Lock()
	defer i.records.Unlock()
	return remove(recordPath(i.dir, p))
}

func remove(record string) error {
	if err := os.Remove(record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(record)) // fails while another portal of the target is there
	return nil
}

// sweep removes the records of portals that are neither wanted nor have a session: iscsid needs them no more, and they
// may hold secrets. Also those that an earlier agent left. The caller has the lock.
func (i *Initiator) sweep(seen []Session) error {
	keep := map[string]bool{}
	for _, w := range i.want {
		keep[recordPath(i.dir, w.Portal)] = true
	}
	for _, s := range seen {
		keep[recordPath(i.dir, s.Portal)] = true
	}
	for p := range i.busy {
		keep[recordPath(i.dir, p)] = true
	}
	i.records.Lock()
	defer i.records.Unlock()
	there, err := filepath.Glob(filepath.Join(i.file("nodes"), "*", "*"))
	for _, record := range there {
		if !keep[record] {
			err = errors.Join(err, remove(record))
		}
	}
	return err
}

func (i *Initiator) logOut(ctx context.Context, s Step, want []Portal, seen []Session) error {
	host, err := sessionHost(i.sys.Root, s.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went by itself
	}
	if err != nil {
		return err
	}
	at := slices.IndexFunc(seen, func(x Session) bool { return x.ID == s.ID })
	if at >= 0 && seen[at].State == LoggedIn {
		if err := i.spare(host, want); err != nil {
			return err
		}
	}
	if err := i.tools.logout(ctx, s.ID); err != nil {
		return err
	}
	if err := i.gone(ctx, s.ID, host); err != nil {
		return err
	}
	i.cfg.Changed()
	return nil
}

// spare tells whether a session that works can be done without: each of its disks that is in use has another path
// that is wanted and runs. A map moves its commands there.
func (i *Initiator) spare(host int, want []Portal) error {
	disks, err := i.sys.Scan()
	if err != nil {
		return err
	}
	for _, d := range disks {
		for _, p := range d.Paths {
			if !onHost(p, host) {
				continue
			}
			err := i.sys.Free(p)
			other := d.WWN != "" && slices.ContainsFunc(d.Paths, func(o disk.Path) bool {
				addr, err := netip.ParseAddrPort(o.Portal)
				return !onHost(o, host) && o.State == "running" && (o.Transport != "iscsi" || err == nil && slices.Contains(want, Portal{o.Target, addr}))
			})
			if errors.Is(err, disk.ErrBusy) && other {
				continue
			}
			if err != nil {
				return fmt.Errorf("it has the only path to a disk in use: stop what uses the disk first: %w", err)
			}
		}
	}
	return nil
}

// gone waits until nothing of a session is left.
func (i *Initiator) gone(ctx context.Context, id, host int) error {
	ctx, cancel := context.WithTimeout(ctx, goneLimit)
	defer cancel()
	for {
		_, err := os.Lstat(filepath.Join(i.sys.Root, "class/iscsi_session", "session"+strconv.Itoa(id)))
		left, lerr := i.devices(host)
		if errors.Is(err, fs.ErrNotExist) && lerr == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("session %d is still there after %s, with the devices %v", id, goneLimit, left)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// devices are the addresses of the SCSI devices of a host.
func (i *Initiator) devices(host int) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(i.sys.Root, "bus/scsi/devices"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), strconv.Itoa(host)+":") {
			out = append(out, e.Name())
		}
	}
	return out, err
}

func onHost(p disk.Path, host int) bool {
	h, _, _ := strings.Cut(p.HCTL, ":")
	return h == strconv.Itoa(host)
}

// scan has the kernel look for the disks of a session, and waits until they can be used.
func (i *Initiator) scan(ctx context.Context, s Session) {
	err := i.find(ctx, s)
	if ctx.Err() != nil {
		return
	}
	i.mu.Lock()
	if err == nil {
		i.scans[s.ID] = scan{done: true}
	} else {
		i.scans[s.ID] = scan{again: time.Now().Add(scanRetry)}
	}
	i.mu.Unlock()
	if err != nil {
		i.fail(s.Portal, fmt.Errorf("look for the disks behind %s: %w", s.Portal, err))
	}
	i.cfg.Changed()
}

// scanRetry is between two looks for disks that did not come.
const scanRetry = 5 * time.Second

func (i *Initiator) find(ctx context.Context, s Session) error {
	host, err := sessionHost(i.sys.Root, s.ID)
	if err != nil {
		return err
	}
	disks, err := i.sys.Scan()
	if err != nil {
		return err
	}
	// Those that are known first: the kernel does not by itself see that one has grown, or is another LUN now.
	for _, d := range disks {
		for _, p := range d.Paths {
			if !onHost(p, host) || p.State != "running" {
				continue
			}
			if _, err := i.sys.Rescan(p); errors.Is(err, disk.ErrChanged) {
				if err := i.replace(p, err); err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
		}
	}
	if err := i.sys.ScanHost(host, -1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		late, err := i.unsettled(host)
		if err != nil {
			return err
		}
		if late == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("SCSI device %s has no block device after %s", late, settleLimit)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// replace lets go of a device behind which there is another disk now; the scan that follows makes a new one of it.
func (i *Initiator) replace(was disk.Path, why error) error {
	disks, err := i.sys.Scan()
	if err != nil {
		return err
	}
	for _, d := range disks {
		for _, p := range d.Paths {
			if p.HCTL != was.HCTL {
				continue
			}
			if err := i.sys.Remove(p); err != nil {
				return errors.Join(why, err)
			}
			i.cfg.Log.Warn("a path led to another disk and is made anew", "err", why)
		}
	}
	return nil
}

// unsettled is a disk of a host that has no block device yet: the kernel makes those later, by itself.
func (i *Initiator) unsettled(host int) (string, error) {
	list, err := i.devices(host)
	if err != nil {
		return "", err
	}
	for _, hctl := range list {
		dir := filepath.Join(i.sys.Root, "bus/scsi/devices", hctl)
		kind, err := os.ReadFile(filepath.Join(dir, "type"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a target or a host, or a device that goes away
		}
		if err != nil {
			return "", err
		}
		if t := strings.TrimSpace(string(kind)); t != "0" { // SPC-4, 6.4.2: 0 is a disk
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, "block")); errors.Is(err, fs.ErrNotExist) {
			return hctl, nil
		}
	}
	return "", nil
}

var hostOf = regexp.MustCompile(`/host([0-9]+)/session[0-9]+(/|$)`)

// sessionHost is the SCSI host of a session.
func sessionHost(root string, id int) (int, error) {
	real, err := filepath.EvalSymlinks(filepath.Join(root, "class/iscsi_session", "session"+strconv.Itoa(id)))
	if err != nil {
		return 0, err
	}
	m := hostOf.FindStringSubmatch(real)
	if m == nil {
		return 0, fmt.Errorf("session %d is at %s, which is below no SCSI host", id, real)
	}
	return strconv.Atoi(m[1])
}

// Discover asks a portal for its targets and their portals. A target may name fewer than it has, and may want CHAP for
// the question alone, which is not done: then its name has to be given.
func (i *Initiator) Discover(ctx context.Context, portal netip.AddrPort) ([]Portal, error) {
	i.mu.Lock()
	i.asked = true
	i.mu.Unlock()
	i.poke()
	select {
	case <-i.up:
	case <-ctx.Done():
		i.mu.Lock()
		defer i.mu.Unlock()
		return nil, fmt.Errorf("ask %s for its targets: iscsid does not run: %w", portal, cmp.Or(i.failed, context.Cause(ctx)))
	}
	list, err := i.tools.discover(ctx, portal)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its targets: %w", portal, err)
	}
	return list, nil
}
