package pathmtu

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
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

// TestLimitOnACable: the far end of a cable takes less than the near end's MTU promises, and drops the rest.
func TestLimitOnACable(t *testing.T) {
	needNamespace(t)
	if testing.Short() {
		t.Skip("two searches take a quarter of a minute: not in short mode")
	}
	// Both ends are here, so packets come in from this machine's own addresses.
	for _, key := range []string{"all/accept_local", "default/accept_local"} {
		must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+key, []byte("1"), 0))
	}
	for _, key := range []string{"all/rp_filter", "default/rp_filter"} {
		must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+key, []byte("0"), 0))
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "left"}, PeerName: "right"}
	must(t, netlink.LinkAdd(cable))
	t.Cleanup(func() { _ = netlink.LinkDel(cable) })
	right, err := netlink.LinkByName("right")
	must(t, err)
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	for i, l := range []netlink.Link{cable, right} {
		must(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: addrs[i].AsSlice(), Mask: net.CIDRMask(24, 32)}}))
		must(t, netlink.LinkSetUp(l))
	}
	must(t, netlink.LinkSetMTU(right, 1400))
	// The near end believes 1500; the far end drops what is longer than its own MTU
	// and a VLAN tag (is_skb_forwardable in the kernel).
	open := func(link string, mtu int, to netip.Addr, key string) (*Prober, chan struct{}) {
		changed := make(chan struct{}, 16)
		p := Open(Config{Log: slog.New(slog.DiscardHandler), Key: []byte(key), Port: 7702, pause: time.Second,
			Paths: func() []Path { return []Path{{Link: link, MTU: mtu, Peer: "peer of " + link, Addr: to}} }, OnChange: func() { changed <- struct{}{} }})
		t.Cleanup(p.Close)
		return p, changed
	}
	l, changed := open("left", 1500, addrs[1], "key")
	_, other := open("right", 1400, addrs[0], "key")
	select {
	case <-changed:
	case <-other:
		t.Fatal("the far end has no limit, and was told to have one")
	case <-time.After(time.Minute):
		t.Fatal("the limit was never found")
	}
	if got := l.Limits(); len(got) != 1 || got[0].Largest != 1404 || got[0].Link != "left" || got[0].Peer != "peer of left" {
		t.Errorf("got %+v, want 1404 on left", got)
	}
	must(t, netlink.LinkSetMTU(right, 1500))
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Fatal("that the limit is gone was never found")
	}
	if got := l.Limits(); len(got) != 0 {
		t.Errorf("got %+v after it was put right", got)
	}
}
