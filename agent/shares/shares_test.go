package shares

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/shared"
)

// kernel is a node's: a mount waits for the start that lets it in, an unmount for the release.
type kernel struct {
	shared.Driver // what is not here is not to be called
	event         func(shared.Event)
	let, out      chan struct{}

	mu      sync.Mutex
	mounted string // the device
	failed  []string
	opened  int
	stopErr error
}

func (k *kernel) Open(_ shared.Member, event func(shared.Event)) error {
	k.event, k.let, k.out, k.opened = event, make(chan struct{}, 1), make(chan struct{}, 1), k.opened+1
	return nil
}
func (k *kernel) Close() error { return nil }
func (k *kernel) Stop(context.Context, string, shared.Action) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stopErr
}
func (k *kernel) Start(_ context.Context, _ string, a shared.Action) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range a.Failed {
		k.failed = append(k.failed, m.Node)
	}
	if a.Admit {
		k.let <- struct{}{}
	}
	return nil
}
func (k *kernel) Release(context.Context, string) error { k.out <- struct{}{}; return nil }
func (k *kernel) Status(string) (shared.Status, error)  { return shared.Status{}, nil }
func (k *kernel) Mount(_ context.Context, device, name, _ string) error {
	k.event(shared.Event{Name: name, Kind: shared.EventJoining})
	<-k.let
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mounted = device
	return nil
}
func (k *kernel) Unmount(context.Context, string) error {
	k.event(shared.Event{Name: "files", Kind: shared.EventLeaving})
	<-k.out
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mounted = ""
	return nil
}
func (k *kernel) has() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mounted
}

// bench is a ledger, whose coordinator plans at each change, and nodes.
type bench struct {
	t       *testing.T
	mu      sync.Mutex
	st      cluster.State
	off     []shared.Member
	refuse  int // so many commits fail
	nodes   map[string]*Node
	kernels map[string]*kernel
	ends    map[string]context.CancelFunc
	broken  []string
	// released are disks of file systems that were forgotten.
	released []string
	noDisk   bool
}

func newBench(t *testing.T, nodes int) *bench {
	b := &bench{t: t, nodes: map[string]*Node{}, kernels: map[string]*kernel{}, ends: map[string]context.CancelFunc{}}
	b.st.Shared = []cluster.SharedRecord{{Name: "files", Disk: "naa.1", Journals: nodes}}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		b.st.Nodes = append(b.st.Nodes, cluster.Node{Name: name, Number: uint8(i + 1), Epoch: uint64(10 + i), State: cluster.NodeOnline})
		b.kernels[name] = &kernel{}
		b.start(name, uint32(i+1), uint64(10+i))
	}
	return b
}

func (b *bench) start(name string, id uint32, epoch uint64) {
	ctx, cancel := context.WithCancel(b.t.Context())
	dir := b.t.TempDir()
	b.nodes[name] = New(Config{
		Self:   shared.Member{Node: name, ID: id, Incarnation: epoch, Address: netip.AddrFrom4([4]byte{10, 0, byte(id), 1})},
		Driver: b.kernels[name], Root: dir + "/shared", Keep: dir + "/keep", Log: slog.New(slog.DiscardHandler),
		Released: func(wwn string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.released = append(b.released, wwn)
		},
		Device: func(_ context.Context, wwn string) (string, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.noDisk {
				return "", errors.New("no path")
			}
			return "/dev/" + wwn, nil
		},
		Commit: func(_ context.Context, r cluster.SharedReport) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.refuse > 0 {
				b.refuse--
				return errors.New("no quorum")
			}
			b.st.Reports = append(slices.DeleteFunc(slices.Clone(b.st.Reports), func(o cluster.SharedReport) bool { return o.Node == r.Node }), r)
			b.tell()
			return nil
		},
		Broken: func(name, why string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.broken = append(b.broken, name+": "+why)
		},
	})
	b.ends[name] = cancel
	go b.nodes[name].Run(ctx)
}

// change changes the ledger.
func (b *bench) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.st.Nodes, b.st.Shared = slices.Clone(b.st.Nodes), slices.Clone(b.st.Shared)
	f()
	b.tell()
}

func (b *bench) tell() {
	st := b.st
	defer func() {
		for _, n := range b.nodes {
			n.Ledger(&st)
		}
	}()
	if len(b.st.Shared) == 0 {
		return
	}
	var reports []shared.Report
	for _, r := range b.st.Reports {
		reports = append(reports, r.Report)
	}
	m, _, ok := shared.Plan(b.st.Shared[0].Membership, reports, b.st.Shared[0].Journals, func(m shared.Member) bool { return slices.Contains(b.off, m) })
	if ok {
		b.st.Shared = slices.Clone(b.st.Shared)
		b.st.Shared[0].Membership = m
		st = b.st
	}
}

func (b *bench) settle() { time.Sleep(20 * retry); synctest.Wait() } // of the bubble's time

func (b *bench) want(name, device string) {
	b.t.Helper()
	if got := b.kernels[name].has(); got != device {
		b.t.Errorf("%s has %q mounted, want %q", name, got, device)
	}
}

// TestNodes: all mount what is made, through a ledger that refuses and a disk that comes late; one that is off is taken
// out by the others, one that is drained leaves, and one that cannot stop is told as broken.
func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3)
		b.refuse, b.noDisk = 4, true
		b.change(func() {})
		b.settle()
		b.want("n1", "") // it is not made yet
		b.change(func() { b.st.Shared[0].Ready = true })
		b.settle()
		b.want("n1", "") // no path
		b.change(func() { b.noDisk = false })
		b.settle()
		for _, n := range []string{"n1", "n2", "n3"} {
			b.want(n, "/dev/naa.1")
		}

		b.ends["n3"]()
		b.change(func() { b.off = append(b.off, b.nodes["n3"].c.Self) })
		b.settle()
		for _, n := range []string{"n1", "n2"} {
			if got := b.kernels[n].failed; !slices.Equal(got, []string{"n3"}) {
				t.Errorf("%s has a journal replayed of %v, want of n3, once", n, got)
			}
		}

		b.change(func() { b.st.Nodes[1].State = cluster.NodeDrained })
		b.settle()
		b.want("n2", "")
		b.want("n1", "/dev/naa.1")
		if got := b.kernels["n1"].failed; !slices.Equal(got, []string{"n3"}) {
			t.Errorf("n2 left in order: n1 has a journal replayed of %v", got)
		}

		b.kernels["n1"].mu.Lock()
		b.kernels["n1"].stopErr = errors.New("input/output error")
		b.kernels["n1"].mu.Unlock()
		b.change(func() { b.st.Nodes[1].State = cluster.NodeOnline })
		b.settle()
		if len(b.broken) != 1 {
			t.Errorf("got %q told as broken, want n1's file system, once", b.broken)
		}
		b.ends["n1"]()
		b.ends["n2"]()
		// n2's mount waits in the kernel for n1: it ends with the machine.
		b.kernels["n2"].let <- struct{}{}
		synctest.Wait()
	})
}

// TestNone: a cluster without shared file systems loads nothing.
func TestNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1)
		b.nodes["n1"].Ledger(&cluster.State{})
		b.settle()
		if b.kernels["n1"].opened != 0 {
			t.Error("the driver was opened")
		}
		b.ends["n1"]()
	})
}

// TestRemoved: one that is removed is unmounted everywhere; when the ledger has forgotten it, its disk is given back, and
// another of that name begins anew.
func TestRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2)
		b.change(func() { b.st.Shared[0].Ready = true })
		b.settle()
		if err := b.nodes["n1"].Mounted("other"); err == nil {
			t.Error("a file system that nobody knows counts as mounted")
		}
		b.change(func() { b.st.Shared[0].Removing = true })
		b.settle()
		b.want("n1", "")
		b.want("n2", "")
		if got := b.st.Shared[0].Membership.Members; len(got) != 0 {
			t.Errorf("members %v are left", got)
		}
		if len(b.released) != 0 {
			t.Errorf("disks %v were given back while the ledger has the file system", b.released)
		}
		b.change(func() { b.st.Shared, b.st.Reports = nil, nil })
		b.settle()
		if !slices.Equal(b.released, []string{"naa.1", "naa.1"}) {
			t.Errorf("got %v given back, want the disk by both nodes", b.released)
		}
		b.change(func() { b.st.Shared = []cluster.SharedRecord{{Name: "files", Disk: "naa.2", Journals: 2, Ready: true}} })
		b.settle()
		b.want("n1", "/dev/naa.2")
		b.want("n2", "/dev/naa.2")
		for _, end := range b.ends {
			end()
		}
	})
}
