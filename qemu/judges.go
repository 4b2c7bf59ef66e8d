package qemu

import (
	"context"

	"github.com/skein-os/skein/qemu/writers"
)

// both shows a switch's frames to two judges.
func both(a, b func(port string, frame []byte)) func(port string, frame []byte) {
	return func(port string, frame []byte) {
		a(port, frame)
		b(port, frame)
	}
}

// Writers tells who writes to the disks of a SAN, and every second writer since the lab started. The LUNs in shared
// may have several.
func (l *Lab) Writers(shared []uint64) writers.Report { return l.writers.Report(shared) }

// FollowWriters calls emit for each finding about disks that are not shared so far and each that comes, until ctx or
// the lab ends.
func (l *Lab) FollowWriters(ctx context.Context, shared []uint64, emit func(writers.Record) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	return l.writers.Follow(ctx, shared, emit)
}
