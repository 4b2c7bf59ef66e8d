package cabling

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/qemu/ethernet"
)

// tap plugs the far end of a veth into a switch of the lab.
type tap struct{ file *os.File }

func (t tap) WriteFrames(frames [][]byte) error {
	for _, f := range frames {
		if _, err := t.file.Write(f); err != nil && !errors.Is(err, unix.ENETDOWN) { // no carrier: it is lost
			return err
		}
	}
	return nil
}

func plugIn(t *testing.T, sw *ethernet.Switch, name string) *ethernet.Port {
	t.Helper()
	far, err := netlink.LinkByName(name)
	must(t, err)
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: far.Attrs().Index}))
	// What is sent into the cable here would come back as sent.
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	file := os.NewFile(uintptr(fd), name)
	port := sw.Attach("n3", tap{file})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, ethernet.MaxFrame)
		for {
			n, err := file.Read(buf)
			if errors.Is(err, unix.ENETDOWN) {
				continue // told once
			}
			if err != nil {
				return
			}
			port.Receive(slices.Clone(buf[:n]))
		}
	}()
	t.Cleanup(func() { file.Close(); <-done; port.Detach() })
	return port
}

// TestCableIntoTheWrongSwitch: the ports of a node in the lab's own switches, one of which is moved. The watcher knows
// which switch each is in, and what is told of it names both.
func TestCableIntoTheWrongSwitch(t *testing.T) {
	needNamespace(t)
	if testing.Short() {
		t.Skip("waits for carriers: not in short mode")
	}
	var switches [2]*ethernet.Switch
	for i := range switches {
		switches[i] = ethernet.New()
		switches[i].SetName("sw-"+string(rune('a'+i)), ethernet.MAC{2, 0, 0, 0, 0, byte(i)}, time.Second)
	}
	var moved *ethernet.Port
	var far netlink.Link
	for i, sw := range switches {
		near := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("p%d", i)}, PeerName: fmt.Sprintf("far%d", i)}
		must(t, netlink.LinkAdd(near))
		t.Cleanup(func() { _ = netlink.LinkDel(near) })
		var err error
		far, err = netlink.LinkByName(near.PeerName)
		must(t, err)
		must(t, netlink.LinkSetUp(near))
		must(t, netlink.LinkSetUp(far))
		moved = plugIn(t, sw, near.PeerName)
	}
	w, err := Watch(Config{Log: slog.New(slog.DiscardHandler), Self: Identity{MachineID: "m3", Name: "n3", Software: "test"},
		IsPort: func(l netlink.Link) bool { return l.Attrs().Name == "p0" || l.Attrs().Name == "p1" }})
	must(t, err)
	defer w.Close(false)
	var announced time.Time
	// wait returns the node's record when the switches are heard as wanted.
	wait := func(want string) *cluster.NodePorts {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			if time.Since(announced) > 500*time.Millisecond { // as they do by the clock
				announced = time.Now()
				for _, s := range switches {
					s.Announce()
				}
			}
			r := &cluster.NodePorts{Node: "n3", Ports: w.Ports()}
			var at []string
			for i := range r.Ports {
				r.Ports[i].Addrs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 28)}
				at = append(at, r.Ports[i].Where())
			}
			got := strings.Join(at, "; ")
			if got == want {
				r.Faults = Faults(r, &cluster.State{})
				return r
			}
			if time.Now().After(deadline) {
				t.Fatalf("got %q, want %q", got, want)
			}
			time.Sleep(20 * time.Millisecond) // between two looks
		}
	}
	right := wait("on switch sw-a port swp1; on switch sw-b port swp1")
	if len(right.Faults) != 0 {
		t.Fatalf("in order: got faults %q", right.Faults)
	}
	// The switches know who is there, each on its own port.
	for i, s := range switches {
		for len(s.Cables()[0].Says) == 0 {
			time.Sleep(10 * time.Millisecond) // it says so on its own
		}
		if got, want := s.Cables()[0].Says, fmt.Sprintf("n3 p%d", i); len(got) != 1 || got[0] != want {
			t.Errorf("switch %d hears %q, want %q", i, got, want)
		}
	}

	must(t, netlink.LinkSetDown(far))
	out := wait("on switch sw-a port swp1; on switch sw-b port swp1 when last heard")
	moved.Move(switches[0])
	must(t, netlink.LinkSetUp(far))
	wrong := wait("on switch sw-a port swp1; on switch sw-a port swp2")
	const fault = "both 'redundant' ports of n3 are on switch sw-a (p0 at port swp1, p1 at port swp2): its loss cuts n3 off"
	if len(wrong.Faults) != 1 || wrong.Faults[0] != fault {
		t.Errorf("got %q, want %q", wrong.Faults, fault)
	}
	told := func(before, now *cluster.NodePorts) (all []string) {
		for _, p := range News(before, now) {
			all = append(all, p.Text)
		}
		return all
	}
	if got, want := told(right, out), "p1 of n3 has no carrier: its cable is out, or switch sw-b or its port swp1 is down"; len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := []string{"p1 of n3 has carrier again, on switch sw-a port swp2; it was on switch sw-b port swp1", fault}
	if got := told(out, wrong); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	moved.Move(switches[1])
	must(t, netlink.LinkSetDown(far))
	must(t, netlink.LinkSetUp(far))
	if back := wait("on switch sw-a port swp1; on switch sw-b port swp1"); len(back.Faults) != 0 {
		t.Errorf("put right: got faults %q", back.Faults)
	}
}
