package initramfs

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/initramfs/debian"
)

// cache is the package cache of a built image; the tests that need real packages take them from there,
// so that they need no network.
func cache(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SKEIN_IMAGE_DIR")
	if dir == "" {
		t.Skip("SKEIN_IMAGE_DIR is not set: no built image to take packages from")
	}
	return filepath.Dir(dir)
}

func archive(t *testing.T, dir string) *debian.Archive {
	t.Helper()
	pins, err := debian.DefaultPins()
	if err != nil {
		t.Fatal(err)
	}
	return &debian.Archive{Dir: dir, Pins: pins, Log: t.Output()}
}

// buildProbe compiles the first process of the guest tests.
func buildProbe(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "probe")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile the probe: %v\n%s", err, msg)
	}
	return out
}

func TestBuildSameBytesTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("compresses an image twice")
	}
	probe := buildProbe(t)
	o := Options{Skeind: probe, SAN: probe, Formats: []Format{FormatLab, FormatPXE}, Log: t.Output()}
	dir := cache(t)
	var manifests [2]Manifest
	for i := range manifests {
		o.Archive, o.Out = archive(t, dir), t.TempDir()
		m, built, err := Build(t.Context(), o)
		if err != nil || !built {
			t.Fatalf("build %d: built %v, %v", i, built, err)
		}
		manifests[i] = m
	}
	for i, f := range manifests[0].Files {
		if g := manifests[1].Files[i]; f != g {
			t.Errorf("got %+v and then %+v", f, g)
		}
	}
	// Unchanged input: left alone, until a file is damaged.
	if _, built, err := Build(t.Context(), o); err != nil || built {
		t.Errorf("unchanged input: built %v, %v; want it left alone", built, err)
	}
	if err := os.Truncate(filepath.Join(o.Out, LZ4Name), 1000); err != nil {
		t.Fatal(err)
	}
	if _, built, err := Build(t.Context(), o); err != nil || !built {
		t.Errorf("damaged output: built %v, %v; want it built again", built, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	lab := []Format{FormatLab}
	tests := map[string]struct {
		o    Options
		want string
	}{
		"no format":    {Options{Skeind: text}, "no format"},
		"no skeind":    {Options{Skeind: text + ".missing", Formats: lab}, "no such file"},
		"not ELF":      {Options{Skeind: text, Formats: lab}, "cannot be the first process"},
		"dynamic":      {Options{Skeind: "/bin/sh", Formats: lab}, "not static"},
		"unknown tool": {Options{Skeind: buildProbe(t), Formats: lab, Tools: []string{"vi"}}, `no tool "vi"`},
		"unknown kind": {Options{Skeind: buildProbe(t), Formats: lab, Profile: "toaster"}, `no module profile "toaster"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.o.Archive, test.o.Out, test.o.Log = archive(t, t.TempDir()), filepath.Join(t.TempDir(), "out"), t.Output()
			_, _, err := Build(t.Context(), test.o)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if _, err := os.Stat(test.o.Out); err == nil {
				t.Error("left an output folder")
			}
		})
	}
}

// TestGuest boots both formats in an emulated machine: every module loads in the order given, crun runs,
// and the demo's web image serves from a container with a read-only root and few capabilities.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine under emulation")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	o := Options{Archive: archive(t, cache(t)), Skeind: buildProbe(t), Out: t.TempDir(), Formats: []Format{FormatLab, FormatPXE}, Log: t.Output()}
	if _, _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	web := filepath.Join(os.Getenv("SKEIN_DEMO_DIR"), "web.tar")
	for _, files := range [][2]string{{VmlinuxName, LZ4Name}, {BzImageName, ZstdName}} {
		t.Run(files[0], func(t *testing.T) {
			args := []string{"-accel", "tcg", "-M", "q35", "-m", "512", "-nographic", "-no-reboot", "-nic", "none",
				"-kernel", filepath.Join(o.Out, files[0]), "-initrd", filepath.Join(o.Out, files[1]),
				"-append", "console=ttyS0 quiet panic=-1 cryptomgr.notests"}
			want := []string{"PROBE ok modules", "PROBE ok crun", "PROBE end"}
			if _, err := os.Stat(web); err == nil {
				args = append(args, "-drive", "file="+web+",format=raw,if=virtio,readonly=on")
				want = append(want, "PROBE ok web")
			}
			// A hang ends here; the time is no part of what is tested.
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			console, err := exec.CommandContext(ctx, qemu, args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, console)
			}
			for _, line := range want {
				if !bytes.Contains(console, []byte(line)) {
					t.Errorf("the console lacks %q", line)
				}
			}
			for _, bad := range []string{"PROBE fail", "PROBE panic", "Kernel panic", "Oops", "BUG:"} {
				if bytes.Contains(console, []byte(bad)) {
					t.Errorf("the console has %q", bad)
				}
			}
			if t.Failed() {
				t.Logf("console:\n%s", console)
			}
		})
	}
}
