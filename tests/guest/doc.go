// Package guest runs tests that need a kernel of their own: as PID 1's child in a virtual machine with
// cgroup v2, every module, and nothing of the host. It takes the test program of another package, puts it
// into the image together with a small init, boots that without any network, and checks what the console
// says. So one test serves twice: on the developer's machine as far as that can, in the guest as a whole.
//
// A test may want kernel modules that no node needs, such as those of a storage target. They come from the
// pinned kernel package and are in the test's archive only.
//
// It is skipped where there is no image (SKEIN_IMAGE_DIR: vmlinux and initramfs.cpio.lz4) or no emulator.
package guest
