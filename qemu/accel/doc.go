// Package accel finds out whether QEMU can use the processor's virtualisation (KVM) here, by booting a
// tiny program under it. Opening /dev/kvm proves nothing, and neither does running a few instructions:
// inside some virtual machines real-mode code runs and then hangs at the first switch of mode. So the
// program goes from real to long mode, which any kernel does in its first millisecond, and says so.
//
// No answer in time is "no". The answer is cached until the next boot of the host or a new QEMU.
package accel
