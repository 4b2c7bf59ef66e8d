package cabling

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/lldp"
)

// scan reads the ports as they are, sorted by name, and what LLDP needs of them.
func scan(isPort func(netlink.Link) bool, hasCarrier func(netlink.Link) bool) ([]cluster.EthernetPort, []lldp.Port, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, nil, fmt.Errorf("list links: %w", err)
	}
	names := map[int]netlink.Link{}
	for _, l := range links {
		names[l.Attrs().Index] = l
	}
	var ports []cluster.EthernetPort
	var speak []lldp.Port
	for _, l := range links {
		a := l.Attrs()
		if !isPort(l) || len(a.HardwareAddr) != 6 {
			continue
		}
		// Of a bond all members have one address now; what tells them apart is the one they were made with.
		mac := a.PermHWAddr
		if len(mac) != 6 || bytes.Equal(mac, make([]byte, 6)) {
			mac = a.HardwareAddr
		}
		p := cluster.EthernetPort{Name: a.Name, MAC: mac.String(), MTU: a.MTU, Carrier: hasCarrier(l), Driver: driver(a.Name), Bus: bus(a.Name)}
		if p.Carrier {
			p.Speed = speed(a.Name)
		}
		of := l
		if m := names[a.MasterIndex]; a.MasterIndex != 0 && m != nil {
			p.Master, of = m.Attrs().Name, m
		}
		addrs, err := netlink.AddrList(of, netlink.FAMILY_ALL)
		if err != nil {
			return nil, nil, fmt.Errorf("list addresses of %s: %w", of.Attrs().Name, err)
		}
		for _, addr := range addrs {
			if pfx, err := netip.ParsePrefix(addr.IPNet.String()); err == nil && !pfx.Addr().IsLinkLocalUnicast() {
				p.Addrs = append(p.Addrs, pfx)
			}
		}
		slices.SortFunc(p.Addrs, func(x, y netip.Prefix) int { return cmp.Or(x.Addr().Compare(y.Addr()), x.Bits()-y.Bits()) })
		ports = append(ports, p)
		speak = append(speak, lldp.Port{Name: a.Name, Index: a.Index, MAC: [6]byte(a.HardwareAddr), Up: p.Carrier})
	}
	slices.SortFunc(ports, func(x, y cluster.EthernetPort) int { return strings.Compare(x.Name, y.Name) })
	return ports, speak, nil
}

func device(port string) string { return filepath.Join("/sys/class/net", port, "device") }

func driver(port string) string {
	path, err := os.Readlink(filepath.Join(device(port), "driver"))
	if err != nil {
		return "" // of a port without hardware
	}
	return filepath.Base(path)
}

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// bus is where the port is in the machine: its PCI address, and what comes behind that, as for a port on USB.
func bus(port string) string {
	path, err := filepath.EvalSymlinks(device(port))
	if err != nil {
		return ""
	}
	return busOf(path)
}

// busOf takes a device's path in /sys.
func busOf(path string) string {
	parts := strings.Split(path, "/")
	from := len(parts) - 1
	for i, part := range parts {
		if pciAddress.MatchString(part) {
			from = i // the last: the others are bridges
		}
	}
	if end := len(parts) - 1; end > from && strings.HasPrefix(parts[end], "virtio") {
		parts = parts[:end]
	}
	return strings.Join(parts[from:], "/")
}

// speed is in Mbit/s, 0 if the driver does not know.
func speed(port string) int {
	data, err := os.ReadFile(filepath.Join("/sys/class/net", port, "speed"))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || n < 0 {
		return 0
	}
	return n
}
