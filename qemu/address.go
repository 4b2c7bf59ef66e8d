package qemu

import (
	"fmt"
	"net/netip"

	"github.com/skein-os/skein/qemu/ethernet"
)

// LANs is how many networks each machine is on.
const LANs = 2

// hostNumber is the last byte of the host's addresses.
const hostNumber = 254

// MaxNumber is the highest number a machine may have. The next one is the storage array's (san.Number).
const MaxNumber = 249

// Floating is the network of addresses that move between machines. It is on-link on both LANs.
var Floating = netip.MustParsePrefix("10.77.9.0/24")

// LANPrefix is the network of a LAN: 10.77.0.0/24 or 10.77.1.0/24.
func LANPrefix(lan int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(lan), 0}), 24)
}

// Addr is the address of the machine with a number on a LAN.
func Addr(lan, number int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(lan), byte(number)})
}

// MACOf is the hardware address of the machine with a number on a LAN.
func MACOf(lan, number int) ethernet.MAC {
	return ethernet.MAC{0x52, 0x54, 0x00, 0x77, byte(lan), byte(number)}
}

func macText(m ethernet.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// lanOf turns a machine's interface name into the number of its LAN.
func lanOf(iface string) (int, error) {
	for lan := range LANs {
		if iface == fmt.Sprintf("eth%d", lan) {
			return lan, nil
		}
	}
	return 0, fmt.Errorf("machines have no interface %q: it is eth0 (on lan0) or eth1 (on lan1)", iface)
}
