package machinekey

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestKeyOutlastsReboots: in a machine with UEFI firmware and no disk, three boots in a row find none, the first's key and
// the second's, which was written over the first's; one with a BIOS has no place for a key.
func TestKeyOutlastsReboots(t *testing.T) {
	const code, vars = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
	image := os.Getenv("SKEIN_IMAGE_DIR")
	if testing.Short() || image == "" {
		t.Skip("boots a virtual machine: run through 'make test', or set SKEIN_IMAGE_DIR")
	}
	data, err := os.ReadFile(vars)
	if err != nil {
		t.Skip("needs Debian's package ovmf:", err)
	}
	dir := t.TempDir()
	own := filepath.Join(dir, "vars.fd")
	if err := os.WriteFile(own, data, 0o600); err != nil {
		t.Fatal(err)
	}
	probe := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	archive := filepath.Join(dir, "initrd")
	if err := withProgram(archive, filepath.Join(image, "initramfs.cpio.zst"), probe); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		firmware   []string
	}{
		{"UEFI", "found none, found a, found b", []string{"-drive", "if=pflash,format=raw,readonly=on,file=" + code, "-drive", "if=pflash,format=raw,file=" + own}},
		{"BIOS", "no place, no place, no place", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			serial := filepath.Join(t.TempDir(), "serial")
			cmd := exec.Command("qemu-system-x86_64", append(tt.firmware, "-accel", "tcg", "-M", "q35", "-cpu", "max", "-m", "900", "-display", "none", "-net", "none",
				"-kernel", filepath.Join(image, "bzImage"), "-initrd", archive, "-append", "console=ttyS0 rdinit=/probe quiet panic=1", "-serial", "file:"+serial)...)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			if err := cmd.Start(); err != nil {
				t.Skip("no emulator:", err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			said := regexp.MustCompile(`PROBE ([^\r\n]+)\r?\n`)
			for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(200 * time.Millisecond) { // between two looks at the console
				data, _ := os.ReadFile(serial)
				var got []string
				for _, m := range said.FindAllSubmatch(data, 3) {
					got = append(got, string(m[1]))
				}
				if len(got) == 3 {
					if have := strings.Join(got, ", "); have != tt.want {
						t.Errorf("three boots: got %q, want %q", have, tt.want)
					}
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("the machine said %q only; %s; console: %.2000s", got, errs.String(), data)
				}
			}
		})
	}
}

// withProgram writes an archive that has one more program than another: the kernel takes several, one after the other
// (Documentation/driver-api/early-userspace/buffer-format.rst).
func withProgram(path, after, program string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	rest, err := os.ReadFile(after)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	pad := func(n int) { out.Write(make([]byte, (n-out.Len()%n)%n)) }
	for _, e := range []struct {
		name string
		mode int
		data []byte
	}{{"probe", 0o100755, data}, {"TRAILER!!!", 0, nil}} {
		fmt.Fprintf(&out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", 1, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, 0, 0, len(e.name)+1, 0, e.name)
		pad(4)
		out.Write(e.data)
		pad(4)
	}
	pad(512)
	out.Write(rest)
	return os.WriteFile(path, out.Bytes(), 0o600)
}
