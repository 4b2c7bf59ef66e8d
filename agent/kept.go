package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/kept"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// This file keeps images of containers on the cluster disk (package kept), and reads them there: nodes have them in
// memory, and after a loss of all power no other node could give them.

// keepAgain is between two looks for images that the cluster disk does not have, if nothing changes.
const keepAgain = 5 * time.Second

// keepImages writes images to the cluster disk while this node is the one to do so.
func (p *parts) keepImages(ctx context.Context) {
	tick := time.NewTicker(keepAgain)
	defer tick.Stop()
	said := map[string]bool{} // images that had no room
	failed := ""
	for {
		if err := p.keepRound(ctx, said); err == nil {
			failed = ""
		} else if ctx.Err() == nil && err.Error() != failed {
			failed = err.Error()
			p.a.log.Warn("images are not kept on the cluster disk", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.keeping:
		case <-tick.C:
		}
	}
}

// keepRound brings the disk to what the ledger wants on it.
func (p *parts) keepRound(ctx context.Context, said map[string]bool) error {
	st := p.state.Load()
	if m := p.store.Mirror(); kept.Keeper(st) != p.a.id.Name || !m.Attached || m.Detached || m.Fenced {
		return nil
	}
	boot := cluster.BootOf{Node: p.a.id.Name, BootID: p.a.id.BootID}
	if free := kept.Unneeded(st, boot); len(free) > 0 {
		var t cluster.Txn
		for _, k := range free[:min(len(free), 50)] {
			t.Conditions = append(t.Conditions, cluster.Condition{Key: k.Key(), Revision: k.Revision})
			t.Deletes = append(t.Deletes, k.Key())
		}
		if err := p.commitSeen(ctx, t); err != nil {
			return err
		}
		st = p.state.Load()
	}
	if len(kept.Missing(st)) == 0 {
		return nil
	}
	d, err := p.findDisk(st)
	if err != nil {
		return err
	}
	defer d.close()
	if d.Images().Size == 0 {
		return nil // 'skein image ls' says that nothing is kept, docs why
	}
	for _, im := range st.Images {
		switch err := p.keepImage(ctx, d, im, boot); {
		case errors.Is(err, clusterdisk.ErrNoRoom) && !said[im.Digest]:
			said[im.Digest] = true
			p.tell(cluster.Event{Time: time.Now(), Node: p.a.id.Name, Kind: cluster.EventImage, Subject: "image " + im.Ref,
				Text: im.Ref + " is not on the cluster disk: after a loss of all power it has to be loaded again",
				Why:  fmt.Sprintf("%v; a larger LUN has more room for images", err)})
		case errors.Is(err, clusterdisk.ErrNoRoom):
		case err != nil:
			return fmt.Errorf("image %s: %w", im.Ref, err)
		}
	}
	return nil
}

// keepImage writes what the disk lacks of an image that is on this node.
func (p *parts) keepImage(ctx context.Context, d *openDisk, im cluster.Image, boot cluster.BootOf) error {
	if _, err := p.images.Find(im.Ref, im.Digest); err != nil {
		return nil // it is being fetched
	}
	if st := p.state.Load(); st.IsKept(&im) {
		return nil
	}
	for _, digest := range im.Blobs {
		st := p.state.Load()
		if k := st.Blob(digest); k != nil && k.Whole {
			continue
		}
		if err := p.keepBlob(ctx, d, digest, boot); err != nil {
			return err
		}
	}
	if !p.state.Load().IsKept(&im) {
		return nil
	}
	p.tell(cluster.Event{Time: time.Now(), Node: p.a.id.Name, Kind: cluster.EventImage, Subject: "image " + im.Ref,
		Text: im.Ref + " is on the cluster disk", Why: "so that it is there after a loss of all power"})
	return nil
}

func (p *parts) keepBlob(ctx context.Context, d *openDisk, digest string, boot cluster.BootOf) error {
	blob, size, err := p.images.Blob(digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	t, k, err := kept.Begin(p.state.Load(), boot, d.Images(), digest, size)
	if err != nil {
		return err
	}
	if err := p.commitSeen(ctx, t); err != nil {
		return err
	}
	at := clusterdisk.Extent{Off: k.Off, Size: k.Room}
	if err := d.WriteImage(ctx, at, size, blob); err != nil {
		return err
	}
	r, err := d.ReadImage(at, size)
	if err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return err
	}
	if "sha256:"+hex.EncodeToString(sum.Sum(nil)) != digest {
		return fmt.Errorf("%s: at %d is something else than what was written there", d.name, k.Off)
	}
	if t, err = kept.Done(p.state.Load(), boot, digest); err != nil {
		return err
	}
	return p.commitSeen(ctx, t)
}

// commitSeen commits, and returns when this node's state has it.
func (p *parts) commitSeen(ctx context.Context, t cluster.Txn) error {
	revision, ok, err := p.store.Commit(ctx, t)
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("the ledger changed meanwhile")
	}
	for p.state.Load().Revision < revision {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.keeping:
		case <-time.After(keepAgain):
			return errors.New("the ledger's change is not seen here")
		}
	}
	return nil
}

// tell has an event recorded, if there is room for it.
func (p *parts) tell(e cluster.Event) {
	select {
	case p.events <- e:
	default:
		p.a.log.Warn("no room for an event", "event", e.Text)
	}
}

// fromDisk reads a blob of an image from the cluster disk (container.PeerFunc). Who reads needs no key there.
func (p *parts) fromDisk(_ context.Context, want string) (io.ReadCloser, error) {
	st := p.state.Load()
	k := st.Blob(want)
	if st.LedgerDisk == nil || k == nil || !k.Whole {
		return nil, fmt.Errorf("%.19s is not on the cluster disk", want)
	}
	list, err := clusterdisk.Scan("/sys", "/dev")
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(list, func(c clusterdisk.Candidate) bool { return c.WWN == st.LedgerDisk.WWN })
	if at < 0 {
		return nil, fmt.Errorf("the cluster disk %s is not there", st.LedgerDisk.WWN)
	}
	secret, err := hex.DecodeString(p.a.seed.Token)
	if err != nil {
		return nil, err
	}
	dev, closer, err := clusterdisk.OpenDevice(list[at].Device(), list[at].WWN)
	if err != nil {
		return nil, err
	}
	d, err := clusterdisk.Open(dev, secret)
	if err == nil && d.Header().ClusterID != st.Meta.ID {
		err = fmt.Errorf("the disk is cluster %s's", d.Header().Cluster)
	}
	var r io.Reader
	if err == nil {
		r, err = d.ReadImage(clusterdisk.Extent{Off: k.Off, Size: k.Room}, k.Size)
	}
	if err != nil {
		closer.Close()
		return nil, fmt.Errorf("cluster disk %s: %w", st.LedgerDisk.WWN, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{r, closer}, nil
}
