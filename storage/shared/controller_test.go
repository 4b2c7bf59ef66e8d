package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDriver is a Driver whose kernel lets a mount in and an unmount out as GFS2's does.
type fakeDriver struct {
	Driver // what is not used
	event  func(Event)
	calls  []string
	let    chan struct{} // the mount or unmount goes on
	fail   error         // of Stop

	mu   sync.Mutex
	kept State // as the last Save said
}

func (d *fakeDriver) note(format string, a ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, a...)+", kept "+string(d.kept))
}

func (d *fakeDriver) Stop(_ context.Context, name string, a Action) error {
	d.note("stop %s %d", name, a.Membership.Generation)
	return d.fail
}

func (d *fakeDriver) Start(_ context.Context, name string, a Action) error {
	d.note("start %s %d", name, a.Membership.Generation)
	if a.Admit {
		d.let <- struct{}{}
	}
	return nil
}

func (d *fakeDriver) Release(_ context.Context, name string) error {
	d.note("release %s", name)
	d.let <- struct{}{}
	return nil
}

func (d *fakeDriver) Mount(context.Context, string, string, string) error {
	d.event(Event{Kind: EventJoining})
	<-d.let
	return nil
}

func (d *fakeDriver) Unmount(context.Context, string) error {
	d.event(Event{Kind: EventLeaving})
	<-d.let
	return nil
}

func (d *fakeDriver) Status(string) (Status, error) { return Status{}, nil }

// bed runs f with a controller whose ledger it is alone in.
func bed(t *testing.T, saved *Saved, f func(k *Controller, d *fakeDriver, last func() Report)) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDriver{let: make(chan struct{})}
		reports := make(chan Report, 100)
		k := NewController(Config{
			Driver: d, Name: "data", Self: node(1, 1), Saved: saved, Log: slog.New(slog.DiscardHandler),
			Publish: func(r Report) { reports <- r },
			Save: func(s Saved) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.kept = s.State
				return nil
			},
		})
		d.event = k.Event
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		var last Report
		go func() {
			cur := in(7)
			if saved != nil {
				cur = in(7, node(1, 1))
			}
			k.Committed(cur)
			for last = range reports {
				if next, _, ok := Plan(cur, []Report{last}, 1, func(Member) bool { return false }); ok {
					cur = next
					k.Committed(cur)
				}
			}
		}()
		synctest.Wait()
		f(k, d, func() Report { synctest.Wait(); return last })
		cancel()
		<-done
		close(reports)
	})
}

func TestControllerLife(t *testing.T) {
	bed(t, nil, func(k *Controller, d *fakeDriver, last func() Report) {
		if err := k.Mount(t.Context(), "/dev/x", "/shared"); err != nil {
			t.Fatal(err)
		}
		if r := last(); k.State() != In || r.Started != 8 {
			t.Fatalf("state %s, report %+v", k.State(), r)
		}
		if err := k.Mount(t.Context(), "/dev/x", "/shared"); err == nil {
			t.Error("mounted twice")
		}
		if err := k.Unmount(t.Context(), "/shared"); err != nil {
			t.Fatal(err)
		}
		if last(); k.State() != Out {
			t.Fatalf("state %s", k.State())
		}
		want := []string{"stop data 8, kept joining", "start data 8, kept joining", "stop data 9, kept leaving", "release data, kept leaving"}
		if !slices.Equal(d.calls, want) {
			t.Errorf("got %q, want %q", d.calls, want)
		}
	})
}

// TestControllerResume: an agent finds its file system stopped by the kernel, and is to go through a generation first.
func TestControllerResume(t *testing.T) {
	bed(t, &Saved{State: In, Seen: true, Running: []Member{node(1, 1)}, Stopped: 7, Started: 7}, func(k *Controller, d *fakeDriver, last func() Report) {
		if r := last(); k.State() != In || r.Started != 8 {
			t.Fatalf("state %s, report %+v", k.State(), r)
		}
		if want := []string{"stop data 8, kept in", "start data 8, kept in"}; !slices.Equal(d.calls, want) {
			t.Errorf("got %q, want %q", d.calls, want)
		}
	})
}

func TestControllerBroken(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(k *Controller, d *fakeDriver)
		want string
	}{
		{"withdrawn", func(k *Controller, d *fakeDriver) { d.event(Event{Kind: EventWithdrawn}) }, "withdrew"},
		{"the stop fails", func(k *Controller, d *fakeDriver) {
			d.fail = errors.New("no such file")
			go func() { _ = k.Mount(context.Background(), "/dev/x", "/shared") }()
		}, "stop in generation 8: no such file"},
		{"the mount fails after it was let in", func(k *Controller, d *fakeDriver) {
			d.event(Event{Kind: EventJoining})
			go func() { <-d.let }()
			time.Sleep(time.Second)
			d.event(Event{Kind: EventLeaving})
		}, "in the middle of a mount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bed(t, nil, func(k *Controller, d *fakeDriver, last func() Report) {
				c.do(k, d)
				if r := last(); k.State() != Broken || !strings.Contains(r.Broken, c.want) {
					t.Errorf("state %s, report %+v, want %q", k.State(), r, c.want)
				}
				select {
				case d.let <- struct{}{}: // a mount that waits
				default:
				}
			})
		})
	}
}
