package cabling

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/skein-os/skein/agent/cluster"
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

// see waits until the ports of a watcher are as wanted.
func see(t *testing.T, w *Watcher, what string, ready func(p cluster.EthernetPort) bool) cluster.EthernetPort {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		list := w.Ports()
		if len(list) == 1 && ready(list[0]) {
			return list[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: never came, got %+v", what, list)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

// TestTwoEndsOfACable: two systems on one cable hear each other, and know when they do not any more.
func TestTwoEndsOfACable(t *testing.T) {
	needNamespace(t)
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "left", MTU: 1400}, PeerName: "right"}
	must(t, netlink.LinkAdd(cable))
	t.Cleanup(func() { _ = netlink.LinkDel(cable) })
	right, err := netlink.LinkByName("right")
	must(t, err)
	must(t, netlink.LinkSetUp(cable))
	must(t, netlink.LinkSetUp(right))
	must(t, netlink.AddrAdd(cable, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}}))
	open := func(name string) *Watcher {
		w, err := Watch(Config{Log: slog.New(slog.DiscardHandler), Self: Identity{MachineID: "machine of " + name, Name: name, Software: "test"},
			IsPort: func(l netlink.Link) bool { return l.Attrs().Name == name }})
		must(t, err)
		return w
	}
	l, r := open("left"), open("right")
	defer l.Close(false)
	goodbye := sync.OnceFunc(func() { r.Close(true) })
	defer goodbye()
	heard := func(p cluster.EthernetPort) bool { return p.Carrier && len(p.Neighbours) == 1 && p.Neighbours[0].Heard }
	got := see(t, l, "the other end", heard)
	want := cluster.Neighbour{Chassis: "machine of right", System: "right", Port: "right", Description: right.Attrs().HardwareAddr.String(), MaxFrame: right.Attrs().MTU + headerBytes, Heard: true}
	if got.Neighbours[0] != want || got.MTU != 1400 || len(got.Addrs) != 1 || got.Addrs[0].String() != "192.0.2.1/24" {
		t.Errorf("got %+v, want the neighbour %+v, MTU 1400 and 192.0.2.1/24", got, want)
	}
	see(t, r, "this end", heard)

	must(t, netlink.LinkSetDown(right))
	gone := see(t, l, "no carrier", func(p cluster.EthernetPort) bool { return !p.Carrier && !heard(p) })
	if len(gone.Neighbours) != 1 || gone.Neighbours[0].Heard || gone.Neighbours[0].Port != "right" {
		t.Errorf("without carrier: got %+v, want the neighbour as last heard", gone.Neighbours)
	}
	must(t, netlink.LinkSetUp(right))
	see(t, l, "the other end again", heard)

	must(t, netlink.LinkSetMTU(right, 1300))
	see(t, l, "a new MTU", func(p cluster.EthernetPort) bool { return heard(p) && p.Neighbours[0].MaxFrame == 1300+headerBytes })

	goodbye()
	see(t, l, "the end of the other", func(p cluster.EthernetPort) bool { return p.Carrier && !heard(p) })
}
