package pid1

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/pid1/control"
)

func lastWill(text string) control.Will {
	w := testWill(text)
	w.Links[0].Stopped, w.Links[0].Failed = []byte(text+", stopped"), []byte(text+", failed")
	return w
}

// texts are the different ones that were sent, in order.
func (w *fakeWorld) texts() (out []string) {
	for _, s := range w.sent() {
		if len(out) == 0 || out[len(out)-1] != s.text {
			out = append(out, s.text)
		}
	}
	return out
}

func TestLastWordsOfAnOrderlyStop(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(w *fakeWorld, a *fakeAgent)
		want []string
	}{
		"asked for by the agent": {func(w *fakeWorld, a *fakeAgent) { a.Reboot("operator") }, []string{"will, stopped"}},
		"Ctrl-Alt-Del":           {func(w *fakeWorld, a *fakeAgent) { w.signals <- syscall.SIGINT }, []string{"will, stopped"}},
		"power failure":          {func(w *fakeWorld, a *fakeAgent) { w.signals <- syscall.SIGPWR }, []string{"will, stopped"}},
		"the agent does not obey": {func(w *fakeWorld, a *fakeAgent) {
			w.mu.Lock()
			w.obedient = false
			w.mu.Unlock()
			w.signals <- syscall.SIGINT
		}, []string{"will, stopped"}},
		// Its peers wait for an agent that will not come.
		"while the agent is down": {func(w *fakeWorld, a *fakeAgent) {
			w.mu.Lock()
			w.startErr = errors.New("no memory")
			w.mu.Unlock()
			a.die(syscall.SIGKILL)
			time.Sleep(time.Second)
			w.signals <- syscall.SIGINT
		}, []string{"will", "will, stopped"}},
		// It was condemned, and so are its services: it is no news, and it is true.
		"after the services were killed": {func(w *fakeWorld, a *fakeAgent) { a.StopServices(); a.Reboot("condemned") }, []string{"will, stopped"}},
		"never asked for":                {func(w *fakeWorld, a *fakeAgent) { a.Feed() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			supervised(t, func(t *testing.T, w *fakeWorld) {
				a := <-w.agents
				a.leave(t, "x")
				if err := a.SetWill(lastWill("will")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				tc.end(w, a)
				time.Sleep(6 * time.Second)
				if got := w.texts(); !slices.Equal(got, tc.want) {
					t.Errorf("got %v, want %v", got, tc.want)
				}
				n := 0
				for _, s := range w.sent() {
					if s.text == "will, stopped" {
						n++
					}
				}
				if want := len(tc.want) > 0; (n == wordsTimes) != want {
					t.Errorf("last words were sent %d times, want %d: %v", n, wordsTimes, want)
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.kept != "will, failed" {
					t.Errorf("kept for a panic: %q", w.kept)
				}
			})
		})
	}
}

// TestWordsAfterAPanic lets a process panic as PID 1 would: what it had been left is sent, and then it ends.
func TestWordsAfterAPanic(t *testing.T) {
	if to := os.Getenv("SKEIN_TEST_WORDS_TO"); to != "" {
		w := control.Will{Links: []control.WillLink{{Link: "lo", Payload: []byte("will"), Failed: []byte("failed"), To: []netip.AddrPort{netip.MustParseAddrPort(to)}}}}
		new(Machine).KeepWords(w)
		func() {
			defer func() {
				_ = recover() // what dieOnPanic does but for ending the machine, which would be this one
				sayFailed()
			}()
			panic("of the test")
		}()
		os.Exit(3)
	}
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if err := sendWill(control.Will{Links: []control.WillLink{{Link: "lo", Payload: []byte("try"), To: []netip.AddrPort{netip.MustParseAddrPort(peer.LocalAddr().String())}}}}); errors.Is(err, unix.EPERM) {
		t.Skipf("binding to a link is not allowed here: %v", err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWordsAfterAPanic$")
	cmd.Env = append(os.Environ(), "SKEIN_TEST_WORDS_TO="+peer.LocalAddr().String())
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 3 {
		t.Fatalf("got %v, want exit status 3: %s", err, out)
	}
	if err := peer.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 1 + wordsTimes {
		buf := make([]byte, 100)
		n, _, err := peer.ReadFromUDP(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(buf[:n]))
	}
	if want := "try failed failed failed"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
