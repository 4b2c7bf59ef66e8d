package shares

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/shared"
)

// Config of a Node. All fields are compulsory.
type Config struct {
	Self   shared.Member
	Driver shared.Driver // not opened yet
	Root   string        // the folder that file systems are mounted below, by name: /shared
	Keep   string        // a folder that lasts as long as this run of the kernel and no longer, below /run
	// Device finds the device of a disk, by its WWN: the multipath map.
	Device func(ctx context.Context, wwn string) (string, error)
	// Commit writes a report to the ledger.
	Commit func(ctx context.Context, r cluster.SharedReport) error
	// Released is told of a disk whose file system the ledger does not have any more. It must not block.
	Released func(wwn string)
	// Broken is told once of a file system that this node cannot use before it has been reset. It must not block.
	Broken func(name, why string)
	Log    *slog.Logger
}

// retry is between two tries to mount, or to write a report.
const retry = time.Second

// Node uses shared file systems on one node.
type Node struct {
	c    Config
	wake chan struct{} // holds one wake-up

	mu    sync.Mutex
	state *cluster.State // newest
	used  map[string]*use

	open bool // the driver is; Run's own
}

// use is one file system on this node.
type use struct {
	ctl    *shared.Controller
	dir    string
	wwn    string
	busy   bool // a mount or an unmount is under way
	again  time.Time
	report *shared.Report // newest
	told   bool           // Broken was called
	cancel context.CancelFunc
}

// New makes a Node; Run runs it.
func New(c Config) *Node {
	return &Node{c: c, wake: make(chan struct{}, 1), used: map[string]*use{}}
}

// Ledger takes a newer copy of the ledger.
func (n *Node) Ledger(st *cluster.State) {
	n.mu.Lock()
	n.state = st
	n.mu.Unlock()
	n.poke()
}

func (n *Node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run follows the ledger until ctx ends. What is mounted stays so: a later agent of this boot goes on with it. Its
// locks wait meanwhile.
func (n *Node) Run(ctx context.Context) {
	var wg sync.WaitGroup
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for ctx.Err() == nil {
		n.follow(ctx, &wg)
		select {
		case <-ctx.Done():
		case <-n.wake:
		case <-tick.C:
		}
	}
	wg.Wait() // what is half done is done before the kernel stops the locks
	if n.open {
		if err := n.c.Driver.Close(); err != nil {
			n.c.Log.Warn("stop watching shared file systems", "err", err)
		}
	}
}

// follow does what the ledger asks for.
func (n *Node) follow(ctx context.Context, wg *sync.WaitGroup) {
	n.mu.Lock()
	st := n.state
	n.mu.Unlock()
	if st == nil {
		return
	}
	n.forget(st)
	if len(st.Shared) == 0 {
		return // no module is loaded on a cluster that has none
	}
	if !n.open {
		if err := n.c.Driver.Open(n.c.Self, n.event); err != nil {
			n.c.Log.Error("shared file systems cannot be used on this node", "err", err)
			return
		}
		n.open = true
	}
	me := st.Node(n.c.Self.Node)
	for i := range st.Shared {
		rec := &st.Shared[i]
		u, err := n.use(ctx, wg, rec.Name, rec.Disk)
		if err != nil {
			n.c.Log.Error("a shared file system cannot be used on this node", "name", rec.Name, "err", err)
			continue
		}
		var shown *shared.Report
		for j := range st.Reports {
			r := &st.Reports[j]
			switch {
			case r.FileSystem != rec.Name:
			case r.Node == n.c.Self.Node:
				shown = &r.Report
			default:
				u.ctl.Reported(r.Report)
			}
		}
		u.ctl.Committed(rec.Membership)
		n.say(ctx, rec.Name, u, shown)
		// Who is not a member of the cluster in this boot, or not ready, has nothing to do there.
		wanted := rec.Wanted() && me != nil && me.Epoch == n.c.Self.Incarnation && !me.Witness && me.State == cluster.NodeOnline
		n.mount(ctx, rec, u, wanted, rec.Ready && !rec.Wanted() || me != nil && me.State == cluster.NodeDrained)
	}
}

// forget ends what concerns file systems that the ledger does not have any more: one of the same name is another one.
func (n *Node) forget(st *cluster.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, u := range n.used {
		if st.SharedFS(name) != nil || u.busy {
			continue
		}
		u.cancel()
		delete(n.used, name)
		if err := os.Remove(n.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.c.Log.Warn("forget a shared file system", "name", name, "err", err)
		}
		n.c.Released(u.wwn)
	}
}

func (n *Node) file(name string) string { return filepath.Join(n.c.Keep, name+".json") }

// Mounted is nil if the file system is mounted on this node; else it says what is missing.
func (n *Node) Mounted(name string) error {
	n.mu.Lock()
	u := n.used[name]
	n.mu.Unlock()
	if u == nil {
		return fmt.Errorf("shared file system %s is not known on this node yet", name)
	}
	if s, err := n.c.Driver.Status(name); err == nil && s.Mounted && !s.Withdrawn {
		return nil
	}
	if w := u.ctl.Waiting(); w != "" {
		return fmt.Errorf("shared file system %s is not mounted on this node: %s", name, w)
	}
	return fmt.Errorf("shared file system %s is not mounted on this node yet", name)
}

// Use is where this node is with a file system.
type Use struct {
	State   shared.State  `json:"state"`
	Waiting string        `json:"waiting,omitempty"` // what for, in words
	Kernel  shared.Status `json:"kernel"`
}

// Uses tells where this node is with each file system.
func (n *Node) Uses() map[string]Use {
	n.mu.Lock()
	list := maps.Clone(n.used)
	n.mu.Unlock()
	out := map[string]Use{}
	for name, u := range list {
		x := Use{State: u.ctl.State(), Waiting: u.ctl.Waiting()}
		if s, err := n.c.Driver.Status(name); err == nil {
			x.Kernel = s
		}
		out[name] = x
	}
	return out
}

// use makes the controller of a file system, once; one that an earlier agent of this boot had goes on.
func (n *Node) use(ctx context.Context, wg *sync.WaitGroup, name, wwn string) (*use, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if u := n.used[name]; u != nil {
		return u, nil
	}
	if err := os.MkdirAll(n.c.Keep, 0o700); err != nil {
		return nil, err
	}
	file := n.file(name)
	var saved *shared.Saved
	data, err := os.ReadFile(file)
	switch {
	case err == nil:
		saved = &shared.Saved{}
		if err := json.Unmarshal(data, saved); err != nil {
			return nil, fmt.Errorf("%s, what an earlier agent left: %w", file, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	u := &use{dir: filepath.Join(n.c.Root, name), wwn: wwn, cancel: cancel}
	u.ctl = shared.NewController(shared.Config{
		Driver: n.c.Driver, Name: name, Self: n.c.Self, Saved: saved, Log: n.c.Log,
		Publish: func(r shared.Report) {
			n.mu.Lock()
			u.report = &r
			tell := r.Broken != "" && !u.told
			u.told = u.told || tell
			n.mu.Unlock()
			if tell {
				n.c.Broken(name, r.Broken)
			}
			n.poke()
		},
		Save: func(s shared.Saved) error { return keep(file, s) },
	})
	n.used[name] = u
	wg.Go(func() { u.ctl.Run(ctx) })
	return u, nil
}

// keep replaces a file in one step, so that an agent that ends in the middle leaves the old one or the new one.
func keep(file string, s shared.Saved) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// event passes on what the kernel says.
func (n *Node) event(e shared.Event) {
	n.mu.Lock()
	var to []*use
	for name, u := range n.used {
		if e.Name == name || e.Kind == shared.EventLost {
			to = append(to, u)
		}
	}
	n.mu.Unlock()
	for _, u := range to { // not locked: a controller may be at Publish
		u.ctl.Event(e)
	}
}

// say writes this node's report if the ledger shows another one.
func (n *Node) say(ctx context.Context, name string, u *use, shown *shared.Report) {
	n.mu.Lock()
	r := u.report
	n.mu.Unlock()
	if r == nil || shown != nil && *shown == *r {
		return
	}
	cctx, cancel := context.WithTimeout(ctx, retry)
	defer cancel()
	if err := n.c.Commit(cctx, cluster.SharedReport{FileSystem: name, Node: n.c.Self.Node, Report: *r}); err != nil && ctx.Err() == nil {
		n.c.Log.Warn("tell of a shared file system", "name", name, "err", err)
	}
}

// mount mounts the file system if it is wanted here and is not, and unmounts it if the node is to leave.
//
// Nobody waits for the end of that: it waits in the kernel for other nodes, and may do so for ever.
func (n *Node) mount(ctx context.Context, rec *cluster.SharedRecord, u *use, wanted, leave bool) {
	var do func() error
	switch state := u.ctl.State(); {
	case wanted && state == shared.Out:
		name, wwn := rec.Name, rec.Disk
		do = func() error {
			device, err := n.c.Device(ctx, wwn)
			if err != nil {
				return fmt.Errorf("shared file system %s: %w", name, err)
			}
			return u.ctl.Mount(ctx, device, u.dir)
		}
	case leave && state == shared.In:
		do = func() error { return u.ctl.Unmount(ctx, u.dir) }
	default:
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if u.busy || time.Now().Before(u.again) {
		return
	}
	u.busy = true
	go func() {
		err := do()
		n.mu.Lock()
		u.busy = false
		if err != nil {
			u.again = time.Now().Add(retry)
		}
		n.mu.Unlock()
		if err != nil {
			n.c.Log.Warn("shared file system", "err", err)
		}
		n.poke()
	}()
}
