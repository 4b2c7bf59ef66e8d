package tests

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/images/disk"
	"github.com/skein-os/skein/images/secureboot"
	"github.com/skein-os/skein/images/uki"
	"github.com/skein-os/skein/initramfs"
)

// Firmware of Debian's package ovmf: with and without Secure Boot, which needs System Management Mode.
const (
	ovmfCode       = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfSecureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfVars       = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// How an image is attached to a machine.
var attached = map[string][]string{
	"disk": {"-device", "virtio-blk-pci,drive=boot,bootindex=1"},
	"usb":  {"-device", "qemu-xhci", "-device", "usb-storage,drive=boot,bootindex=1,removable=on"},
	"cd":   {"-device", "ich9-ahci,id=sata", "-device", "ide-cd,bus=sata.0,drive=boot,bootindex=1"},
}

// bootParts are what the disk image is made of, around a command line that is quick to boot under emulation.
func bootParts(t *testing.T) (uki.Parts, disk.BIOS) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines")
	}
	folder := os.Getenv(guestDir)
	if folder == "" {
		t.Skip(guestDir + " is not set: no image to boot")
	}
	p := uki.Parts{Cmdline: initramfs.Cmdline + " cryptomgr.notests", OSRelease: "ID=skein\n"}
	for name, to := range map[string]*[]byte{initramfs.StubName: &p.Stub, initramfs.BzImageName: &p.Kernel, initramfs.ZstdName: &p.Initrd} {
		var err error
		if *to, err = os.ReadFile(filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := initramfs.LoadBIOS(folder, os.ReadFile)
	if err != nil {
		t.Fatalf("%v: build the image with --format raw, too", err)
	}
	return p, b
}

// firmwareMachine boots a machine that has nothing but firmware and an image, and returns once its console has a line
// with one of the texts, and which.
func firmwareMachine(t *testing.T, limit time.Duration, args []string, texts ...string) string {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, append([]string{"-accel", "tcg", "-cpu", "max", "-m", "768", "-nodefaults", "-display", "none",
		"-no-reboot", "-serial", "stdio"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var console []string
	s := bufio.NewScanner(out)
	for s.Scan() {
		console = append(console, strings.TrimSpace(s.Text()))
		for _, text := range texts {
			if strings.Contains(s.Text(), text) {
				return text
			}
		}
	}
	t.Fatalf("the machine never said %q\nconsole:\n%s\nqemu: %s", texts, strings.Join(console, "\n"), stderr.String())
	return ""
}

func drive(file, format string) []string {
	return []string{"-drive", "if=none,id=boot,snapshot=on,format=" + format + ",file=" + file}
}

func pflash(code, vars string) []string {
	return []string{"-drive", "if=pflash,format=raw,readonly=on,file=" + code, "-drive", "if=pflash,format=raw,snapshot=on,file=" + vars}
}

// TestBootMedia boots the one image as a disk, a USB stick and a CD, by BIOS and by UEFI, up to PID 1.
func TestBootMedia(t *testing.T) {
	p, bios := bootParts(t)
	unified, err := uki.Join(p)
	if err != nil {
		t.Fatal(err)
	}
	image, err := disk.Join(disk.Parts{Unified: unified, Cmdline: p.Cmdline, BIOS: bios})
	if err != nil {
		t.Fatal(err)
	}
	again, err := disk.Join(disk.Parts{Unified: unified, Cmdline: p.Cmdline, BIOS: bios})
	if err != nil || !bytes.Equal(image, again) {
		t.Errorf("the same parts gave other bytes (%v)", err)
	}
	dir := t.TempDir()
	raw, q := filepath.Join(dir, "skein.img"), filepath.Join(dir, "skein.qcow2")
	if err := os.WriteFile(raw, image, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(q)
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteQCOW2(f, image); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"disk", "usb", "cd"} {
		for _, firmware := range []string{"bios", "uefi"} {
			t.Run(firmware+"/"+how, func(t *testing.T) {
				t.Parallel()
				args := append([]string{"-M", "q35,graphics=off"}, attached[how]...)
				if how == "disk" && firmware == "bios" {
					args = append(args, drive(q, "qcow2")...) // one of them with the other format
				} else {
					args = append(args, drive(raw, "raw")...)
				}
				if firmware == "uefi" {
					args = append(args, pflash(ovmfCode, ovmfVars)...)
				}
				begin := time.Now()
				firmwareMachine(t, 4*time.Minute, args, bootLine)
				t.Logf("power-on to PID 1: %v", time.Since(begin).Round(100*time.Millisecond))
			})
		}
	}
}

// TestSecureBoot gives a machine the site's keys: it boots the image that they signed, and neither one without a
// signature nor one that was changed after it was signed.
func TestSecureBoot(t *testing.T) {
	p, _ := bootParts(t)
	dir := t.TempDir()
	if err := secureboot.Create(filepath.Join(dir, "keys"), "Test", time.Now()); err != nil {
		t.Fatal(err)
	}
	keys, err := secureboot.Load(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	blank, err := os.ReadFile(ovmfVars)
	if err != nil {
		t.Fatal(err)
	}
	vars, err := keys.Enrol(blank)
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "vars.fd")
	if err := os.WriteFile(store, vars, 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := uki.Join(p)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := keys.Sign(plain)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := keys.Sign(plain); err != nil || !bytes.Equal(signed, again) {
		t.Errorf("the same program signed twice has other bytes (%v)", err)
	}
	changed := bytes.Clone(signed)
	changed[bytes.Index(changed, []byte("panic=-1"))] = 'q'
	const refused = "Access Denied"
	for name, c := range map[string]struct {
		image []byte
		want  string
	}{"signed": {signed, bootLine}, "unsigned": {plain, refused}, "changed": {changed, refused}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image, err := disk.Join(disk.Parts{Unified: c.image})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, name+".img")
			if err := os.WriteFile(file, image, 0o644); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"-M", "q35,graphics=off,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"}, attached["disk"]...)
			args = append(append(args, drive(file, "raw")...), pflash(ovmfSecureCode, store)...)
			if got := firmwareMachine(t, 4*time.Minute, args, bootLine, refused); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
