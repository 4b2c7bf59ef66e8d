// Package netspace gives tests network namespaces: the whole test binary runs in one of its own, and further ones
// are the machines it talks to. Without the right to make one, tests are skipped.
package netspace

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inside is set in the environment of a test binary that is in its namespace.
const inside = "SKEIN_TEST_NETSPACE"

var missing string

// Main is a package's TestMain: it runs the tests in a namespace of their own, so that every thread is there.
func Main(m *testing.M) {
	if os.Getenv(inside) != "" {
		if err := up("lo"); err != nil {
			missing = fmt.Sprintf("cannot bring up the loopback of a network namespace: %v", err)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is bound to this thread
	if err := cmd.Start(); err != nil {
		missing = fmt.Sprintf("cannot make a network namespace: %v", err)
		os.Exit(m.Run())
	}
	if err := cmd.Wait(); err != nil {
		os.Exit(1)
	}
}

// Need skips a test that must have a namespace.
func Need(t testing.TB) {
	t.Helper()
	if missing != "" {
		t.Skip(missing)
	}
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// Machine is another namespace.
type Machine struct{ ns netns.NsHandle }

// New makes a machine that is wired to this namespace: the wire's ends are called here and there.
func New(t testing.TB, here, there string) Machine {
	t.Helper()
	made := make(chan error, 1)
	var m Machine
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		var err error
		m.ns, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = here
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: there}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	peer, err := netlink.LinkByName(there)
	if err == nil {
		err = netlink.LinkSetNsFd(peer, int(m.ns))
	}
	if err == nil {
		err = up(here)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.Do(t, func() error {
		if err := up("lo"); err != nil {
			return err
		}
		return up(there)
	})
	return m
}

// Do runs f on a thread in the machine's namespace, which ends with it. Sockets stay in the namespace they were opened in.
func (m Machine) Do(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := netns.Set(m.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Address gives a link of the calling thread's namespace an address.
func Address(link string, addr netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), 32)}})
}
