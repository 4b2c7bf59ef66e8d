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
	"github.com/skein-os/skein/storage/disk"
	"github.com/skein-os/skein/storage/filesystem"
	"github.com/skein-os/skein/storage/modules"
	"github.com/skein-os/skein/storage/multipath"
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
		Root: p.a.path("volumes"), Codec: codec, Scan: disks.System{Sys: disk.Kernel}, FS: filesystem.Linux{Load: modules.Load},
		Map:  p.openMap,
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
		Stuck: func(disk, why string) {
			reason := fmt.Sprintf("disk %s was lost and is still in use on this node, which can have it again only after a restart: %s", disk, why)
			select {
			case p.events <- cluster.Event{Time: time.Now(), Node: p.a.id.Name, Kind: cluster.EventStorage, Subject: disk, Text: reason}:
			default: // the reboot says it too
			}
			(&backend{parts: p}).Reboot(reason)
		},
		Log: p.a.log.With("part", "disks"),
	})
}

// openMap looks after the map of a disk on a SAN.
func (p *parts) openMap(wwn string, admit func(context.Context, string) error, devs ...string) (disks.Map, error) {
	if err := modules.Load("dm-multipath", "dm-service-time"); err != nil {
		return nil, err
	}
	return multipath.Start(multipath.Config{WWN: wwn, Admit: admit, AdmitFor: volumeTimeout, Log: p.a.log.With("part", "multipath")}, devs...)
}

// followDisks keeps the maps' paths as the kernel has them.
func (p *parts) followDisks(ctx context.Context) {
	changed := make(chan struct{}, 1)
	p.a.wg.Go(func() {
		err := disk.Watch(ctx, func(disk.Event) {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if err != nil && ctx.Err() == nil {
			p.a.log.Warn("changes of disks are seen only when they are looked for", "err", err)
		}
	})
	p.disks.Follow(ctx, changed)
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
	w.a.wg.Go(func() {
		// What waits for a path keeps a killed process from ending.
		for w.ctx.Err() == nil {
			ctx, cancel := context.WithTimeout(w.ctx, volumeTimeout)
			err := w.disks.Fail(ctx, in.ID)
			cancel()
			if err == nil {
				return
			}
			w.a.log.Warn("I/O of a lost volume may wait for paths", "instance", in.ID, "err", err)
		}
	})
}
