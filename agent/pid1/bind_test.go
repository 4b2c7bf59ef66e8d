package pid1

import (
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-os/skein/agent/pid1/control"
	"github.com/skein-os/skein/agent/watchdog"
)

// bound has the agent bind the watchdog, and returns what PID 1 answers.
func (a *fakeAgent) bound(t *testing.T, until time.Duration) time.Duration {
	t.Helper()
	if err := a.Bind(until); err != nil {
		t.Fatal(err)
	}
	e, err := a.Receive()
	if err != nil || e.Op != control.Bound {
		t.Fatalf("got %+v, %v, want the binding", e, err)
	}
	return time.Duration(e.UntilMS) * time.Millisecond
}

func TestBoundMachineEnds(t *testing.T) {
	const w10 = 10 * time.Second
	supervised(t, func(t *testing.T, w *fakeWorld) {
		w.dog, w.services = w10, true
		a := <-w.agents
		a.replay(t)
		until := w.Uptime() + watchdog.Lease(w10)
		if got := a.bound(t, until); got != until {
			t.Errorf("got bound until %v, want %v", got, until)
		}
		if got := a.bound(t, until-5*time.Second); got != until {
			t.Errorf("an earlier time: got bound until %v, want still %v", got, until)
		}
		// The agent dies; the next one is told what holds, and is well, but cannot name a later time.
		a.die(syscall.SIGSEGV)
		b := <-w.agents
		if e, err := b.Receive(); err != nil || e.Op != control.Bound || e.UntilMS != until.Milliseconds() {
			t.Errorf("the next agent is told %+v, %v, want the binding until %v", e, err, until)
		}
		b.replay(t)
		go io.Copy(io.Discard, b.raw)
		for w.Uptime() < until-2*watchdog.Bite(w10) {
			if err := b.Feed(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second)
		got := w.outcome()
		if last := until - 2*watchdog.Bite(w10); got.fedAt > last || got.fedAt < last-2*time.Second {
			t.Errorf("fed at %v for the last time, want within the 2 s before %v", got.fedAt, last)
		}
		if got.killed == 0 || got.stopped != nil || w.ServicesRunning() {
			t.Errorf("got %+v, want the services killed and the rest left to the watchdog", got)
		}
		select {
		case <-w.agents:
			t.Error("an agent was started on a machine that is about to be reset")
		default:
		}
		time.Sleep(watchdog.Bite(w10) + 10*time.Second)
		if got := w.outcome(); got.stopped == nil || *got.stopped != Restart {
			t.Errorf("got %+v, want a restart by force: the watchdog did not bite", got)
		}
	})
}

func TestBoundMachineLivesWhileItIsRenewed(t *testing.T) {
	const w10 = 10 * time.Second
	supervised(t, func(t *testing.T, w *fakeWorld) {
		w.dog = w10
		a := <-w.agents
		a.replay(t)
		feed := func(d time.Duration, bind bool) {
			for end := w.Uptime() + d; w.Uptime() < end; time.Sleep(time.Second) {
				if err := a.Feed(); err != nil {
					t.Fatal(err)
				}
				if bind {
					a.bound(t, w.Uptime()+watchdog.Lease(w10))
				}
			}
		}
		feed(5*time.Minute, true)
		if err := a.Unbind(); err != nil {
			t.Fatal(err)
		}
		feed(5*time.Minute, false)
		synctest.Wait()
		if got := w.outcome(); got.killed != 0 || w.Uptime()-got.fedAt > 3*time.Second {
			t.Errorf("got %+v at %v, want it fed and nothing killed", got, w.Uptime())
		}
	})
}

// TestStopOfBoundMachineIsNotFedBeyondItsTime: an orderly stop feeds too.
func TestStopOfBoundMachineIsNotFedBeyondItsTime(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		w.dog, w.unmount = 10*time.Second, make(chan struct{}) // unmounting hangs
		a := <-w.agents
		a.replay(t)
		until := w.Uptime() + 2*watchdog.Bite(w.dog) + 3*time.Second
		a.bound(t, until)
		if err := a.Reboot("test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		if got, last := w.outcome().fedAt, until-2*watchdog.Bite(w.dog); got > last {
			t.Errorf("fed at %v, want not after %v", got, last)
		}
		close(w.unmount)
	})
}

func TestWithoutWatchdogNobodyIsPromisedAnything(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		a := <-w.agents
		a.replay(t)
		if err := a.Bind(w.Uptime() + 30*time.Second); err != nil {
			t.Fatal(err)
		}
		w.end(Ended{PID: 7})
		if e, err := a.Receive(); err != nil || e.Op != control.Exit {
			t.Errorf("got %+v, %v, want the exit and no binding before it", e, err)
		}
	})
}
