package shared

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
)

// Config is what a Controller needs. All fields are compulsory but Saved.
type Config struct {
	Driver Driver
	Name   string // of the file system, in its lock manager
	Self   Member
	// Publish makes the node's report known to all members and the coordinator. It is called when the report has
	// changed, with the newest one; it must not block for long.
	Publish func(Report)
	// Save keeps what a restarted agent in the same run of the kernel has to know. It is called before each action.
	Save func(Saved) error
	// Saved is what Save kept, nil after a boot.
	Saved *Saved
	Log   *slog.Logger
}

// Controller takes one node through the membership of one file system.
type Controller struct {
	c     Config
	core  *Core
	in    chan func()
	done  chan error // of the action under way
	ended chan struct{}

	mounted bool // mount(2) has succeeded, and no unmount has been seen
	said    *Report
	saved   Saved
}

// NewController makes a Controller; Run runs it.
func NewController(c Config) *Controller {
	k := &Controller{c: c, in: make(chan func()), done: make(chan error, 1), ended: make(chan struct{})}
	if c.Saved != nil {
		k.core = Resume(c.Self, *c.Saved)
		k.mounted = c.Saved.State == In || c.Saved.State == Leaving
	} else {
		k.core = NewCore(c.Self)
	}
	return k
}

// Committed tells the membership that the ledger has.
func (k *Controller) Committed(m Membership) { k.tell(func() { k.core.Committed(m) }) }

// Reported tells what another node says of itself.
func (k *Controller) Reported(r Report) { k.tell(func() { k.core.Reported(r) }) }

// Event tells what the kernel says of this file system.
func (k *Controller) Event(e Event) {
	k.tell(func() {
		k.c.Log.Info("shared file system", "name", k.c.Name, "event", string(e.Kind), "journal", e.Journal)
		switch e.Kind {
		case EventJoining:
			k.core.Joined()
		case EventLeaving:
			k.left()
		case EventWithdrawn:
			k.core.Fail("the file system met an error on this node and withdrew")
		case EventLost:
			k.look()
		}
	})
}

func (k *Controller) left() {
	if k.mounted {
		k.mounted = false
		k.core.Left()
		return
	}
	// A mount that failed after it was let in: it may have begun to write its journal.
	k.core.Fail("the lock manager ended in the middle of a mount")
}

// look finds out what events would have said.
func (k *Controller) look() {
	s, err := k.c.Driver.Status(k.c.Name)
	switch {
	case err != nil:
		k.c.Log.Error("events of a shared file system were lost, and its status cannot be read", "name", k.c.Name, "err", err)
	case s.Withdrawn:
		k.core.Fail("the file system met an error on this node and withdrew")
	case s.Lock && k.core.State() == Out:
		k.core.Joined()
	case s.Lock && !s.Mounted && k.core.State() == In && k.mounted:
		k.left()
	}
}

// tell runs f in the controller's goroutine and waits for that, or for the controller's end.
func (k *Controller) tell(f func()) {
	ran := make(chan struct{})
	select {
	case k.in <- func() { f(); close(ran) }:
		<-ran
	case <-k.ended:
	}
}

// Run does what is to be done until ctx ends, and waits for the action under way.
func (k *Controller) Run(ctx context.Context) {
	defer close(k.ended)
	if k.c.Saved != nil {
		k.look() // what the kernel said while no agent listened
	}
	acting := false
	for {
		if a, ok := k.core.Next(); ok && !acting {
			acting = true
			if err := k.c.Save(k.core.Save()); err != nil {
				k.done <- fmt.Errorf("keep what a restarted agent has to know: %w", err)
			} else {
				k.c.Log.Info("shared file system", "name", k.c.Name, "action", a.String())
				go func() { k.done <- k.act(ctx, a) }()
			}
		}
		if s := k.core.Save(); !reflect.DeepEqual(s, k.saved) {
			if err := k.c.Save(s); err != nil {
				k.c.Log.Error("keep the state of a shared file system", "name", k.c.Name, "err", err)
			}
			k.saved = s
		}
		if r := k.core.Report(); k.said == nil || *k.said != r {
			k.said = &r
			k.c.Publish(r)
		}
		select {
		case f := <-k.in:
			f()
		case err := <-k.done:
			acting = false
			k.core.Done(err)
			if err != nil {
				k.c.Log.Error("shared file system", "name", k.c.Name, "err", err)
			}
		case <-ctx.Done():
			if acting {
				<-k.done
			}
			return
		}
	}
}

func (k *Controller) act(ctx context.Context, a Action) error {
	switch a.Kind {
	case Stop:
		return k.c.Driver.Stop(ctx, k.c.Name, a)
	case Start:
		return k.c.Driver.Start(ctx, k.c.Name, a)
	case Release:
		return k.c.Driver.Release(ctx, k.c.Name)
	}
	return fmt.Errorf("no action %q", a.Kind)
}

// Mount mounts the file system at dir: it returns when the others have let this node in.
func (k *Controller) Mount(ctx context.Context, device, dir string) error {
	var state State
	k.tell(func() { state = k.core.State() })
	if state != Out {
		return fmt.Errorf("mount shared file system %s at %s: it is in state %s on this node: %s", k.c.Name, dir, state, k.Waiting())
	}
	if err := k.c.Driver.Mount(ctx, device, k.c.Name, dir); err != nil {
		return err
	}
	k.tell(func() { k.mounted = true })
	return nil
}

// Unmount unmounts the file system from dir: it returns when the others have let this node out.
func (k *Controller) Unmount(ctx context.Context, dir string) error {
	return k.c.Driver.Unmount(ctx, dir)
}

// Waiting says in words what the node waits for; empty if for nothing.
func (k *Controller) Waiting() (what string) {
	k.tell(func() { what = k.core.Waiting() })
	return what
}

// State is where the node is.
func (k *Controller) State() (s State) {
	k.tell(func() { s = k.core.State() })
	return s
}
