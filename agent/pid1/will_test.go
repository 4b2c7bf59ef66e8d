package pid1

import (
	"io"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-os/skein/agent/pid1/control"
)

func testWill(text string) control.Will {
	return control.Will{PatienceMS: 8000, Links: []control.WillLink{{
		Link: "eth0", Payload: []byte(text), To: []netip.AddrPort{netip.MustParseAddrPort("10.77.0.2:7700")}}}}
}

// leave has the agent leave a will; what it hears is thrown away.
func (a *fakeAgent) leave(t *testing.T, text string) {
	t.Helper()
	go io.Copy(io.Discard, a.raw)
	if err := a.SetWill(testWill(text)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestWillIsSentUntilTheNextAgentLeavesItsOwn(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		a := <-w.agents
		a.leave(t, "old")
		a.leave(t, "first")
		died := w.Uptime()
		a.die(syscall.SIGSEGV)
		synctest.Wait()
		if got := w.sent(); len(got) != 1 || got[0] != (sentWill{died, "first"}) {
			t.Fatalf("at the agent's end: got %v, want the newest will, once, at %v", got, died)
		}
		b := <-w.agents
		if w.Uptime() != died {
			t.Errorf("the first restart came after %v, want it at once", w.Uptime()-died)
		}
		time.Sleep(time.Second)
		if got := len(w.sent()); got < 4 || got > 5 {
			t.Errorf("got %d sendings in the first second, want one every %v", got, willInterval)
		}
		b.leave(t, "second")
		before := len(w.sent())
		time.Sleep(20 * time.Second)
		if got := w.sent(); len(got) != before {
			t.Errorf("got %v after the new agent's will, want no more", got[before:])
		}
		b.die(syscall.SIGKILL)
		synctest.Wait()
		if got := w.sent(); len(got) != before+1 || got[before].text != "second" {
			t.Errorf("at the second end: got %v, want the second will", got[before:])
		}
		(<-w.agents).leave(t, "third")
	})
}

// An agent that cannot start again and again is waited for no longer than the first time.
func TestWillIsNotProlongedByACrashLoop(t *testing.T) {
	supervised(t, func(t *testing.T, w *fakeWorld) {
		a := <-w.agents
		a.leave(t, "will")
		died := w.Uptime()
		a.die(syscall.SIGABRT)
		for w.Uptime() < died+15*time.Second {
			select {
			case a := <-w.agents:
				a.die(syscall.SIGABRT)
			case <-time.After(time.Second):
			}
		}
		got := w.sent()
		if last := got[len(got)-1].at - died; last >= 8*time.Second || last < 7*time.Second {
			t.Errorf("last sent %v after the agent's end, want just below its patience of 8 s", last)
		}
	})
}

func TestNoWill(t *testing.T) {
	for name, end := range map[string]func(w *fakeWorld, a *fakeAgent){
		"the agent ended in order":          func(w *fakeWorld, a *fakeAgent) { a.raw.Close(); w.end(Ended{PID: a.pid}) },
		"it asked for a reboot":             func(w *fakeWorld, a *fakeAgent) { a.Reboot("condemned") },
		"it asked for power-off":            func(w *fakeWorld, a *fakeAgent) { a.Poweroff("done") },
		"the operator pressed Ctrl-Alt-Del": func(w *fakeWorld, a *fakeAgent) { w.signals <- syscall.SIGINT },
		"services were stopped": func(w *fakeWorld, a *fakeAgent) {
			a.StopServices()
			a.SetWill(testWill("too late"))
			synctest.Wait()
			a.die(syscall.SIGKILL)
		},
		"it hung until its services were killed": func(w *fakeWorld, a *fakeAgent) {
			a.Feed()
			time.Sleep(9 * time.Second)
			a.die(syscall.SIGKILL)
		},
		"it never left one": nil,
	} {
		t.Run(name, func(t *testing.T) {
			supervised(t, func(t *testing.T, w *fakeWorld) {
				a := <-w.agents
				go io.Copy(io.Discard, a.raw)
				if end == nil {
					a.die(syscall.SIGKILL)
				} else {
					a.leave(t, "will")
					end(w, a)
				}
				time.Sleep(5 * time.Second)
				if got := w.sent(); len(got) != 0 {
					t.Errorf("got %v, want nothing sent", got)
				}
				select {
				case <-w.agents:
				default:
				}
			})
		})
	}
}
