package kept

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// world is a ledger, a disk by blocks, and nodes that write when it pleases them: what a boot has begun it may still
// write as long as that boot lasts, however often others have thought it dead.
type world struct {
	st       cluster.State
	disk     map[int64]string // block -> digest that was last written there
	underWay []write
	boots    int
}

type write struct {
	by cluster.BootOf
	k  cluster.KeptBlob
}

func newWorld(nodes int) *world {
	w := &world{disk: map[int64]string{}}
	w.st.LedgerDisk = &cluster.ClusterDisk{WWN: "naa.1", Revision: 1}
	w.st.Revision = 1
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		w.st.Nodes = append(w.st.Nodes, cluster.Node{Name: name, BootID: "0", MemberID: uint64(i + 1), State: cluster.NodeOnline})
		w.st.LedgerDisk.Slots = append(w.st.LedgerDisk.Slots, name)
	}
	return w
}

// commit is the ledger: conditions, then records with the next revision.
func (w *world) commit(t cluster.Txn) bool {
	revision := func(key string) int64 {
		if key == cluster.KeyDisk {
			return w.st.LedgerDisk.Revision
		}
		for i := range w.st.Kept {
			if w.st.Kept[i].Key() == key {
				return w.st.Kept[i].Revision
			}
		}
		return 0
	}
	for _, c := range t.Conditions {
		if revision(c.Key) != c.Revision {
			return false
		}
	}
	w.st.Revision++
	w.st.Kept = slices.Clone(w.st.Kept)
	for _, p := range t.Puts {
		switch v := p.Value.(type) {
		case cluster.ClusterDisk:
			v.Revision = w.st.Revision
			w.st.LedgerDisk = &v
		case cluster.KeptBlob:
			v.Revision = w.st.Revision
			w.st.Kept = slices.DeleteFunc(w.st.Kept, func(k cluster.KeptBlob) bool { return k.Digest == v.Digest })
			w.st.Kept = append(w.st.Kept, v)
		}
	}
	for _, key := range t.Deletes {
		w.st.Kept = slices.DeleteFunc(w.st.Kept, func(k cluster.KeptBlob) bool { return k.Key() == key })
	}
	return true
}

func (w *world) land(i int) {
	x := w.underWay[i]
	for off := x.k.Off; off < x.k.Off+x.k.Room; off += clusterdisk.Block {
		w.disk[off] = x.k.Digest
	}
}

// check is what the package promises, at the disk.
func (w *world) check() error {
	for i, k := range w.st.Kept {
		for j, o := range w.st.Kept {
			if i != j && k.Off < o.Off+o.Room && o.Off < k.Off+k.Room {
				return fmt.Errorf("%s and %s have room in common", k.Digest, o.Digest)
			}
		}
		for off := k.Off; k.Whole && off < k.Off+k.Room; off += clusterdisk.Block {
			if w.disk[off] != k.Digest {
				return fmt.Errorf("%s is whole in the ledger, and on the disk is %q at %d", k.Digest, w.disk[off], off)
			}
		}
	}
	return nil
}

// play makes a random history; careless frees room without looking who may still write there.
func play(t *rapid.T, careless bool) error {
	w := newWorld(3)
	room := clusterdisk.Extent{Off: 8 * clusterdisk.Block, Size: 12 * clusterdisk.Block}
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		n := &w.st.Nodes[rapid.IntRange(0, 2).Draw(t, "node")]
		boot := cluster.BootOf{Node: n.Name, BootID: n.BootID}
		writing := slices.ContainsFunc(w.underWay, func(x write) bool { return x.by == boot })
		switch rapid.IntRange(0, 5).Draw(t, "what") {
		case 0: // an image is loaded, or another under its name
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
			d := fmt.Sprintf("%s%d", name, rapid.IntRange(1, 3).Draw(t, "version"))
			im := cluster.Image{Ref: name, Digest: d, Blobs: []string{d, "base"}}
			w.st.Images = slices.DeleteFunc(slices.Clone(w.st.Images), func(i cluster.Image) bool { return i.Ref == name })
			w.st.Images = append(w.st.Images, im)
		case 1: // a node writes what is missing, and goes on when it likes: it may have been taken for dead
			missing := Missing(&w.st)
			if writing || len(missing) == 0 {
				continue
			}
			d := missing[rapid.IntRange(0, len(missing)-1).Draw(t, "blob")]
			txn, k, err := Begin(&w.st, boot, room, d, int64(1+len(d)%3*clusterdisk.Block))
			if errors.Is(err, clusterdisk.ErrNoRoom) {
				continue
			}
			if err != nil {
				return err
			}
			if !w.commit(txn) {
				return errors.New("a transaction on the state as it is was refused")
			}
			w.underWay = append(w.underWay, write{boot, *k})
		case 2: // a part of what is under way lands; the writer does not know yet
			if len(w.underWay) > 0 {
				w.land(rapid.IntRange(0, len(w.underWay)-1).Draw(t, "landing"))
			}
		case 3: // a writer is through
			for i, x := range w.underWay {
				if x.by != boot {
					continue
				}
				w.land(i)
				w.underWay = slices.Delete(slices.Clone(w.underWay), i, i+1)
				if txn, err := Done(&w.st, boot, x.k.Digest); err == nil {
					w.commit(txn)
				}
				break
			}
		case 4: // a node reboots: what it had under way has ended, landed or not
			w.underWay = slices.DeleteFunc(slices.Clone(w.underWay), func(x write) bool { return x.by == boot })
			w.boots++
			n.BootID = fmt.Sprint(w.boots)
		case 5: // what is not needed goes
			if writing {
				continue
			}
			for _, k := range w.free(boot, careless) {
				w.commit(cluster.Txn{Conditions: []cluster.Condition{{Key: k.Key(), Revision: k.Revision}}, Deletes: []string{k.Key()}})
			}
		}
		if err := w.check(); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) free(boot cluster.BootOf, careless bool) []cluster.KeptBlob {
	if !careless {
		return Unneeded(&w.st, boot)
	}
	st := w.st
	st.Kept = slices.Clone(st.Kept)
	for i := range st.Kept {
		st.Kept[i].Writers = nil
	}
	return Unneeded(&st, boot)
}

func TestWholeBlobsStayWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := play(t, false); err != nil {
			t.Fatal(err)
		}
	})
}

// TestCarelessFreeingIsFound: the check above sees what it is for.
func TestCarelessFreeingIsFound(t *testing.T) {
	gen := rapid.Custom(func(t *rapid.T) error { return play(t, true) })
	for seed := range 20000 {
		if gen.Example(seed) != nil {
			return
		}
	}
	t.Error("20000 histories in which room is given away under a writer, and the check saw none of them")
}

func TestNothingIsFreeWhileAnUnknownImageRuns(t *testing.T) {
	w := newWorld(1)
	w.st.Kept = []cluster.KeptBlob{{Digest: "old", Room: clusterdisk.Block, Whole: true}}
	boot := cluster.BootOf{Node: "n1", BootID: "0"}
	if got := Unneeded(&w.st, boot); len(got) != 1 {
		t.Fatalf("got %v, want the blob that nothing needs", got)
	}
	w.st.Instances = []cluster.Instance{{ID: "i", Spec: cluster.Service{ImageDigest: "old"}}}
	if got := Unneeded(&w.st, boot); len(got) != 0 {
		t.Errorf("got %v, want nothing: what runs may be made of it", got)
	}
}

func TestKeeper(t *testing.T) {
	w := newWorld(3)
	for _, tt := range []struct {
		name   string
		change func()
		want   string
	}{
		{"the first", func() {}, "n1"},
		{"a witness has no images", func() { w.st.Nodes[0].Witness = true }, "n2"},
		{"who is lost does not", func() { w.st.Nodes[1].State = cluster.NodeLost }, "n3"},
		{"who has no slot cannot", func() { w.st.LedgerDisk.Slots = []string{"n1", "n2"} }, ""},
		{"no disk", func() { w.st.LedgerDisk = nil }, ""},
	} {
		if tt.change(); Keeper(&w.st) != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, Keeper(&w.st), tt.want)
		}
	}
}
