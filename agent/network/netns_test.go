package network

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

// The whole test binary runs in a network namespace of its own, so that every thread of it is there.
const inNamespace = "SKEIN_TEST_NETNS"

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is bound to this thread
	if err := cmd.Start(); err != nil {
		noNamespace = fmt.Sprintf("cannot make a network namespace: %v", err)
		os.Exit(m.Run())
	}
	if err := cmd.Wait(); err != nil {
		os.Exit(1)
	}
}

// noNamespace says why tests that need one are skipped.
var noNamespace string

func needNamespace(t testing.TB) {
	t.Helper()
	if noNamespace != "" {
		t.Skip(noNamespace)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is another machine: a namespace.
type host struct{ ns netns.NsHandle }

// do runs f on a thread in the host's namespace, which ends with it. Sockets stay in the namespace they were
// opened in.
func (h host) do(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		if err := netns.Set(h.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	must(t, <-done)
}

// newHost makes a host that is wired to this namespace: the wire's ends are called here and there.
func newHost(t testing.TB, here, there string, addr netip.Prefix) host {
	t.Helper()
	made := make(chan host, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.New()
		if err != nil {
			made <- host{}
			return
		}
		made <- host{ns}
	}()
	h := <-made
	if h.ns == 0 {
		t.Fatal("cannot make a second network namespace")
	}
	t.Cleanup(func() { _ = h.ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = here
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: there}
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	peer, err := netlink.LinkByName(there)
	must(t, err)
	must(t, netlink.LinkSetNsFd(peer, int(h.ns)))
	must(t, netlink.LinkSetUp(veth))
	h.do(t, func() error {
		for _, name := range []string{"lo", there} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return addAddr(there, addr)
	})
	return h
}

func addAddr(link string, addr netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), 32)}})
}
