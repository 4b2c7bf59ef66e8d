package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
	"github.com/skein-os/skein/agent/disks"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/filesystem"
	"github.com/skein-os/skein/storage/reserve"
)

// volumeTimeout bounds one operation on a disk (node.World.Volume).
const volumeTimeout = 2 * time.Second

func (p *parts) openDisks() (*disks.Manager, error) {
	codec, err := reserve.NewCodec(p.m.Meta.ID)
	if err != nil {
		return nil, err
	}
	return disks.New(disks.Config{
		Root: p.a.path("volumes"), Codec: codec, Scan: disks.Sysfs{}, FS: filesystem.Linux{},
		Open: func(device string) (disks.Nexus, error) { return reserve.Open(device) },
		Unused: func(device string) error {
			d, err := reserve.OpenUnused(device)
			if err != nil {
				return err
			}
			return d.Close()
		},
		Lost: func(instance, disk, why string) {
			p.a.loop.must(context.Background(), func(b *node.Brain) { b.VolumeConflict(instance, disk, why) })
		},
		Log: p.a.log.With("part", "disks"),
	})
}

// Volume does an operation on a reserved disk (node.World).
func (w *world) Volume(id uint64, v cluster.Volume, op takeover.StorageOp, key, victim takeover.Key) {
	w.a.wg.Go(func() {
		ctx, cancel := context.WithTimeout(w.ctx, volumeTimeout)
		defer cancel()
		ok, keys, err := w.disks.Do(ctx, v, op, key, victim)
		if err != nil {
			w.a.log.Warn("a disk did not do what it was told", "disk", v.Disk, "op", op, "epoch", key.Epoch, "err", err)
		}
		w.a.loop.must(w.ctx, func(b *node.Brain) {
			b.VolumeDone(id, ok, keys, err)
			if !errors.Is(err, reserve.ErrAttention) {
				return
			}
			// What was proven is proven no more, whichever instance it was proven for.
			if in := w.claim(key); in != "" {
				b.VolumeConflict(in, v.Disk, err.Error())
			}
		})
	})
}

// claim is the ID of this node's instance with the epoch of the key.
func (w *world) claim(key takeover.Key) string {
	st := w.state.Load()
	for i := range st.Instances {
		if in := &st.Instances[i]; in.Epoch == key.Epoch && in.Node == w.a.id.Name {
			return in.ID
		}
	}
	return ""
}

// cutOff kills an instance that has lost a volume, whatever the runner is about to do with it, which stops what it
// knows to run with the grace of the time when it began.
func (w *world) cutOff(in cluster.Instance) {
	w.disks.Cut(in.ID)
	w.a.wg.Go(func() {
		_, err := w.runtime.Stop(w.ctx, in.ID, "SIGKILL", 0)
		if err != nil && !errors.Is(err, container.ErrNotFound) && !errors.Is(err, container.ErrNotRunning) && w.ctx.Err() == nil {
			w.a.log.Error(fmt.Sprintf("%s has lost a volume and could not be killed", in.ID), "err", err)
		}
	})
}
