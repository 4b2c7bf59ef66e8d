// Package kept decides which blobs of images are written to the cluster disk, where, and when their room is free again.
// It does no I/O.
//
// It promises: no two blobs have a byte of the disk in common; the room of a blob that no image needs any more is
// given to another one only when no boot that was told to write there can still do so; several nodes that write the
// same blob at once do no harm, since they write the same bytes to the same place.
package kept

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// Keeper is the node that writes: the first of those that have a slot on the disk, are well, and have images. "" if
// there is none.
func Keeper(st *cluster.State) string {
	if st.LedgerDisk == nil {
		return ""
	}
	best := ""
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.State == cluster.NodeLost || n.Witness || n.MemberID == 0 || !slices.Contains(st.LedgerDisk.Slots, n.Name) {
			continue
		}
		if best == "" || n.Name < best {
			best = n.Name
		}
	}
	return best
}

// Missing are the blobs that images need and that are not whole on the disk, image by image.
func Missing(st *cluster.State) []string {
	whole := map[string]bool{}
	for i := range st.Kept {
		whole[st.Kept[i].Digest] = st.Kept[i].Whole
	}
	var out []string
	for i := range st.Images {
		for _, b := range st.Images[i].Blobs {
			if !whole[b] {
				out = append(out, b)
				whole[b] = true // once is enough
			}
		}
	}
	return out
}

// Begin is the transaction that has to be committed before boot writes a blob of size bytes, and the record that it
// makes. Its condition fails if anybody got room or a slot on the disk meanwhile. The error is clusterdisk.ErrNoRoom.
func Begin(st *cluster.State, boot cluster.BootOf, room clusterdisk.Extent, digest string, size int64) (cluster.Txn, *cluster.KeptBlob, error) {
	if old := st.Blob(digest); old != nil {
		next := *old
		if !slices.Contains(next.Writers, boot) {
			next.Writers = append(slices.Clone(next.Writers), boot)
		}
		return cluster.Txn{Conditions: []cluster.Condition{{Key: old.Key(), Revision: old.Revision}},
			Puts: []cluster.Put{{Key: old.Key(), Value: next}}}, &next, nil
	}
	taken := make([]clusterdisk.Extent, len(st.Kept))
	for i := range st.Kept {
		taken[i] = clusterdisk.Extent{Off: st.Kept[i].Off, Size: st.Kept[i].Room}
	}
	at, err := clusterdisk.Allot(room, taken, size)
	if err != nil {
		return cluster.Txn{}, nil, err
	}
	k := &cluster.KeptBlob{Digest: digest, Off: at.Off, Room: at.Size, Size: size, Writers: []cluster.BootOf{boot}}
	return cluster.Txn{
		// The disk's own record is written again, as it is: of two that look for room at once one has to look again.
		Conditions: []cluster.Condition{{Key: k.Key()}, {Key: cluster.KeyDisk, Revision: st.LedgerDisk.Revision}},
		Puts:       []cluster.Put{{Key: k.Key(), Value: *k}, {Key: cluster.KeyDisk, Value: *st.LedgerDisk}},
	}, k, nil
}

// Done is the transaction after a blob was written, flushed and read back. st must have the record as Begin made it.
func Done(st *cluster.State, boot cluster.BootOf, digest string) (cluster.Txn, error) {
	old := st.Blob(digest)
	if old == nil || !slices.Contains(old.Writers, boot) {
		return cluster.Txn{}, fmt.Errorf("nothing is known of %s being written by %s", digest, boot.Node)
	}
	next := *old
	next.Whole = true
	next.Writers = slices.DeleteFunc(slices.Clone(next.Writers), func(w cluster.BootOf) bool { return w == boot })
	return cluster.Txn{Conditions: []cluster.Condition{{Key: old.Key(), Revision: old.Revision}},
		Puts: []cluster.Put{{Key: old.Key(), Value: next}}}, nil
}

// Unneeded are the records that can go: no image has the blob, and nobody can be writing it. boot is whose word this
// is, and it writes nothing now.
func Unneeded(st *cluster.State, boot cluster.BootOf) []cluster.KeptBlob {
	needed, known := map[string]bool{}, map[string]bool{}
	for i := range st.Images {
		known[st.Images[i].Digest] = true
		for _, b := range st.Images[i].Blobs {
			needed[b] = true
		}
	}
	for i := range st.Instances {
		// It runs an image whose name means another one now; of which blobs that is made nobody can tell.
		if d := st.Instances[i].Spec.ImageDigest; !known[d] {
			return nil
		}
	}
	for i := range st.Services {
		if d := st.Services[i].ImageDigest; !known[d] {
			return nil
		}
	}
	var out []cluster.KeptBlob
	for _, k := range st.Kept {
		if !needed[k.Digest] && !slices.ContainsFunc(k.Writers, func(w cluster.BootOf) bool { return w != boot && !ended(st, w) }) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b cluster.KeptBlob) int { return cmp.Compare(a.Off, b.Off) })
	return out
}

// ended tells whether a boot is over for certain: its node is in another one. That it is lost is not enough.
func ended(st *cluster.State, w cluster.BootOf) bool {
	n := st.Node(w.Node)
	return n != nil && n.BootID != w.BootID
}
