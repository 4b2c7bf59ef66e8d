package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/disks"
	"github.com/skein-os/skein/agent/shares"
	"github.com/skein-os/skein/storage/gfs2"
	"github.com/skein-os/skein/storage/shared"
)

// This file connects shared file systems (package shares) with the other parts of a member.

// SharedRoot is where shared file systems are mounted on every node, each under its name.
const SharedRoot = "/shared"

// sharedFS is this node's shared file systems.
type sharedFS struct {
	*shares.Node
	driver shared.Driver
	disks  *disks.Manager
}

// openShares makes what follows shared file systems. self is this node as the ledger has it in this boot.
func (p *parts) openShares(meta cluster.Meta, self *cluster.Node) *sharedFS {
	log := p.a.log.With("part", "shared")
	// The cluster's ID and not its name: a file system of another cluster of that name is refused.
	driver := gfs2.New(gfs2.Config{Cluster: meta.ID, Dir: p.a.path("shared"), Log: log})
	s := &sharedFS{driver: driver, disks: p.disks}
	s.Node = shares.New(shares.Config{
		Self: (&cluster.State{Meta: meta}).SharedMember(self), Driver: driver, Root: SharedRoot, Keep: p.a.path("shared"), Log: log,
		Device: p.disks.Together,
		Released: func(wwn string) {
			p.a.wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), volumeTimeout)
				defer cancel()
				if err := p.disks.Apart(ctx, wwn); err != nil {
					log.Warn("a disk that had a shared file system cannot be claimed on this node before it restarts", "disk", wwn, "err", err)
				}
			})
		},
		Commit: func(ctx context.Context, r cluster.SharedReport) error {
			_, _, err := p.store.Commit(ctx, cluster.Txn{Puts: []cluster.Put{{Key: r.Key(), Value: r}}})
			return err
		},
		Broken: func(name, why string) {
			reason := fmt.Sprintf("shared file system %s is of no use on this node before a restart: %s", name, why)
			p.tell(cluster.Event{Time: time.Now(), Node: p.a.id.Name, Kind: cluster.EventStorage, Subject: name, Text: reason})
			(&backend{parts: p}).Reboot(reason)
		},
	})
	return s
}

// keepShared opens the disks of file systems that this boot has mounted already, by an agent before this one: their paths
// are looked after again. Then it follows the ledger.
func (p *parts) keepShared(ctx context.Context) {
	for _, rec := range p.state.Load().Shared {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(p.a.path("shared"), rec.Name+".json")); err != nil {
				break // not used in this boot yet
			}
			if s, err := p.shares.driver.Status(rec.Name); err != nil || !s.Mounted {
				break
			}
			_, err := p.disks.Together(ctx, rec.Disk)
			if err == nil {
				break
			}
			p.a.log.Warn("the paths of a shared file system's disk are not looked after", "name", rec.Name, "disk", rec.Disk, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	p.shares.Run(ctx)
}

// Make implements api.SharedFS.
func (s *sharedFS) Make(ctx context.Context, r cluster.SharedRecord) error {
	device, err := s.disks.Together(ctx, r.Disk)
	if err != nil {
		return err
	}
	if err := s.driver.Make(ctx, device, r.Name, r.Journals); err != nil {
		if aerr := s.disks.Apart(ctx, r.Disk); aerr != nil {
			return fmt.Errorf("%w; %w", err, aerr)
		}
		return err
	}
	return nil
}

// Check implements api.SharedFS.
func (s *sharedFS) Check(ctx context.Context, r cluster.SharedRecord, repair bool) (shared.Finding, string, error) {
	device, err := s.disks.Together(ctx, r.Disk)
	if err != nil {
		return "", "", err
	}
	return s.driver.Check(ctx, device, repair)
}

// Grow implements api.SharedFS.
func (s *sharedFS) Grow(ctx context.Context, r cluster.SharedRecord) (int64, error) {
	if err := s.Mounted(r.Name); err != nil {
		return 0, err
	}
	size, err := s.disks.Grown(ctx, r.Disk)
	if err != nil {
		return 0, err
	}
	return size, s.driver.Grow(ctx, filepath.Join(SharedRoot, r.Name))
}

// Space implements api.SharedFS.
func (s *sharedFS) Space(name string) (size, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Join(SharedRoot, name), &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// SharedFS implements api.Backend.
func (b *backend) SharedFS() api.SharedFS { return b.shares }

// attached has the folders of an instance ready: its volumes' and those on shared file systems (workload.Volumes).
type attached struct{ p *parts }

// shareFor is for how long an instance waits for a shared file system on a node that has just joined.
const shareFor = time.Minute

// Attach implements workload.Volumes.
func (a attached) Attach(ctx context.Context, in cluster.Instance) error {
	for _, u := range in.Spec.Shares {
		for begin := time.Now(); ; {
			err := a.p.shares.Mounted(u.Name)
			if err == nil {
				break
			}
			if time.Since(begin) > shareFor {
				return err
			}
			select {
			case <-ctx.Done():
				return errors.Join(err, ctx.Err())
			case <-time.After(100 * time.Millisecond): // between two looks at the kernel
			}
		}
		if err := os.MkdirAll(filepath.Join(SharedRoot, u.Name, u.Folder), 0o755); err != nil {
			return fmt.Errorf("shared file system %s: %w", u.Name, err)
		}
	}
	return a.p.disks.Attach(ctx, in)
}

// Detach implements workload.Volumes.
func (a attached) Detach(ctx context.Context, in cluster.Instance) error {
	return a.p.disks.Detach(ctx, in)
}
