package guest

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
)

// maxBoot ends a guest that hangs. It is no expectation of how long the tests take.
const maxBoot = 8 * time.Minute

// TestContainer runs the tests of agent/container that need crun on the kernel and with the crun that
// nodes have.
func TestContainer(t *testing.T) {
	console := boot(t, nil, "github.com/skein-os/skein/agent/container", "-test.v", "-test.run=Runtime")
	for _, want := range []string{"TestRuntimeLife", "TestRuntimeConfinement", "TestRuntimeLimits", "TestRuntimeAdopt"} {
		if !strings.Contains(console, "--- PASS: "+want) {
			t.Errorf("%s did not pass in the guest", want)
		}
	}
}

// boot runs the test program of a package in a guest, fails the test if that fails, and returns what the
// console said. modules are loaded on top of the image's.
func boot(t *testing.T, modules []string, pkg string, args ...string) string {
	t.Helper()
	g := prepare(t, modules, pkg, args...)
	ctx, cancel := context.WithTimeout(t.Context(), maxBoot)
	defer cancel()
	cmd := g.command(ctx, "")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var console strings.Builder
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		console.WriteString(lines.Text() + "\n")
		t.Log(strings.TrimRight(lines.Text(), "\r"))
	}
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("emulator: %v", err)
	}
	text := strings.ReplaceAll(console.String(), "\r", "")
	for _, bad := range []string{"Kernel panic", "Oops:", "BUG:"} {
		if strings.Contains(text, bad) {
			t.Errorf("the guest's kernel said %q", bad)
		}
	}
	if !strings.Contains(text, "SKEIN-GUEST exit 0\n") {
		t.Errorf("the tests in the guest failed")
	}
	return text
}

// guest is a test program in an archive with all it needs, ready to boot.
type guest struct{ qemu, kernel, initrd, line string }

// command is the emulator's command line, with more of the kernel's and of the emulator's.
func (g guest) command(ctx context.Context, line string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, g.qemu, append([]string{"-accel", "tcg", "-M", "q35", "-m", "768", "-nographic", "-nodefaults", "-serial", "stdio",
		"-no-reboot", "-kernel", g.kernel, "-initrd", g.initrd, "-append", g.line + line}, args...)...)
}

// prepare makes a guest of the test program of a package.
func prepare(t *testing.T, modules []string, pkg string, args ...string) guest {
	t.Helper()
	dir := os.Getenv("SKEIN_IMAGE_DIR")
	if dir == "" {
		t.Skip("needs an image to boot: set SKEIN_IMAGE_DIR, or use 'make test'")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	base, err := os.ReadFile(filepath.Join(dir, "initramfs.cpio.lz4"))
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	build := func(out string, args ...string) []byte {
		out = filepath.Join(tmp, out)
		cmd := exec.Command("go", append([]string{args[0], args[1], "-ldflags=-s -w", "-o", out}, args[2:]...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, msg)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, dir := range []string{strings.TrimPrefix(pkg, "github.com/skein-os/skein/"), "tests/guest/init", "tests/guest/box"} {
		readSources(t, filepath.Join("../..", dir))
	}
	var archive bytes.Buffer
	w := cpio.Newc.Writer(&archive)
	records := []cpio.Record{
		cpio.Directory("test", 0o755),
		cpio.StaticFile("test/init", string(build("init", "build", "-trimpath", "github.com/skein-os/skein/tests/guest/init")), 0o755),
		cpio.StaticFile("test/box", string(build("box", "build", "-trimpath", "github.com/skein-os/skein/tests/guest/box")), 0o755),
		cpio.StaticFile("test/program", string(build("program", "test", "-c", pkg)), 0o755),
	}
	for _, r := range append(records, moduleRecords(t, dir, modules)...) {
		if err := w.WriteRecord(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	// The kernel takes several archives one after the other, each beginning at a multiple of 4 bytes.
	archive.Write(make([]byte, -archive.Len()&511))
	archive.Write(base)
	initrd := filepath.Join(tmp, "initrd")
	if err := os.WriteFile(initrd, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	line := "console=ttyS0 quiet panic=-1 cryptomgr.notests rdinit=/test/init"
	for _, a := range args {
		line += " test.arg=" + a
	}
	return guest{qemu, filepath.Join(dir, "vmlinux"), initrd, line}
}

// readSources makes go test know that this test depends on the sources of a program that it builds: without
// having seen it read them, it would give the result of an earlier run.
func readSources(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources in %s: %v", dir, err)
	}
	for _, f := range files {
		if _, err := os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
}
