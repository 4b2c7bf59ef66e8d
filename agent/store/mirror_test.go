package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// testDisk is a cluster disk in a file; every node opens it for itself.
type testDisk struct {
	t     *testing.T
	path  string
	token []byte
}

func newTestDisk(t *testing.T, meta cluster.Meta) *testDisk {
	t.Helper()
	d := &testDisk{t: t, path: filepath.Join(t.TempDir(), "disk"), token: []byte("the join token of the test's cluster")}
	if err := errors.Join(os.WriteFile(d.path, nil, 0o600), os.Truncate(d.path, clusterdisk.MinSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := clusterdisk.Format(d.device(), clusterdisk.Header{Cluster: meta.Name, ClusterID: meta.ID, Incarnation: meta.Incarnation}, d.token, time.Now()); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *testDisk) device() clusterdisk.Device {
	d.t.Helper()
	dev, c, err := clusterdisk.OpenDevice(d.path, "naa.test")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	return dev
}

func (d *testDisk) open() *clusterdisk.Disk {
	d.t.Helper()
	disk, err := clusterdisk.Open(d.device(), d.token)
	if err != nil {
		d.t.Fatal(err)
	}
	return disk
}

// claim is a slot for a boot of node n.
func (d *testDisk) claim(n, boot int) *clusterdisk.Slot {
	d.t.Helper()
	disk := d.open()
	gen, err := disk.NextGeneration()
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := disk.Claim(n-1, clusterdisk.Owner{Node: fmt.Sprintf("n%d", n), Number: uint8(n), BootID: bootID(n, boot), Generation: gen})
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// nobody is a disk at which nobody else is registered.
type nobody struct{ key takeover.Key }

func (r *nobody) Register(_ context.Context, k takeover.Key) (bool, error) {
	r.key = k
	return true, nil
}
func (r *nobody) Read(context.Context, takeover.Key) (bool, []takeover.Key, error) {
	return true, []takeover.Key{r.key}, nil
}
func (r *nobody) Preempt(context.Context, takeover.Key, takeover.Key) (bool, error) { return true, nil }

// seize is what the node does that restores; it returns where the copy ended.
func (d *testDisk) seize(ctx context.Context, n, boot int) (*clusterdisk.Slot, *clusterdisk.Ledger, int64) {
	d.t.Helper()
	from := int64(0)
	slot, l, err := clusterdisk.Seize(ctx, d.open(), &nobody{}, n-1, clusterdisk.Owner{Node: fmt.Sprintf("n%d", n), Number: uint8(n), BootID: bootID(n, boot)},
		func(c *clusterdisk.Contents) (*clusterdisk.Ledger, error) {
			if c.Newest() == nil || c.Old != nil {
				return nil, fmt.Errorf("no copy: %+v", c)
			}
			from = c.Newest().Ledger.Revision
			return Rise(c.Newest().Ledger, c.Header.Incarnation), nil
		})
	if err != nil {
		d.t.Fatal(err)
	}
	return slot, l, from
}

// Three voters write to their slots; clients commit all the time through all of them; all lose power in the same
// moment, and forget. One of them restores from the disk: all that was acknowledged is there, under a higher
// incarnation and with the revisions it had; the next revision is higher than any that anybody saw. Then the same again.
func TestTotalPowerLoss(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	tc.meta.Incarnation = 1
	var first cluster.Txn
	for i := 1; i <= 3; i++ {
		n := tc.node(i, 0, cluster.NodeOnline)
		n.Voter = true
		first.Puts = append(first.Puts, cluster.Put{Key: n.Key(), Value: n})
	}
	first.Puts = append(first.Puts, SecretPut("token", []byte("secret")))
	disk := newTestDisk(t, tc.meta)
	a := tc.closing(Bootstrap(ctx, tc.config(1, 0), tc.meta, first))
	stores := []*Store{a, tc.closing(JoinVoter(ctx, tc.config(2, 0), a.Endpoints())), tc.closing(JoinVoter(ctx, tc.config(3, 0), a.Endpoints()))}
	for i, s := range stores {
		if err := s.Attach(MirrorConfig{Slot: disk.claim(i+1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	acked := map[string]cluster.Image{} // by ref; Revision is that of the acknowledgement
	highest := int64(0)
	lives := 2
	if testing.Short() {
		lives = 1
	}
	for life := range lives {
		var mu sync.Mutex
		var wg sync.WaitGroup
		stop, off := context.WithCancel(ctx)
		enough := make(chan struct{}, 1000)
		for i, s := range stores {
			wg.Go(func() {
				for k := 0; stop.Err() == nil; k++ {
					img := cluster.Image{Ref: fmt.Sprintf("demo/%d-%d:%d", life, i, k), Size: int64(k)}
					rev, ok, err := s.Commit(stop, cluster.Txn{Puts: []cluster.Put{{Key: img.Key(), Value: img}}})
					if err != nil || !ok {
						continue // not acknowledged
					}
					img.Revision = rev
					mu.Lock()
					acked[img.Ref] = img
					highest = max(highest, rev)
					mu.Unlock()
					enough <- struct{}{}
				}
			})
		}
		for range 60 {
			select {
			case <-enough:
			case <-ctx.Done():
				t.Fatal("nothing is committed: ", stores[0].Mirror(), stores[1].Mirror(), stores[2].Mirror())
			}
		}
		var dying sync.WaitGroup
		for _, s := range stores {
			dying.Go(s.crash)
		}
		dying.Wait()
		off()
		wg.Wait()
		if err := os.RemoveAll(filepath.Join(tc.dir, fmt.Sprintf("n1.%d", life))); err != nil { // memory
			t.Fatal(err)
		}

		boot := life + 1
		restorer := 1 + life%3 // not always the same
		slot, l, from := disk.seize(ctx, restorer, boot)
		if from < highest {
			t.Errorf("life %d: the disk ends at revision %d, and %d was acknowledged", life, from, highest)
		}
		boots := map[string]string{}
		absent := 1 + (restorer+life)%3 // comes later
		for i := 1; i <= 3; i++ {
			if i == absent {
				continue
			}
			boots[fmt.Sprintf("n%d", i)] = bootID(i, boot)
		}
		s, err := RestoreCopy(ctx, tc.config(restorer, boot), l, Restoration{From: from, Boots: boots, Why: "all voters lost power", Mirror: MirrorConfig{Slot: slot}})
		tc.closing(s, err)
		st, err := s.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if st.Meta.Incarnation != uint64(life)+2 || st.Meta.RestoredFrom != from {
			t.Errorf("life %d: incarnation %d from %d, want %d from %d", life, st.Meta.Incarnation, st.Meta.RestoredFrom, life+2, from)
		}
		if st.Revision < highest+revisionBump {
			t.Errorf("life %d: revision %d, want more than %d: a later epoch could be one that was given out", life, st.Revision, highest+revisionBump)
		}
		for _, n := range st.Nodes {
			if lost := n.State == cluster.NodeLost; lost != (n.Name == fmt.Sprintf("n%d", absent)) || !lost && n.BootID != boots[n.Name] {
				t.Errorf("life %d: %s is %s in boot %s", life, n.Name, n.State, n.BootID)
			}
		}
		got := map[string]cluster.Image{}
		for _, img := range st.Images {
			got[img.Ref] = img
		}
		for ref, img := range acked {
			if got[ref].Revision != img.Revision || got[ref].Size != img.Size {
				t.Errorf("life %d: %s was acknowledged at revision %d: got %+v", life, ref, img.Revision, got[ref])
			}
		}
		if secret, err := s.Secret(ctx, "token"); err != nil || string(secret) != "secret" {
			t.Errorf("life %d: the secret is %q, %v", life, secret, err)
		}
		var events []string
		if err := s.Events(ctx, 0, false, func(e cluster.Event) error { events = append(events, e.Text); return nil }); err != nil ||
			!slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, "from the cluster disk") }) {
			t.Errorf("life %d: events %q, %v", life, events, err)
		}
		t.Logf("life %d: %d acknowledged, the last at revision %d; the disk ended at %d", life, len(acked), highest, from)

		stores = []*Store{s}
		for i := 1; i <= 3; i++ {
			if i == restorer {
				continue
			}
			n := tc.node(i, boot, cluster.NodeOnline) // admitted
			mustCommit(t, ctx, s, cluster.Txn{Puts: []cluster.Put{{Key: n.Key(), Value: n}}})
			o := tc.closing(JoinVoter(ctx, tc.config(i, boot), s.Endpoints()))
			if err := o.Attach(MirrorConfig{Slot: disk.claim(i, boot)}); err != nil {
				t.Fatal(err)
			}
			stores = append(stores, o)
		}
	}
}

// slowSlot takes writes when it is told to.
type slowSlot struct {
	mu      sync.Mutex
	err     error
	held    chan struct{} // nil: open
	rebases int
	last    int64
}

func (s *slowSlot) wait() error {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *slowSlot) Rebase(l *clusterdisk.Ledger) error {
	if err := s.wait(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rebases++
	s.last = l.Revision
	return nil
}

func (s *slowSlot) Append(list []clusterdisk.Change) error {
	if err := s.wait(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range list {
		if c.Revision != s.last+1 {
			return fmt.Errorf("revision %d after %d", c.Revision, s.last)
		}
		s.last = c.Revision
	}
	return nil
}

func (s *slowSlot) Confirm(bool) error { return nil }
func (s *slowSlot) Sign() error        { return nil }

func (s *slowSlot) set(hold bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		close(s.held)
		s.held = nil
	}
	if s.err = err; hold {
		s.held = make(chan struct{})
	}
}

// A commit is not acknowledged before it is on the disk: at the voter itself and at a client of it; a read is.
func TestCommitWaitsForTheDisk(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	client := tc.closing(OpenClient(ctx, tc.config(2, 0), s.Endpoints()))
	slot := &slowSlot{}
	s.Expect(0)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	n := tc.node(7, 0, cluster.NodeOnline)
	if _, _, err := s.Commit(short, put(n, 0)); err == nil || s.Mirror().Attached {
		t.Errorf("acknowledged (%v) by a voter that has no slot yet", err)
	}
	if err := s.Attach(MirrorConfig{Slot: slot}); err != nil {
		t.Fatal(err)
	}
	if err := s.Attach(MirrorConfig{Slot: slot}); err == nil {
		t.Error("two cluster disks")
	}
	for i, from := range []*Store{s, client} {
		img := cluster.Image{Ref: fmt.Sprintf("demo/%d:1", i)}
		for s.Mirror().Revision == 0 { // the first copy
			if !pause(ctx, time.Millisecond) {
				t.Fatal("no copy")
			}
		}
		slot.set(true, nil)
		done := make(chan error, 1)
		go func() {
			_, _, err := from.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: img.Key(), Value: img}}})
			done <- err
		}()
		for s.Mirror().Behind == 0 { // it is committed, and waits
			select {
			case err := <-done:
				t.Fatalf("acknowledged (%v) while the disk had not written it", err)
			default:
			}
			if !pause(ctx, time.Millisecond) {
				t.Fatal("nobody waits for the disk")
			}
		}
		if st, err := from.Read(ctx); err != nil || len(st.Images) != i+1 {
			t.Errorf("read while the disk stands still: %+v, %v", st, err)
		}
		select {
		case err := <-done:
			t.Fatalf("acknowledged (%v) while the disk had not written it", err)
		default:
		}
		slot.set(false, nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Mirror(); got.Revision == 0 || got.Detached || got.Err != nil {
		t.Errorf("mirror: %+v", got)
	}
}

// A disk that fails is not waited for longer than was said; then voters stay who they are; and when it is
// back, everything is copied anew and commits wait again.
func TestDiskGone(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	slot := &slowSlot{}
	if err := s.Attach(MirrorConfig{Slot: slot, DetachAfter: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	n := tc.node(1, 0, cluster.NodeOnline)
	rev := mustCommit(t, ctx, s, put(n, 0))
	slot.set(false, errors.New("input/output error"))
	n.Memory++
	rev = mustCommit(t, ctx, s, put(n, rev))
	if st := s.Mirror(); !st.Detached || st.Err == nil || st.Revision >= rev {
		t.Errorf("mirror of a disk that is gone: %+v", st)
	}
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := JoinVoter(short, tc.config(2, 0), s.Endpoints()); err == nil {
		t.Error("a voter was added while the disk was gone")
	}
	if members, err := s.Members(ctx); err != nil || len(members) != 1 {
		t.Errorf("members %v, %v", members, err)
	}
	slot.set(false, nil)
	for st := s.Mirror(); st.Detached || st.Revision < rev; st = s.Mirror() {
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatalf("the disk is back, and the mirror is %+v", st)
		}
	}
	if slot.rebases < 2 {
		t.Errorf("%d copies, want another one after the failure", slot.rebases)
	}
	tc.closing(JoinVoter(ctx, tc.config(2, 0), s.Endpoints()))
}

// Who is shut off acknowledges nothing any more, however long it waits, and is told once.
func TestFencedFromTheDisk(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	s := tc.bootstrap(ctx)
	client := tc.closing(OpenClient(ctx, tc.config(2, 0), s.Endpoints()))
	slot := &slowSlot{}
	told := make(chan error, 10)
	if err := s.Attach(MirrorConfig{Slot: slot, DetachAfter: time.Millisecond, Fenced: func(err error) { told <- err }}); err != nil {
		t.Fatal(err)
	}
	n := tc.node(1, 0, cluster.NodeOnline)
	rev := mustCommit(t, ctx, s, put(n, 0))
	slot.set(false, fmt.Errorf("write: %w", clusterdisk.ErrFenced))
	// Something that the mirror has to write, and nobody waits for.
	if _, err := s.voter().client.Put(ctx, "/other", "x"); err != nil {
		t.Fatal(err)
	}
	if err := <-told; !errors.Is(err, clusterdisk.ErrFenced) {
		t.Errorf("told of %v", err)
	}
	for _, from := range []*Store{s, client} {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		if _, ok, err := from.Commit(short, put(n, rev)); err == nil {
			t.Errorf("acknowledged (%v) by a node that is shut off", ok)
		}
		cancel()
	}
	if st := s.Mirror(); !st.Fenced || st.Detached {
		t.Errorf("mirror %+v", st)
	}
	if len(told) > 0 {
		t.Error("told twice")
	}
}

// What a copy says that cannot be is refused before anything of it becomes a ledger.
func TestRestoreRefusesNonsense(t *testing.T) {
	tc := newTestCluster(t)
	ctx := tc.ctx()
	meta := clusterdisk.Entry{Key: []byte(cluster.KeyMeta), Value: []byte(`{"name":"test","id":"0123","incarnation":1}`), Created: 2, Changed: 2, Times: 1}
	for name, l := range map[string]*clusterdisk.Ledger{
		"no meta":      {Incarnation: 2, Revision: 9},
		"from later":   {Incarnation: 2, Revision: 9, Entries: []clusterdisk.Entry{meta, {Key: []byte("/x"), Created: 3, Changed: 10, Times: 1}}},
		"no revision":  {Incarnation: 2, Revision: 9, Entries: []clusterdisk.Entry{meta, {Key: []byte("/x")}}},
		"did not rise": {Incarnation: 2, Revision: 2, Entries: []clusterdisk.Entry{meta}},
		"broken node":  {Incarnation: 2, Revision: 9, Entries: []clusterdisk.Entry{meta, {Key: []byte(cluster.KeyNodes + "n1"), Value: []byte("{"), Created: 3, Changed: 3, Times: 1}}},
	} {
		if s, err := RestoreCopy(ctx, tc.config(1, 1), l, Restoration{Mirror: MirrorConfig{Slot: &slowSlot{}}}); err == nil {
			s.Close()
			t.Errorf("%s: restored", name)
		}
	}
}

// BenchmarkCommit is a commit of a voter alone, with its log in memory and with a slot in a file.
func BenchmarkCommit(b *testing.B) {
	for _, on := range []string{"memory", "file"} {
		b.Run(on, func(b *testing.B) {
			tc := newTestCluster(b)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			tc.meta.Incarnation = 1
			s := tc.closing(Bootstrap(ctx, tc.config(1, 0), tc.meta, cluster.Txn{}))
			if on == "file" {
				path := filepath.Join(b.TempDir(), "disk")
				if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, clusterdisk.MinSize)); err != nil {
					b.Fatal(err)
				}
				dev, c, err := clusterdisk.OpenDevice(path, "naa.test")
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				d, err := clusterdisk.Format(dev, clusterdisk.Header{ClusterID: "0123", Incarnation: 1}, []byte("a token of some length"), time.Now())
				if err != nil {
					b.Fatal(err)
				}
				slot, err := d.Claim(0, clusterdisk.Owner{Node: "n1", Generation: 1})
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Attach(MirrorConfig{Slot: slot}); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				img := cluster.Image{Ref: "demo/web:1"}
				if _, _, err := s.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: img.Key(), Value: img}}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
