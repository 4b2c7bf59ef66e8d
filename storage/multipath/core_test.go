package multipath

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const testWWN = "naa.6001405"

var start = time.Unix(1_000_000, 0)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

func good(dev string, when time.Time) Probe {
	return Probe{Dev: dev, Begun: when, Identity: Identity{Names: []string{testWWN}}, Access: NoALUA, Size: 1 << 20}
}

// fakeKernel plays the executor: it does each action and keeps what the kernel would have.
type fakeKernel struct {
	t      interface{ Fatalf(string, ...any) }
	core   *Core
	table  *Table
	active map[string]bool
	log    []string
	admit  func(dev string) error
}

func newFake(t interface{ Fatalf(string, ...any) }, s Settings, devs ...string) *fakeKernel {
	k := &fakeKernel{t: t, core: NewCore(testWWN, s, start, nil, Status{}), active: map[string]bool{}, admit: func(string) error { return nil }}
	k.core.Want(start, devs)
	return k
}

// settle does all that is due.
func (k *fakeKernel) settle(now time.Time) {
	for range 1000 {
		a, ok := k.core.Next(now)
		if !ok {
			return
		}
		k.log = append(k.log, a.String())
		var err error
		if a.Kind == Admit {
			err = k.admit(a.Dev)
		} else {
			k.apply(a)
		}
		k.core.Done(now, a, err)
	}
	k.t.Fatalf("it does not come to an end: %v", k.log[len(k.log)-10:])
}

func (k *fakeKernel) apply(a Action) {
	switch a.Kind {
	case Load:
		t := a.Table
		k.table, k.active = &t, map[string]bool{}
		for _, g := range t.Groups {
			for _, d := range g.Paths {
				k.active[d] = true
			}
		}
	case FailPath:
		k.active[a.Dev] = false
	case Reinstate:
		k.active[a.Dev] = true
	case QueueOn:
		k.table.Queue = true
	case QueueOff:
		k.table.Queue = false
	}
}

func (k *fakeKernel) status(group int) Status {
	var s Status
	for i, g := range k.table.Groups {
		gs := GroupStatus{Active: i+1 == group}
		for _, d := range g.Paths {
			gs.Paths = append(gs.Paths, PathStatus{Dev: d, Active: k.active[d]})
		}
		s.Groups = append(s.Groups, gs)
	}
	return s
}

func (k *fakeKernel) took() string {
	out := strings.Join(k.log, "; ")
	k.log = nil
	return out
}

func TestCoreLife(t *testing.T) {
	k := newFake(t, Settings{}, "8:0", "8:16")
	step := func(now float64, what func(time.Time), want string) {
		t.Helper()
		if what != nil {
			what(at(now))
		}
		k.settle(at(now))
		if got := k.took(); got != want {
			t.Errorf("at %v s: got %q, want %q", now, got, want)
		}
	}
	probe := func(r func(now time.Time) Probe) func(time.Time) {
		return func(now time.Time) { k.core.Probed(now, r(now)) }
	}
	ok := func(dev string) func(time.Time) { return probe(func(now time.Time) Probe { return good(dev, now) }) }
	const two = "service-time 0 2 1 8:0 1 8:16 1"
	step(0, nil, "")
	step(1, ok("8:0"), "admit 8:0; load 2048 sectors: 1 queue_if_no_path 0 1 1 service-time 0 1 1 8:0 1")
	step(2, ok("8:16"), "admit 8:16; load 2048 sectors: 1 queue_if_no_path 0 1 1 "+two)
	step(3, ok("8:16"), "")
	// The kernel fails one. It comes back by a message, after an admission, and had been up too briefly: it is held.
	step(10, func(now time.Time) { k.active["8:0"] = false; k.core.Seen(now, k.status(1)) }, "")
	step(11, ok("8:0"), "")
	if s := k.core.State().Paths[0]; s.State != Held || s.Failures != 1 {
		t.Errorf("got %+v, want held", s)
	}
	step(12, nil, "admit 8:0; reinstate path 8:0")
	// A check that began before the link went down says nothing.
	step(100, func(now time.Time) { k.core.LinkDown(now, "8:0", "wire A is down") }, "fail path 8:0")
	step(100.5, func(now time.Time) { k.core.Probed(now, good("8:0", at(99.9))) }, "")
	step(101, ok("8:0"), "admit 8:0; reinstate path 8:0")
	// Another disk under the same name.
	step(200, probe(func(now time.Time) Probe {
		r := good("8:0", now)
		r.Identity.Names = []string{"naa.other"}
		return r
	}), "fail path 8:0; load 2048 sectors: 1 queue_if_no_path 0 1 1 service-time 0 1 1 8:16 1")
	if s := k.core.State().Paths[0]; s.State != Unfit || !strings.Contains(s.Because, "naa.other") {
		t.Errorf("got %+v, want unfit, and why", s)
	}
	step(300, ok("8:0"), "admit 8:0; load 2048 sectors: 1 queue_if_no_path 0 1 1 "+two)
	// An admission that is refused is asked again later.
	k.admit = func(string) error { return errors.New("key taken") }
	step(400, func(now time.Time) { k.core.LinkDown(now, "8:0", "x") }, "fail path 8:0")
	step(401, ok("8:0"), "admit 8:0")
	if s := k.core.State().Paths[0]; s.State != Refused || s.Because != "key taken" {
		t.Errorf("got %+v, want refused, and why", s)
	}
	step(402, ok("8:0"), "")
	if got, want := k.core.Wake(at(402)), at(403); !got.Equal(want) {
		t.Errorf("wake: got %v, want %v", got, want)
	}
	k.admit = func(string) error { return nil }
	step(403, nil, "admit 8:0; reinstate path 8:0")
	// Grown: only when all paths show it.
	bigger := func(dev string) func(time.Time) {
		return probe(func(now time.Time) Probe { r := good(dev, now); r.Size = 2 << 20; return r })
	}
	step(500, bigger("8:0"), "")
	step(501, bigger("8:16"), "load 4096 sectors: 1 queue_if_no_path 0 1 1 "+two)
	step(502, ok("8:16"), "fail path 8:16; load 4096 sectors: 1 queue_if_no_path 0 1 1 service-time 0 1 1 8:0 1") // shrunk
	// The last path goes; the queue ends, and comes back with a path.
	step(600, probe(func(now time.Time) Probe { return Probe{Dev: "8:0", Begun: now, Err: errors.New("dead")} }), "fail path 8:0")
	if s := k.core.State(); !s.Queueing || !s.QueueEnds.Equal(at(660)) || !k.core.Wake(at(600)).Equal(at(660)) {
		t.Errorf("got %+v", s)
	}
	step(659, nil, "")
	step(660, nil, "fail I/O")
	if s := k.core.State(); s.Queueing || !s.GaveUp {
		t.Errorf("got %+v, want given up", s)
	}
	step(700, bigger("8:0"), "admit 8:0; reinstate path 8:0; queue")
	// Not wanted any more.
	step(800, func(now time.Time) { k.core.Want(now, nil) }, "fail path 8:0; load 4096 sectors: 1 queue_if_no_path 0 0 0")
}

func TestCoreALUA(t *testing.T) {
	k := newFake(t, Settings{}, "8:0", "8:16")
	see := func(now float64, dev string, a Access) {
		r := good(dev, at(now))
		r.Access = a
		k.core.Probed(at(now), r)
	}
	see(1, "8:0", NonOptimized)
	see(1, "8:16", Optimized)
	k.settle(at(1))
	want := "admit 8:0; admit 8:16; load 2048 sectors: 1 queue_if_no_path 0 2 1 service-time 0 1 1 8:16 1 service-time 0 1 1 8:0 1"
	if got := k.took(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// I/O is in the worse group though the better one works: back after a while.
	k.core.Seen(at(2), k.status(2))
	k.settle(at(2))
	k.settle(at(6.9))
	if got := k.took(); got != "" {
		t.Errorf("too early: %q", got)
	}
	k.settle(at(7))
	if got, want := k.took(), "switch group 1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	see(8, "8:16", Transitioning)
	k.settle(at(8))
	if got := k.took(); got != "" {
		t.Errorf("while the target changes: got %q", got)
	}
	see(9, "8:16", Standby)
	k.settle(at(9))
	if got, want := k.took(), "fail path 8:16"; got != want {
		t.Errorf("standby: got %q, want %q", got, want)
	}
}

func TestCoreAdopt(t *testing.T) {
	live := Table{Sectors: 2048, Queue: true, Groups: []Group{{[]string{"8:0", "8:16"}}}}
	status := Status{Groups: []GroupStatus{{Active: true, Paths: []PathStatus{{"8:0", true, 0}, {"8:16", false, 2}}}}}
	k := &fakeKernel{t: t, core: NewCore(testWWN, Settings{}, start, &live, status), table: &live, active: map[string]bool{"8:0": true},
		admit: func(string) error { return nil }}
	k.core.Want(start, []string{"8:0", "8:16"})
	k.settle(start)
	if got := k.took(); got != "" {
		t.Errorf("adopted: got %q, want nothing to do", got)
	}
	k.core.Probed(at(1), good("8:16", at(1)))
	k.settle(at(1))
	if got, want := k.took(), "admit 8:16; reinstate path 8:16"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// A closed one stays closed.
	closed := NewCore(testWWN, Settings{}, start, &Table{Sectors: 2048}, Status{})
	closed.Want(start, []string{"8:0"})
	closed.Probed(at(1), good("8:0", at(1)))
	if a, ok := closed.Next(at(2)); ok || !closed.State().Closed {
		t.Errorf("closed: got %v, %+v", a, closed.State())
	}
}

// TestCoreLateAdmission: what a hook says of a path that failed meanwhile, or of a map that was closed, counts no more.
func TestCoreLateAdmission(t *testing.T) {
	for name, meanwhile := range map[string]func(*Core){
		"failed": func(c *Core) { c.LinkDown(at(2), "8:0", "x") },
		"closed": func(c *Core) { c.Close(at(2)) },
	} {
		c := NewCore(testWWN, Settings{}, start, nil, Status{})
		c.Want(start, []string{"8:0"})
		c.Probed(at(1), good("8:0", at(1)))
		a, ok := c.Next(at(1))
		if !ok || a.Kind != Admit {
			t.Fatalf("got %v", a)
		}
		meanwhile(c)
		c.Probed(at(3), good("8:0", at(3)))
		if b, ok := c.Next(at(3)); ok {
			t.Errorf("%s: while the hook runs: got %v", name, b)
		}
		c.Done(at(4), a, nil)
		b, ok := c.Next(at(4))
		if name == "failed" && (!ok || b.Kind != Admit) || name == "closed" && ok {
			t.Errorf("%s: got %v, %v", name, b, ok)
		}
	}
}

// TestCoreNever: whatever is seen in whatever order, no path is used that was not checked and admitted since it
// last failed; a closed map takes no path; waiting ends in time; and when all is well again, all is used.
func TestCoreNever(t *testing.T) {
	devs := []string{"8:0", "8:16", "8:32"}
	rapid.Check(t, func(t *rapid.T) {
		set := Settings{}.withDefaults()
		k := newFake(t, Settings{}, devs...)
		now := start
		admitted, broken := map[string]bool{}, map[string]bool{}
		gone := start
		type running struct{ a Action }
		var hooks []running
		closed := false
		settle := func() {
			for n := 0; ; n++ {
				if n > 100 {
					t.Fatalf("it does not come to an end: %v", k.log[len(k.log)-10:])
				}
				a, ok := k.core.Next(now)
				if !ok {
					break
				}
				k.log = append(k.log, a.String())
				if closed && a.Kind != QueueOff && a.Kind != FailPath {
					t.Fatalf("closed: %v", a)
				}
				if a.Kind == Admit {
					if slices.ContainsFunc(hooks, func(r running) bool { return r.a.Dev == a.Dev }) {
						t.Fatalf("the hook twice at once for %s", a.Dev)
					}
					admitted[a.Dev] = false
					hooks = append(hooks, running{a})
					continue
				}
				if a.Kind == Reinstate && !admitted[a.Dev] {
					t.Fatalf("%v, which was not admitted since it failed", a)
				}
				if a.Kind == Load {
					for _, g := range a.Table.Groups {
						for _, d := range g.Paths {
							if !admitted[d] {
								t.Fatalf("%v: %s was not admitted since it failed", a, d)
							}
						}
					}
				}
				var err error
				if rapid.IntRange(0, 9).Draw(t, "fails") == 0 {
					err = errors.New("the kernel refuses")
				} else {
					k.apply(a)
				}
				k.core.Done(now, a, err)
			}
			up := countUp(k.core.State())
			if up > 0 {
				gone = time.Time{}
			} else if gone.IsZero() {
				gone = now
			}
			s := k.core.State()
			if s.Queueing && s.Error == "" && now.Sub(s.NoPathSince) >= set.QueueFor {
				t.Fatalf("it still waits after %v", now.Sub(s.NoPathSince))
			}
			if s.Queueing && !s.NoPathSince.Equal(gone) {
				t.Fatalf("no path since: got %v, want %v", s.NoPathSince, gone)
			}
		}
		lose := func(dev string) { admitted[dev] = false }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 40_000).Draw(t, "ms")) * time.Millisecond)
			dev := rapid.SampledFrom(devs).Draw(t, "path")
			switch rapid.SampledFrom([]string{"good", "good", "good", "bad", "other", "link", "kernel", "hook", "hook", "hook", "close", "open", "small", "wait"}).Draw(t, "what") {
			case "good":
				k.core.Probed(now, good(dev, now))
				broken[dev] = false
			case "bad":
				lose(dev)
				k.core.Probed(now, Probe{Dev: dev, Begun: now, Err: errors.New("dead")})
			case "other":
				lose(dev)
				r := good(dev, now)
				r.Identity.Names = []string{"naa.other"}
				k.core.Probed(now, r)
			case "link":
				lose(dev)
				k.core.LinkDown(now, dev, "down")
			case "small":
				if k.table != nil {
					lose(dev)
				}
				r := good(dev, now)
				r.Size = SectorSize
				if k.table == nil { // then it is the disk's size
					r.Size = 1 << 20
				}
				k.core.Probed(now, r)
			case "kernel":
				if k.table != nil && k.active[dev] {
					k.active[dev] = false
					lose(dev)
					k.core.Seen(now, k.status(1))
				}
			case "hook":
				if len(hooks) > 0 {
					i := rapid.IntRange(0, len(hooks)-1).Draw(t, "which")
					h := hooks[i]
					hooks = slices.Delete(hooks, i, i+1)
					var err error
					if rapid.Bool().Draw(t, "refused") {
						err = errors.New("no")
					}
					was := k.core.paths[h.a.Dev].State == Admitting
					k.core.Done(now, h.a, err)
					if was && err == nil {
						admitted[h.a.Dev] = true
					}
				}
			case "close":
				if k.table != nil && !closed {
					for _, d := range devs {
						lose(d)
					}
					k.core.Close(now)
					closed = true
				}
			case "open":
				if closed && k.core.unfailed() == "" {
					k.table, k.active = &Table{Sectors: k.table.Sectors}, map[string]bool{}
					k.core.Drained(k.table.Sectors)
					k.core.Open(now)
					closed = false
					gone = now
				}
			}
			settle()
			for d, on := range k.active {
				if on && closed && k.core.State().Error == "" {
					t.Fatalf("closed, and %s is used", d)
				}
			}
		}
		// All is well again.
		k.admit = func(string) error { return nil }
		if closed {
			k.core.Close(now)
			for range 20 {
				now = now.Add(set.Again)
				settle()
			}
			k.table, k.active = &Table{Sectors: k.table.Sectors}, map[string]bool{}
			k.core.Drained(k.table.Sectors)
			k.core.Open(now)
			closed = false
		}
		for range 60 {
			now = now.Add(5 * time.Second)
			for _, h := range hooks {
				was := k.core.paths[h.a.Dev].State == Admitting
				k.core.Done(now, h.a, nil)
				admitted[h.a.Dev] = was
			}
			hooks = nil
			for _, d := range devs {
				k.core.Probed(now, good(d, now))
			}
			settle()
		}
		if s := k.core.State(); countUp(s) != len(devs) || s.Queueing || k.table == nil || !k.table.Queue || len(k.active) != len(devs) {
			t.Fatalf("all is well: got %s; %v", fmt.Sprintf("%+v", s), k.table)
		}
	})
}
