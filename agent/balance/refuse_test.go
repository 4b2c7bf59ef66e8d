package balance

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// refused runs f on a thread that the kernel lets change nothing of its network.
func refused(t testing.TB, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&head, &none[0]); err != nil {
			t.Errorf("give up capabilities: %v", err)
		}
		done <- f()
	}()
	return <-done
}

// What the kernel refuses to withdraw is said to be still held, is not renewed, and ends with the lease that it
// was given before.
func TestRefusedWithdrawal(t *testing.T) {
	l := newLAN(t)
	must(t, l.Hold([]netip.Addr{vip, vip2}, Now()+time.Minute))
	c := l.dial(t, vip)
	await(t, "an answer", func() bool { return ask(t, c, 100*time.Millisecond) })
	if err := refused(t, func() error { return l.Hold([]netip.Addr{vip2}, Now()+time.Hour) }); !errors.Is(err, ErrStillHeld) {
		t.Fatalf("got %v, want %v", err, ErrStillHeld)
	}
	if !ask(t, c, time.Second) {
		t.Fatal("the test proves nothing: the address does not answer")
	}
	// Asked again: it is not forgotten.
	if err := refused(t, func() error { return l.Hold(nil, 0) }); !errors.Is(err, ErrStillHeld) {
		t.Errorf("got %v the second time, want %v", err, ErrStillHeld)
	}
	must(t, l.Hold([]netip.Addr{vip2}, Now()+time.Minute))
	if ask(t, c, 200*time.Millisecond) {
		t.Error("a withdrawn address answered")
	}
	// To be refused a new address is no danger to anybody.
	err := refused(t, func() error { return l.Hold([]netip.Addr{vip, vip2}, Now()+time.Minute) })
	if err == nil || errors.Is(err, ErrStillHeld) {
		t.Errorf("got %v for a refused new address, want an error that is not %v", err, ErrStillHeld)
	}
	must(t, l.Hold([]netip.Addr{vip}, Now()+time.Minute))
	await(t, "an answer again", func() bool { return ask(t, c, 100*time.Millisecond) })
}
