package pid1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-os/skein/agent/pid1/control"
)

// fakeWorld is a machine under virtual time: it must be used in a synctest bubble. Agents are played by the test.
type fakeWorld struct {
	boot    time.Time
	signals chan os.Signal

	mu       sync.Mutex
	zombies  []Ended
	agents   chan *fakeAgent // started, for the test to play
	pids     int
	current  *fakeAgent
	obedient bool // agents end on SIGTERM
	services bool // something runs in the services' cgroup
	immortal bool // and killing it does not help
	outcomes outcome
	unmount  chan struct{} // closed: unmounting does not hang
	log      []string
	startErr error
	wills    []sentWill
	kept     string        // the first link's words of failure
	dog      time.Duration // the watchdog's timeout
}

type sentWill struct {
	at   time.Duration
	text string // the first payload
}

type fakeAgent struct {
	world *fakeWorld
	pid   int
	*control.Conn
	raw net.Conn
}

// die ends the agent as the kernel would; others end before a new one can be there.
func (a *fakeAgent) die(sig syscall.Signal, others ...Ended) {
	a.raw.Close()
	a.world.mu.Lock()
	if a.world.current == a {
		a.world.current = nil
	}
	a.world.mu.Unlock()
	a.world.end(append([]Ended{{PID: a.pid, Signal: sig}}, others...)...)
}

// replay reads up to Replayed.
func (a *fakeAgent) replay(t *testing.T) (pids []int) {
	t.Helper()
	for {
		e, err := a.Receive()
		if err != nil {
			t.Fatalf("agent %d: %v", a.pid, err)
		}
		if e.Op == control.Replayed {
			return pids
		}
		pids = append(pids, e.PID)
	}
}

func (w *fakeWorld) end(e ...Ended) {
	w.mu.Lock()
	w.zombies = append(w.zombies, e...)
	w.mu.Unlock()
	w.signals <- syscall.SIGCHLD
}

func (w *fakeWorld) Uptime() time.Duration { return time.Since(w.boot) }

func (w *fakeWorld) StartAgent() (int, io.ReadWriteCloser, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.startErr != nil {
		return 0, nil, w.startErr
	}
	w.pids++
	ours, theirs := net.Pipe()
	a := &fakeAgent{world: w, pid: 100 + w.pids, Conn: control.NewConn(theirs), raw: theirs}
	w.current = a
	w.agents <- a
	return a.pid, ours, nil
}

func (w *fakeWorld) Reap() []Ended {
	w.mu.Lock()
	defer w.mu.Unlock()
	z := w.zombies
	w.zombies = nil
	return z
}

func (w *fakeWorld) TerminateAgent(int) error {
	w.mu.Lock()
	a, obedient := w.current, w.obedient
	w.mu.Unlock()
	if a != nil && obedient {
		go a.die(syscall.SIGTERM)
	}
	return nil
}

func (w *fakeWorld) KillAgent() error {
	w.mu.Lock()
	a := w.current
	w.mu.Unlock()
	if a != nil {
		go a.die(syscall.SIGKILL)
	}
	return nil
}

func (w *fakeWorld) KillServices() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outcomes.killed++
	w.services = w.services && w.immortal
	return nil
}

func (w *fakeWorld) ServicesRunning() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.services }

func (w *fakeWorld) FeedWatchdog() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outcomes.fedAt = time.Since(w.boot)
	return nil
}

func (w *fakeWorld) WatchdogTimeout() time.Duration { return w.dog }

func (w *fakeWorld) KeepWords(will control.Will) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := will.Words(true); len(f.Links) > 0 {
		w.kept = string(f.Links[0].Payload)
	}
}

func (w *fakeWorld) SendWill(will control.Will) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wills = append(w.wills, sentWill{time.Since(w.boot), string(will.Links[0].Payload)})
	return nil
}

func (w *fakeWorld) sent() []sentWill { w.mu.Lock(); defer w.mu.Unlock(); return slices.Clone(w.wills) }

func (w *fakeWorld) Unmount() {
	if w.unmount != nil {
		<-w.unmount
	}
}

func (w *fakeWorld) Stop(mode StopMode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outcomes.stopped, w.outcomes.stoppedAt = &mode, time.Since(w.boot)
}

func (w *fakeWorld) Logf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%s %s", time.Since(w.boot), fmt.Sprintf(format, args...)))
}

func (w *fakeWorld) has(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.log, func(l string) bool { return strings.Contains(l, text) })
}

// outcome is what became of the machine so far.
type outcome struct {
	killed    int           // how often the services were killed
	fedAt     time.Duration // when the watchdog was fed last
	stopped   *StopMode
	stoppedAt time.Duration
}

func (w *fakeWorld) outcome() outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.outcomes
}

// supervised runs a supervisor in virtual time while play plays the rest of the machine.
func supervised(t *testing.T, play func(t *testing.T, w *fakeWorld)) {
	synctest.Test(t, func(t *testing.T) {
		w := &fakeWorld{boot: time.Now(), signals: make(chan os.Signal), agents: make(chan *fakeAgent, 1), obedient: true}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { newSupervisor(w, Limits{}).run(ctx, w.signals) })
		play(t, w)
		if t.Failed() {
			w.mu.Lock()
			t.Logf("log:\n%s", strings.Join(w.log, "\n"))
			w.mu.Unlock()
		}
		go func() { // exits that nobody waits for any more
			for {
				select {
				case <-w.signals:
				case <-ctx.Done():
					return
				}
			}
		}()
		cancel()
		running.Wait()
		if w.current != nil {
			w.current.raw.Close()
		}
		synctest.Wait()
	})
}

func TestAgentIsRestartedWithReplay(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		first := <-w.agents
		if got := first.replay(t); len(got) != 0 {
			t.Errorf("first replay: got %v, want nothing", got)
		}
		if err := first.Feed(); err != nil {
			t.Fatal(err)
		}
		w.end(Ended{PID: 7, Code: 3})
		if e, err := first.Receive(); err != nil || e.PID != 7 || e.Code != 3 {
			t.Errorf("got %+v, %v, want exit of 7 with 3", e, err)
		}
		first.die(syscall.SIGSEGV, Ended{PID: 8, Signal: syscall.SIGKILL})
		second := <-w.agents
		if got, want := second.replay(t), []int{7, 8}; !slices.Equal(got, want) {
			t.Errorf("second replay: got %v, want %v", got, want)
		}
		if got := w.outcome().killed; got != 0 {
			t.Errorf("services were killed %d times, want never", got)
		}
	})
}

func TestReplayKeepsTheLast(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		var ended []Ended
		for pid := range control.History + 10 {
			ended = append(ended, Ended{PID: 1000 + pid})
		}
		(<-w.agents).die(syscall.SIGKILL, ended...)
		got := (<-w.agents).replay(t)
		if len(got) != control.History || got[0] != 1010 || got[len(got)-1] != 1009+control.History {
			t.Errorf("got %d exits, %d to %d, want the last %d", len(got), got[0], got[len(got)-1], control.History)
		}
	})
}

func TestDeafAgentIsKilled(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		first := <-w.agents
		w.mu.Lock()
		for pid := range 2 * queueSize {
			w.zombies = append(w.zombies, Ended{PID: 1000 + pid})
		}
		w.mu.Unlock()
		if second := <-w.agents; second.pid == first.pid {
			t.Error("the same agent was started twice")
		}
		if !w.has("does not read") {
			t.Error("nothing was said about the deaf agent")
		}
	})
}

func TestAgentThatHangsUpIsKilled(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		(<-w.agents).raw.Close()
		<-w.agents
		if !w.has("runs on, unheard") {
			t.Error("nothing was said about the agent that hung up")
		}
	})
}

func TestCrashLoopEndsInReset(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		a := <-w.agents
		if err := a.Feed(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		starts := 0
		a.die(syscall.SIGABRT)
		for {
			select {
			case a := <-w.agents: // ends at once, without a feed
				starts++
				a.die(syscall.SIGABRT)
				continue
			case <-time.After(11 * time.Second):
			}
			break
		}
		time.Sleep(time.Minute)
		if w.outcome().stopped == nil || *w.outcome().stopped != Restart {
			t.Fatal("the machine was not restarted")
		}
		if got, want := w.outcome().fedAt, 30*time.Second; got > want {
			t.Errorf("watchdog last fed at %s, want not after %s", got, want)
		}
		// 0+0.1+0.2+...+6.4 = 12.7 s, then 10 s each until the watchdog's own time comes.
		if starts < 8 || starts > 11 {
			t.Errorf("got %d restarts, want them to back off", starts)
		}
		if w.outcome().killed != 1 {
			t.Errorf("services were killed %d times, want once", w.outcome().killed)
		}
	})
}

func TestHungAgentStarvesWatchdog(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		a := <-w.agents
		ctx, cancel := context.WithCancel(t.Context())
		go a.KeepFeeding(ctx, time.Second, func() bool { return true })
		time.Sleep(100*time.Second + time.Millisecond)
		if got := w.outcome().fedAt; got < 98*time.Second {
			t.Fatalf("watchdog last fed at %s, want it fed while the agent is well", got)
		}
		cancel()
		time.Sleep(9 * time.Second)
		if w.outcome().killed != 1 {
			t.Errorf("services were killed %d times, want once", w.outcome().killed)
		}
		time.Sleep(time.Minute)
		if got := w.outcome().fedAt; got > 109*time.Second {
			t.Errorf("watchdog last fed at %s, want not after 109 s", got)
		}
		if w.outcome().stopped == nil || *w.outcome().stopped != Restart || w.outcome().stoppedAt < 118*time.Second {
			t.Errorf("got stop %v at %s, want a restart after the watchdog had its time", w.outcome().stopped, w.outcome().stoppedAt)
		}
	})
}

func TestStartErrorIsTriedAgain(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		a := <-w.agents
		w.mu.Lock()
		w.startErr = errors.New("no memory")
		w.mu.Unlock()
		a.die(syscall.SIGKILL)
		time.Sleep(5 * time.Second)
		w.mu.Lock()
		w.startErr = nil
		w.mu.Unlock()
		<-w.agents
	})
}

func TestOrderlyStop(t *testing.T) {
	for name, test := range map[string]struct {
		ask      func(*fakeWorld, *fakeAgent)
		arrange  func(*fakeWorld)
		want     StopMode
		atLeast  time.Duration
		atMost   time.Duration
		complain string
	}{
		"asked by the agent": {
			ask: func(w *fakeWorld, a *fakeAgent) { a.Poweroff("done") }, want: PowerOff, atMost: time.Second},
		"last words of an agent": {
			ask:  func(w *fakeWorld, a *fakeAgent) { a.Reboot("bye"); a.die(syscall.SIGTERM) },
			want: Restart, atMost: time.Second},
		"Ctrl-Alt-Del": {
			ask: func(w *fakeWorld, a *fakeAgent) { w.signals <- syscall.SIGINT }, want: Restart, atMost: time.Second},
		"an agent that does not obey": {
			arrange: func(w *fakeWorld) { w.obedient = false },
			ask:     func(w *fakeWorld, a *fakeAgent) { a.Poweroff("done") }, want: PowerOff,
			atLeast: 3 * time.Second, atMost: 4 * time.Second, complain: "did not end"},
		"services that do not die": {
			arrange: func(w *fakeWorld) { w.services, w.immortal = true, true },
			ask:     func(w *fakeWorld, a *fakeAgent) { a.Poweroff("done") }, want: PowerOff,
			atLeast: 10 * time.Second, atMost: 11 * time.Second, complain: "forcing it"},
		"storage that does not answer": {
			arrange: func(w *fakeWorld) { w.unmount = make(chan struct{}) },
			ask:     func(w *fakeWorld, a *fakeAgent) { a.Reboot("done") }, want: Restart,
			atLeast: 10 * time.Second, atMost: 11 * time.Second, complain: "forcing it"},
	} {
		t.Run(name, func(t *testing.T) {
			supervised(t, func(t *testing.T, w *fakeWorld) {
				w.services = true
				if test.arrange != nil {
					test.arrange(w)
				}
				a := <-w.agents
				go io.Copy(io.Discard, bufio.NewReader(a.raw))
				began := w.Uptime()
				test.ask(w, a)
				time.Sleep(20 * time.Second)
				if w.unmount != nil {
					close(w.unmount)
				}
				if w.outcome().stopped == nil || *w.outcome().stopped != test.want {
					t.Fatalf("got stop %v, want %s", w.outcome().stopped, test.want)
				}
				if took := w.outcome().stoppedAt - began; took < test.atLeast || took > test.atMost {
					t.Errorf("took %s, want %s to %s", took, test.atLeast, test.atMost)
				}
				if w.outcome().killed == 0 {
					t.Error("services were not killed")
				}
				if test.complain != "" && !w.has(test.complain) {
					t.Errorf("log has no %q", test.complain)
				}
				if got := w.outcome().fedAt; w.outcome().stoppedAt-got > 2*time.Second {
					t.Errorf("watchdog last fed %s before the stop, want it fed to the end", w.outcome().stoppedAt-got)
				}
			})
		})
	}
}

func TestNonsenseFromTheAgent(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		a := <-w.agents
		go io.Copy(io.Discard, a.raw)
		fmt.Fprintf(a.raw, "hello\n%s\n", strings.Repeat("x", 3*control.MaxLine))
		if err := a.StopServices(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if w.outcome().killed != 1 {
			t.Errorf("services were killed %d times, want once: the request after the nonsense counts", w.outcome().killed)
		}
		if !w.has("control line skipped") {
			t.Error("nothing was said about the nonsense")
		}
	})
}
