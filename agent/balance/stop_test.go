package balance

import (
	"bufio"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

const holderEnv = "SKEIN_TEST_HOLDER"

// TestHolderProcess is not a test: it is the agent that TestStoppedAgent stops. It holds the address and
// renews its lease until its input ends.
func TestHolderProcess(t *testing.T) {
	if os.Getenv(holderEnv) == "" {
		t.Skip("only run by TestStoppedAgent")
	}
	b, err := Open(Config{Log: slog.New(slog.DiscardHandler), Node: nodeIP, Subnet: subnet, Bridge: "skein0"})
	must(t, err)
	defer b.Close()
	must(t, b.SetLinks([]string{"lan0"}, nil))
	for {
		// The last renewal that a majority acknowledged is faked: it is now.
		must(t, b.Hold([]netip.Addr{vip}, Now()+testLease))
		if _, err := fmt.Println("held"); err != nil {
			return
		}
		time.Sleep(testLease / 8)
	}
}

// An agent that is stopped (SIGSTOP, a debugger, a livelock of its runtime) goes dark while its address is
// still configured and its service still runs.
func TestStoppedAgent(t *testing.T) {
	l := newLAN(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHolderProcess$")
	cmd.Env = append(os.Environ(), holderEnv+"=1")
	runtime.LockOSThread() // Pdeathsig is bound to this thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := make(chan struct{}, 1)
	go func() { // ends with the process
		for r := bufio.NewScanner(out); r.Scan(); {
			select {
			case lines <- struct{}{}:
			default:
			}
		}
	}()
	<-lines
	c := l.dial(t, vip)
	await(t, "an answer", func() bool { return ask(t, c, 100*time.Millisecond) })
	must(t, cmd.Process.Signal(syscall.SIGSTOP))
	stopped := Now()
	var last time.Duration
	for Now() < stopped+testLease+300*time.Millisecond {
		if ask(t, c, 30*time.Millisecond) {
			last = Now()
		}
	}
	t.Logf("the last answer came %v after the stop (lease %v)", last-stopped, testLease)
	seen := l.echoes.Load()
	if ask(t, c, 200*time.Millisecond) || l.echoes.Load() != seen {
		t.Error("a stopped agent's address answers after the end of its lease")
	}
	if !l.onLoopback(t, vip) {
		t.Error("the test proves nothing: the address is gone")
	}
	must(t, cmd.Process.Signal(syscall.SIGCONT))
	await(t, "an answer after the agent goes on", func() bool { return ask(t, c, 100*time.Millisecond) })
}
