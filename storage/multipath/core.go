package multipath

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Settings of a map. The zero value of a field means its default.
type Settings struct {
	// QueueFor is how long I/O waits while no path works, before it fails. Default 60 s. Longer hides longer
	// outages from applications, and keeps a service hanging that could run elsewhere. Negative: it fails at once.
	QueueFor time.Duration
	// Hold is for how long a path that failed when it had been up for less than Calm must wait before it is used
	// again; doubled each time up to HoldMax. Default 2 s and 60 s. So a path that comes and goes does not stall I/O.
	Hold, HoldMax time.Duration
	// Calm is how long a path must be up for its past to be forgotten. Default 60 s.
	Calm time.Duration
	// Failback is for how long the best group must have had a path before I/O goes back there. Default 5 s.
	Failback time.Duration
	// Again is the distance between attempts that failed: of an admission, of a table. Default 2 s.
	Again time.Duration
}

func (s Settings) withDefaults() Settings {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&s.QueueFor, 60*time.Second)
	def(&s.Hold, 2*time.Second)
	def(&s.HoldMax, 60*time.Second)
	def(&s.Calm, 60*time.Second)
	def(&s.Failback, 5*time.Second)
	def(&s.Again, 2*time.Second)
	return s
}

// PathState is where a path is on its way into the map.
type PathState string

// The states of a path. Only Up takes I/O.
const (
	Unchecked PathState = "unchecked"      // nothing is known of it yet
	Unfit     PathState = "unfit"          // it answers and must not be used: another disk, or too small
	Failed    PathState = "failed"         // it does not answer, or I/O failed on it, or its link is down
	Held      PathState = "held"           // it answers, and has come and gone too often
	Admitting PathState = "being admitted" // Admit is under way
	Refused   PathState = "not admitted"   // Admit failed
	Admitted  PathState = "admitted"       // it is due to be put into the map
	Up        PathState = "up"
)

// moves are the transitions there are, besides those to Failed, Unfit and Unchecked, which come from any state.
var moves = map[PathState][]PathState{
	Unchecked: {Held, Admitting},
	Unfit:     {Held, Admitting},
	Failed:    {Held, Admitting},
	Held:      {Admitting},
	Admitting: {Refused, Admitted},
	Refused:   {Admitting},
	Admitted:  {Up},
	Up:        {},
}

// Path is what is known of one path.
type Path struct {
	Dev        string // major:minor
	State      PathState
	Because    string // why it is not up
	Since      time.Time
	Access     Access
	Priority   int
	Size       uint64 // bytes, as this node's kernel sees it
	Failures   uint64 // how often it went from up to failed
	Attentions uint64 // unit attentions that its checks met
}

type path struct {
	Path
	good     bool      // the last check was good
	checked  time.Time // when the last good check began
	failedAt time.Time // a check that began earlier says nothing of it
	heldTill time.Time
	hold     time.Duration
	busy     bool // an Admit is under way, of whatever time
	retry    time.Time
}

// Probe is what a check of a path found.
type Probe struct {
	Dev       string
	Begun     time.Time
	Err       error // it does not work, or does not answer in time
	Identity  Identity
	Access    Access
	Size      uint64 // bytes
	Attention string // a unit attention that the check met and so took away from others; "" if none
}

// ActionKind is something to be done.
type ActionKind string

// What Core asks for.
const (
	Admit     ActionKind = "admit"          // call the hook for Dev, in the background
	Load      ActionKind = "load"           // put Table in place, and make the map if there is none
	FailPath  ActionKind = "fail path"      // no I/O to Dev any more
	Reinstate ActionKind = "reinstate path" // I/O to Dev again
	Switch    ActionKind = "switch group"   // I/O to group Group
	QueueOn   ActionKind = "queue"          // wait while there is no path
	QueueOff  ActionKind = "fail I/O"       // fail while there is no path, and what waits
)

// Action is one thing to be done; Core.Done takes it back.
type Action struct {
	Kind  ActionKind
	Dev   string
	Group int
	Table Table
}

func (a Action) String() string {
	switch a.Kind {
	case Load:
		return fmt.Sprintf("load %d sectors: %s", a.Table.Sectors, a.Table)
	case Switch:
		return fmt.Sprintf("%s %d", a.Kind, a.Group)
	default:
		return strings.TrimSpace(string(a.Kind) + " " + a.Dev)
	}
}

// Core decides for one map: which path is used, when one that failed is used again, when waiting ends. It has no
// clock and does nothing: it is told what was seen, with times, and asked for the next action. Times must not go
// backwards.
type Core struct {
	wwn    string
	set    Settings
	paths  map[string]*path
	live   *Table          // what the kernel has; nil: no map
	active map[string]bool // of live's paths, those that the kernel uses, as far as known
	group  int             // that I/O goes to, 0 unknown
	gone   time.Time       // since when no path is up; zero: one is
	gaveUp bool
	closed bool
	retry  time.Time // of what failed in the kernel
	better time.Time // since when the best group could be used and is not
	err    string    // why the last action in the kernel failed
}

// NewCore decides for the disk with this worldwide name. live is the table that the kernel has, nil if none: of a
// map that a former run of the agent left behind. Its paths are failed until they have been checked and
// admitted again, unless they are in status as working: they go on then, and are checked like any.
func NewCore(wwn string, s Settings, now time.Time, live *Table, status Status) *Core {
	c := &Core{wwn: wwn, set: s.withDefaults(), paths: map[string]*path{}, active: map[string]bool{}, gone: now}
	if live == nil {
		return c
	}
	c.live, c.group = live, status.active()
	// Without a path and without a queue: closed by Drain. It stays so until it is opened.
	c.closed = len(live.Groups) == 0 && !live.Queue
	c.gaveUp = !live.Queue && !c.closed
	for _, g := range live.Groups {
		for _, dev := range g.Paths {
			p := c.add(dev, now)
			if s, ok := status.path(dev); ok && s.Active {
				p.State, c.active[dev] = Up, true
				c.gone = time.Time{}
			}
		}
	}
	return c
}

func (c *Core) add(dev string, now time.Time) *path {
	p := &path{Path: Path{Dev: dev, State: Unchecked, Since: now, Access: NoALUA, Priority: NoALUA.Priority()}}
	c.paths[dev] = p
	return p
}

// Want sets the paths of the disk. One that is not wanted any more leaves the map.
func (c *Core) Want(now time.Time, devs []string) {
	for _, d := range devs {
		if c.paths[d] == nil {
			c.add(d, now)
		}
	}
	for d := range c.paths {
		if !slices.Contains(devs, d) {
			delete(c.paths, d)
		}
	}
	c.count(now)
}

// move is the one function that changes a path's state.
func (c *Core) move(now time.Time, p *path, to PathState, because string) {
	if to == Failed {
		p.failedAt = now
	}
	if p.State == to {
		p.Because = because
		return
	}
	if to != Failed && to != Unfit && to != Unchecked && !slices.Contains(moves[p.State], to) {
		panic(fmt.Sprintf("path %s: from %q to %q", p.Dev, p.State, to))
	}
	if p.State == Up && (to == Failed || to == Unfit) {
		p.Failures++
		switch {
		case now.Sub(p.Since) >= c.set.Calm:
			p.hold = 0
		case p.hold == 0:
			p.hold = c.set.Hold
		default:
			p.hold = min(2*p.hold, c.set.HoldMax)
		}
		p.heldTill = now.Add(p.hold)
	}
	p.State, p.Because, p.Since = to, because, now
	c.count(now)
}

// count keeps gone true.
func (c *Core) count(now time.Time) {
	for _, p := range c.paths {
		if p.State == Up {
			c.gone = time.Time{}
			return
		}
	}
	if c.gone.IsZero() {
		c.gone = now
	}
}

// Probed takes what a check found.
func (c *Core) Probed(now time.Time, r Probe) {
	p := c.paths[r.Dev]
	if p == nil {
		return
	}
	if r.Attention != "" {
		p.Attentions++
	}
	if r.Err != nil {
		p.good = false
		c.move(now, p, Failed, r.Err.Error())
		return
	}
	if !r.Identity.Has(c.wwn) {
		p.good = false
		c.move(now, p, Unfit, fmt.Sprintf("it leads to disk %s, not %s", strings.Join(r.Identity.Names, " or "), c.wwn))
		return
	}
	p.Size = r.Size
	if r.Access == Transitioning { // soon something else; what worked is left alone until then
		p.Access = r.Access
		return
	}
	p.Access, p.Priority = r.Access, r.Access.Priority()
	if p.Priority == 0 {
		p.good = false
		c.move(now, p, Failed, "the target says that it is "+r.Access.String())
		return
	}
	if c.live != nil && r.Size/SectorSize < c.live.Sectors {
		p.good = false
		c.move(now, p, Unfit, fmt.Sprintf("it has %d bytes, the map has %d: scan the path again; a disk must not shrink", r.Size, c.live.Sectors*SectorSize))
		return
	}
	if r.Size/SectorSize == 0 {
		p.good = false
		c.move(now, p, Unfit, "it has no bytes")
		return
	}
	p.good, p.checked = true, r.Begun
}

// LinkDown fails a path at once: its link is down, and its commands would only run into their time limit.
func (c *Core) LinkDown(now time.Time, dev, because string) {
	if p := c.paths[dev]; p != nil {
		p.good = false
		c.move(now, p, Failed, because)
	}
}

// Seen takes what the kernel says of the map.
func (c *Core) Seen(now time.Time, s Status) {
	c.group = s.active()
	for dev := range c.active {
		st, ok := s.path(dev)
		c.active[dev] = ok && st.Active
		if p := c.paths[dev]; p != nil && p.State == Up && !c.active[dev] {
			p.good = false
			c.move(now, p, Failed, "I/O failed on it")
		}
	}
}

// Close makes the map fail all I/O from now on, and keeps paths from being used or admitted until Open.
func (c *Core) Close(now time.Time) {
	c.closed = true
	for _, p := range c.paths {
		c.move(now, p, Unchecked, "the map is closed")
		p.good = false
		p.failedAt = now
	}
}

// Drained: the kernel has the closed map's empty table, and nothing is under way.
func (c *Core) Drained(sectors uint64) {
	c.live, c.active, c.group = &Table{Sectors: sectors}, map[string]bool{}, 0
}

// Open ends Close: paths are checked and admitted anew.
func (c *Core) Open(now time.Time) {
	c.closed, c.gaveUp = false, false
	c.gone = now
	for _, p := range c.paths {
		p.failedAt, p.retry = now, time.Time{}
		p.Because = ""
	}
}

// ready moves paths on that need nobody's doing.
func (c *Core) ready(now time.Time, p *path) bool {
	switch p.State {
	case Unchecked, Unfit, Failed, Held, Refused:
	default:
		return false
	}
	if c.closed || p.busy || !p.good || p.checked.Before(p.failedAt) {
		return false
	}
	if p.State == Refused {
		return !now.Before(p.retry)
	}
	if now.Before(p.heldTill) {
		if p.State != Held {
			c.move(now, p, Held, fmt.Sprintf("it failed %d times; it is used again if it works for %v", p.Failures, p.hold))
		}
		return false
	}
	return true
}

// order of looking at paths, so that the same observations give the same actions.
func (c *Core) devs() []string {
	out := make([]string, 0, len(c.paths))
	for d := range c.paths {
		out = append(out, d)
	}
	slices.SortFunc(out, compareDev)
	return out
}

// want is the table that there should be.
func (c *Core) want() Table {
	t := Table{Queue: c.set.QueueFor > 0 && !c.gaveUp}
	priority := map[string]int{}
	for d, p := range c.paths {
		if p.State == Up || p.State == Admitted {
			priority[d] = p.Priority
			if n := p.Size / SectorSize; n > 0 && (t.Sectors == 0 || n < t.Sectors) {
				t.Sectors = n
			}
		}
	}
	t.Groups = groups(priority)
	if c.live != nil {
		t.Sectors = max(t.Sectors, c.live.Sectors)
	}
	return t
}

// Next is what to do now; ok is false if nothing is due before Wake.
func (c *Core) Next(now time.Time) (a Action, ok bool) {
	waiting := now.Before(c.retry)
	if c.live != nil && !waiting {
		// What must not go on comes first.
		if c.live.Queue && (c.closed || c.giveUpDue(now)) {
			return Action{Kind: QueueOff}, true
		}
		for _, g := range c.live.Groups {
			for _, dev := range g.Paths {
				if p := c.paths[dev]; c.active[dev] && (p == nil || p.State != Up) {
					return Action{Kind: FailPath, Dev: dev}, true
				}
			}
		}
	}
	if c.closed {
		return Action{}, false
	}
	for _, dev := range c.devs() {
		if p := c.paths[dev]; c.ready(now, p) {
			c.move(now, p, Admitting, "")
			p.busy = true
			return Action{Kind: Admit, Dev: dev}, true
		}
	}
	if waiting {
		return Action{}, false
	}
	for _, dev := range c.devs() {
		if p := c.paths[dev]; p.State == Admitted && c.live != nil && c.live.Has(dev) {
			return Action{Kind: Reinstate, Dev: dev}, true
		}
	}
	if t, due := c.loadDue(); due {
		return Action{Kind: Load, Table: t}, true
	}
	if c.live != nil && !c.live.Queue && c.gone.IsZero() && c.set.QueueFor > 0 {
		return Action{Kind: QueueOn}, true
	}
	return c.failback(now)
}

func (c *Core) giveUpDue(now time.Time) bool {
	return !c.gone.IsZero() && !now.Before(c.gone.Add(c.set.QueueFor))
}

// loadDue tells whether the table must be another one: a path to add, one that must not stay, another order of
// groups, or a longer disk. A path that failed stays in the table as it is: each load holds I/O up until what is
// under way has ended.
func (c *Core) loadDue() (Table, bool) {
	t := c.want()
	if c.live == nil {
		return t, len(t.Groups) > 0
	}
	for _, g := range c.live.Groups {
		for _, dev := range g.Paths {
			if p := c.paths[dev]; p == nil || p.State == Unfit {
				return t, true
			}
		}
	}
	if len(t.Groups) == 0 {
		return t, false
	}
	if t.Sectors > c.live.Sectors {
		return t, true
	}
	// The same but for paths that do not work?
	var kept []Group
	for _, g := range c.live.Groups {
		var k Group
		for _, dev := range g.Paths {
			if c.paths[dev].State == Up {
				k.Paths = append(k.Paths, dev)
			}
		}
		if len(k.Paths) > 0 {
			kept = append(kept, k)
		}
	}
	return t, !t.sameGroups(Table{Groups: kept})
}

func (c *Core) failback(now time.Time) (Action, bool) {
	best := 0
	if c.live != nil {
		for i, g := range c.live.Groups {
			if slices.ContainsFunc(g.Paths, func(d string) bool { return c.paths[d] != nil && c.paths[d].State == Up }) {
				best = i + 1
				break
			}
		}
	}
	if best == 0 || c.group == 0 || c.group <= best {
		c.better = time.Time{}
		return Action{}, false
	}
	if c.better.IsZero() {
		c.better = now
	}
	if now.Before(c.better.Add(c.set.Failback)) {
		return Action{}, false
	}
	return Action{Kind: Switch, Group: best}, true
}

// Done takes back what became of an action.
func (c *Core) Done(now time.Time, a Action, err error) {
	p := c.paths[a.Dev]
	if a.Kind == Admit {
		if p == nil {
			return
		}
		p.busy = false
		if p.State != Admitting { // it failed meanwhile, or the map was closed: this admission counts no more
			return
		}
		if err != nil {
			p.retry = now.Add(c.set.Again)
			c.move(now, p, Refused, err.Error())
			return
		}
		c.move(now, p, Admitted, "")
		return
	}
	if err != nil {
		c.err, c.retry = fmt.Sprintf("%s: %v", a, err), now.Add(c.set.Again)
		return
	}
	c.err = ""
	switch a.Kind {
	case Load:
		c.live, c.active, c.group = &a.Table, map[string]bool{}, 0
		for _, g := range a.Table.Groups {
			for _, dev := range g.Paths {
				c.active[dev] = true
				if p := c.paths[dev]; p != nil && p.State == Admitted {
					c.move(now, p, Up, "")
				}
			}
		}
	case FailPath:
		c.active[a.Dev] = false
	case Reinstate:
		c.active[a.Dev] = true
		if p != nil && p.State == Admitted {
			c.move(now, p, Up, "")
		}
	case Switch:
		c.group, c.better = a.Group, time.Time{}
	case QueueOn:
		c.live.Queue, c.gaveUp = true, false
	case QueueOff:
		c.live.Queue, c.gaveUp = false, !c.closed
	}
}

// Wake is when Next may have something to do without anything being seen before; zero: never.
func (c *Core) Wake(now time.Time) time.Time {
	var out time.Time
	at := func(t time.Time) {
		if t.After(now) && (out.IsZero() || t.Before(out)) {
			out = t
		}
	}
	at(c.retry)
	if !c.gone.IsZero() && c.live != nil && c.live.Queue {
		at(c.gone.Add(c.set.QueueFor))
	}
	if !c.better.IsZero() {
		at(c.better.Add(c.set.Failback))
	}
	for _, p := range c.paths {
		at(p.heldTill)
		if p.State == Refused {
			at(p.retry)
		}
	}
	return out
}

// State of a map, for people.
type State struct {
	WWN    string
	Name   string // of the map
	Device string // such as /dev/dm-0; "" if there is no map yet
	Size   uint64 // bytes
	Paths  []Path // by device number
	Active int    // group that I/O goes to, from 1; 0: none
	// NoPathSince is set while no path is up; I/O waits if Queueing, until QueueEnds.
	NoPathSince, QueueEnds time.Time
	Queueing               bool
	GaveUp                 bool   // the queue's time is over: I/O fails until a path is back
	Closed                 bool   // FailQueue was called: I/O fails until Open
	Error                  string // why the last change in the kernel failed
}

// State tells what Core knows.
func (c *Core) State() State {
	s := State{WWN: c.wwn, Active: c.group, NoPathSince: c.gone, GaveUp: c.gaveUp, Closed: c.closed, Error: c.err}
	for _, dev := range c.devs() {
		s.Paths = append(s.Paths, c.paths[dev].Path)
	}
	if c.live != nil {
		s.Size = c.live.Sectors * SectorSize
		if s.Queueing = !c.gone.IsZero() && c.live.Queue; s.Queueing {
			s.QueueEnds = c.gone.Add(c.set.QueueFor)
		}
	}
	return s
}

// unfailed is what a closed map still has to be told; "" if nothing.
func (c *Core) unfailed() string {
	if c.live == nil {
		return ""
	}
	if c.live.Queue {
		return "it still queues: " + c.err
	}
	for dev, on := range c.active {
		if on {
			return "path " + dev + " is still used: " + c.err
		}
	}
	return ""
}
