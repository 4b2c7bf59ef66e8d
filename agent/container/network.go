package container

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// allocator hands out the addresses of the node's subnet to containers. It is kept by Runtime, which
// writes each address into state.json before it is used; so after a restart it is filled from there.
type allocator struct {
	subnet netip.Prefix
	used   map[netip.Addr]string // to container
	last   netip.Addr
}

func newAllocator(subnet netip.Prefix) *allocator {
	return &allocator{subnet: subnet.Masked(), used: map[netip.Addr]string{}, last: gateway(subnet)}
}

// gateway is the node's own address on the bridge, .1.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// take gives the next free address, going round, so that an address rests as long as possible after its
// holder is gone: peers may still talk to it.
func (a *allocator) take(id string) (netip.Addr, error) {
	first := gateway(a.subnet).Next()
	addr := a.last
	for range 1 << (32 - a.subnet.Bits()) {
		addr = addr.Next()
		// The last address of the subnet is its broadcast address.
		if !a.subnet.Contains(addr) || !a.subnet.Contains(addr.Next()) {
			addr = first
		}
		if _, taken := a.used[addr]; !taken {
			a.used[addr], a.last = id, addr
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("address for container %s: all %d of %s are in use", id, len(a.used), a.subnet)
}

// claim marks an address as held by a container that exists already.
func (a *allocator) claim(id string, addr netip.Addr) { a.used[addr] = id }

func (a *allocator) release(id string) {
	for addr, holder := range a.used {
		if holder == id {
			delete(a.used, addr)
		}
	}
}

// vethName is the node's end of the container's link. Interface names have 15 bytes at most.
func vethName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "sk" + hex.EncodeToString(sum[:5])
}

// connect makes the container's network namespace, kept by a mount on the file nsPath, and its link to
// the bridge. On any error nothing stays.
func connect(id, nsPath, bridge string, subnet netip.Prefix, addr netip.Addr) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("network of container %s: %w", id, err), disconnect(id, nsPath))
		}
	}()
	if err := newNetNS(nsPath); err != nil {
		return err
	}
	ns, err := netns.GetFromPath(nsPath)
	if err != nil {
		return err
	}
	defer ns.Close()
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = vethName(id), br.Attrs().MTU, br.Attrs().Index
	mac := peerMAC(addr)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("create link %s: %w", attrs.Name, err)
	}
	host, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return err
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	ip := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), 32)}}
	if err := h.AddrAdd(eth, ip); err != nil {
		return fmt.Errorf("set address %s: %w", addr, err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gateway(subnet).AsSlice()}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("set default route by %s: %w", gateway(subnet), err)
	}
	return nil
}

// peerMAC is made of the address, so that who takes an address over also takes its neighbours' entries.
func peerMAC(addr netip.Addr) net.HardwareAddr {
	a := addr.As4()
	return net.HardwareAddr{0x0a, 0x58, a[0], a[1], a[2], a[3]}
}

// newNetNS makes a network namespace and mounts it on path. It does so on a thread of its own, which then
// ends: a thread whose namespaces are uncertain must not serve other goroutines.
func newNetNS(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			done <- fmt.Errorf("mount a network namespace on %s: %w", path, err)
			return
		}
		done <- nil
	}()
	return <-done
}

// disconnect removes what connect made, as far as it is there. The link is removed by name: the peer in a
// namespace that a stray process still holds would otherwise keep the address alive on the bridge.
func disconnect(id, nsPath string) error {
	var errs []error
	link, err := netlink.LinkByName(vethName(id))
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) && !errors.Is(err, unix.ENODEV) {
		errs = append(errs, fmt.Errorf("remove link of container %s: %w", id, err))
	}
	if err := unix.Unmount(nsPath, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", nsPath, err))
	}
	if err := os.Remove(nsPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
