package shared

import (
	"context"
	"net/netip"
)

// EventKind is what a driver tells.
type EventKind string

// The kinds of events.
const (
	EventJoining   EventKind = "joining"    // the lock manager waits to be let in
	EventLeaving   EventKind = "leaving"    // the lock manager waits to be let out
	EventReplayed  EventKind = "replayed"   // a journal was replayed, or found clean, by this node
	EventNotPlayed EventKind = "not played" // a journal could not be replayed by this node: another one may
	EventWithdrawn EventKind = "withdrawn"  // the file system gave up on this node
	EventLost      EventKind = "lost"       // some events were lost: ask Status
)

// Event is what the kernel says of a file system.
type Event struct {
	Name    string // of the file system; empty with EventLost
	Kind    EventKind
	Journal int // with EventReplayed and EventNotPlayed, counted from 0
}

// Status is what the kernel shows of a file system on this node. To ask for it takes no lock of the file system.
type Status struct {
	Lock    bool   // its lock manager is there
	Mounted bool   // at Dir
	Dir     string // where, if mounted
	Journal int    // this node's journal if mounted, counted from 0
	// Blocked: locks wait until journals have been replayed.
	Blocked   bool
	Withdrawn bool
}

// Finding is the outcome of a check.
type Finding string

// Outcomes of a check.
const (
	Clean    Finding = "clean"
	Repaired Finding = "repaired"
	Damaged  Finding = "damaged" // errors are left
	// Miscounted: only the counters of used space are off, which df shows. A repair mends them.
	Miscounted Finding = "miscounted"
)

// Driver is one kind of cluster file system on this node. Stop, Start and Release belong to Controller, which calls
// one at a time for a file system; the others are for who looks after volumes.
type Driver interface {
	// Open makes the lock manager ready and tells what happens until Close: event is called from one goroutine.
	Open(self Member, event func(Event)) error
	// Close gives up watching. The kernel then stops all locks of all file systems on this node.
	Close() error

	// Stop stops the lock manager, cuts Failed off and makes the addresses of the members known.
	Stop(ctx context.Context, name string, a Action) error
	// Start goes on with the members. Journals of Failed are replayed by one member, which the kernels settle among
	// themselves; locks stay blocked until then.
	Start(ctx context.Context, name string, a Action) error
	// Release lets the lock manager end.
	Release(ctx context.Context, name string) error

	// Make makes a file system with that many journals on a device. Whatever is there is lost: who calls has looked.
	Make(ctx context.Context, device, name string, journals int) error
	// Mount returns when the node has been let in and the file system is mounted, which takes as long as the others
	// take, so it is to be called beside Stop and Start.
	Mount(ctx context.Context, device, name, dir string) error
	// Unmount returns when the node has been let out.
	Unmount(ctx context.Context, dir string) error
	// Grow makes the mounted file system as long as its device, on one node for all.
	Grow(ctx context.Context, dir string) error
	// AddJournals adds journals to the mounted file system, on one node for all.
	AddJournals(ctx context.Context, dir string, n int) error
	// Check looks at a file system that no node has mounted, and repairs it if asked to.
	Check(ctx context.Context, device string, repair bool) (Finding, string, error)
	Status(name string) (Status, error)
}

// Port is where the kernel's lock manager listens, TCP (fs/dlm/config.c).
const Port = 21064

// Listen is where a member's lock manager is reached.
func (m Member) Listen() netip.AddrPort { return netip.AddrPortFrom(m.Address, Port) }
