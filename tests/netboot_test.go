package tests

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/skein-os/skein/netboot"
	"github.com/skein-os/skein/qemu"
)

// TestNetworkBoot boots machines that have nothing but firmware and a network: BIOS by iPXE in the card's ROM, UEFI by
// iPXE that it loads by TFTP, and UEFI by the unified image.
func TestNetworkBoot(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines")
	}
	image := os.Getenv("SKEIN_IMAGE_DIR")
	if image == "" {
		t.Skip("SKEIN_IMAGE_DIR is not set: no image to boot")
	}
	for name, nb := range map[string]qemu.Netboot{
		"bios": {Firmware: netboot.BIOS}, "uefi": {Firmware: netboot.UEFIX64}, "unified": {Firmware: netboot.UEFIX64, Unified: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // much of it is waiting for firmware
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			nb.Image = image
			var last qemu.Event
			took, err := qemu.Boot(ctx, qemu.Config{
				Kernel: filepath.Join(image, "vmlinux"), Initrd: filepath.Join(image, "initramfs.cpio.lz4"),
				MemoryMB: 768, Netboot: &nb, OnEvent: func(e qemu.Event) {
					if e.Kind == qemu.EventBoot {
						last = e
					}
				},
			}, 1, regexp.MustCompile(`agent started`))
			if err != nil {
				t.Fatalf("%v; it got as far as: %s", err, last.Text)
			}
			if last.Text != string(netboot.StageBooted) {
				t.Errorf("the boot server saw it last at %q, want %q", last.Text, netboot.StageBooted)
			}
			t.Logf("power-on to the agent: %v", took[0].Round(100*time.Millisecond))
		})
	}
}
