package tests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/skein-os/skein/agent/pid1"
)

// guestDir names in the environment the folder with the image for the lab: vmlinux and initramfs.cpio.lz4.
const guestDir = "SKEIN_IMAGE_DIR"

// bootLine is what PID 1 says first, once for each life of the machine.
const bootLine = "PID 1 runs since"

// pid1Machine boots the real PID 1 with a scripted agent (tests/guest/pid1init).
type pid1Machine struct {
	cmd   *exec.Cmd
	lines chan string
	log   []string
	boots int
}

func bootPID1(t *testing.T, scenario string) *pid1Machine {
	t.Helper()
	dir := os.Getenv(guestDir)
	if dir == "" {
		t.Skip(guestDir + " is not set: no kernel to boot")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	// The machine must end before the test's own deadline, so that its console is in the report.
	ctx := context.Context(t.Context())
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-5*time.Second))
		t.Cleanup(cancel)
	}
	cmd := exec.CommandContext(ctx, qemu, "-M", "q35", "-accel", "tcg", "-m", "512", "-nodefaults", "-display", "none",
		"-serial", "stdio", "-device", "i6300esb", "-action", "watchdog=reset",
		"-kernel", filepath.Join(dir, "vmlinux"), "-initrd", pid1Archive(t, dir),
		"-append", "console=ttyS0 quiet panic=-1 cryptomgr.notests rdinit=/"+pid1Init+" skein.test="+scenario)
	m := &pid1Machine{cmd: cmd, lines: make(chan string)}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(m.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			select {
			case m.lines <- strings.TrimSpace(s.Text()):
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range m.lines { // what nobody waited for
		}
		<-read
		cmd.Wait()
		if t.Failed() {
			t.Logf("console:\n%s\nqemu: %s", strings.Join(m.log, "\n"), stderr.String())
		}
	})
	return m
}

// pid1Init is where the test's init lies in the machine, beside the image's own.
const pid1Init = "pid1init"

// pid1Archive makes the initramfs: the image as it is shipped, behind a small archive with the test's init. The
// kernel unpacks one after the other.
func pid1Archive(t *testing.T, dir string) string {
	t.Helper()
	image, err := os.Open(filepath.Join(dir, "initramfs.cpio.lz4"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	binary := filepath.Join(t.TempDir(), pid1Init)
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", binary, "./guest/pid1init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test's init: %v\n%s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Create(filepath.Join(t.TempDir(), "initramfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	w := cpio.Newc.Writer(archive)
	if err := w.WriteRecord(cpio.StaticFile(pid1Init, string(program), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	// The next archive must begin at a multiple of four bytes (the kernel's buffer-format.rst).
	end, err := archive.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Write(make([]byte, (4-end%4)%4)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(archive, image); err != nil {
		t.Fatal(err)
	}
	return archive.Name()
}

// until reads the console up to a line that has the text, and returns that line from the text on.
func (m *pid1Machine) until(t *testing.T, text string) string {
	t.Helper()
	for line := range m.lines {
		m.log = append(m.log, line)
		if strings.Contains(line, bootLine) {
			if m.boots++; m.boots > 2 { // no scenario has more; do not go round for ever
				t.Fatalf("waiting for %q, the machine restarted again", text)
			}
		}
		if _, after, ok := strings.Cut(line, text); ok {
			return after
		}
		for _, bad := range []string{"Kernel panic", "Oops", "BUG:", "TEST error", "TEST missing"} {
			if strings.Contains(line, bad) {
				t.Fatalf("waiting for %q, the console said %q", text, line)
			}
		}
	}
	t.Fatalf("the machine ended before it said %q", text)
	return ""
}

// want reads up to the agent's finding named key and compares it.
func (m *pid1Machine) want(t *testing.T, key, want string) {
	t.Helper()
	if got := m.until(t, "TEST "+key+"="); got != want {
		t.Errorf("%s: got %q, want %q", key, got, want)
	}
}

// off waits until the machine powers itself off.
func (m *pid1Machine) off(t *testing.T) {
	t.Helper()
	m.until(t, "poweroff now")
	for line := range m.lines {
		m.log = append(m.log, line)
		if strings.Contains(line, bootLine) {
			t.Fatal("the machine restarted, want it off")
		}
	}
}

func TestPID1BootsAndPowersOff(t *testing.T) {
	m := bootPID1(t, "boot")
	t.Logf("agent start, ms after the kernel's: %s", m.until(t, "TEST agent_start_ms="))
	var boot pid1.Report
	if err := json.Unmarshal([]byte(m.until(t, "TEST boot=")), &boot); err != nil {
		t.Fatal(err)
	}
	t.Logf("PID 1 at %d ms, watchdog armed at %d ms, ready at %d ms", boot.StartMS, boot.ArmedMS, boot.ReadyMS)
	if got, want := boot.Watchdog, "i6300ESBtimer"; got != want {
		t.Errorf("watchdog: got %q (%s), want %q", got, boot.WatchdogError, want)
	}
	if got, want := boot.WatchdogTimeoutS, 4; got != want {
		t.Errorf("watchdog timeout: got %d s, want %d s", got, want)
	}
	if len(boot.ModulesFailed) > 0 {
		t.Errorf("modules failed: %q", boot.ModulesFailed)
	}
	for _, key := range []string{"pid1_VmRSS", "pid1_RssAnon", "pid1_VmHWM", "mem_free"} {
		t.Logf("%s %s", key, m.until(t, "TEST "+key+"="))
	}
	m.want(t, "cgroup", "0::/skein.agent")
	m.want(t, "oom_score_adj", "-900")
	m.want(t, "ignored_signals", "0000000000000000") // services would inherit them
	controllers := m.until(t, "TEST controllers=")
	for _, c := range []string{"cpu", "memory", "pids", "io"} {
		if !strings.Contains(controllers, c) {
			t.Errorf("controllers of services: got %q, want %s among them", controllers, c)
		}
	}
	m.want(t, "panic", "-1")
	m.want(t, "pivot", "entries:0")
	m.off(t)
}

func TestPID1RestartsAgentWhileServicesRun(t *testing.T) {
	m := bootPID1(t, "restart")
	m.until(t, "agent ended by signal: killed")
	m.want(t, "orphan_exits_seen", "1")
	m.want(t, "helper_killed", "true")
	m.want(t, "service_lives", "true")
	m.want(t, "service_exit_seen", "1")
	m.off(t)
}

func TestPID1PanicReboots(t *testing.T) {
	m := bootPID1(t, "panic")
	m.until(t, bootLine)
	m.until(t, "PID 1 panic: asked for by the test")
	m.until(t, bootLine)
}

func TestPID1HangIsResetByWatchdog(t *testing.T) {
	m := bootPID1(t, "hang")
	m.until(t, bootLine)
	m.until(t, bootLine)
	m.want(t, "reset_by_watchdog", "true")
	m.off(t)
}

func TestPID1StarvingAgentIsResetByWatchdog(t *testing.T) {
	m := bootPID1(t, "starve")
	m.until(t, "services killed, the watchdog will reset this machine")
	m.until(t, bootLine)
	m.want(t, "reset_by_watchdog", "true")
	m.off(t)
}

func TestPID1StopsStubbornAgent(t *testing.T) {
	m := bootPID1(t, "stubborn")
	m.until(t, "the agent did not end")
	m.off(t)
}
