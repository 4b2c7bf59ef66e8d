package network

import "github.com/vishvananda/netlink"

// IsPort tells whether a link is an Ethernet port: a device with hardware behind it, real or emulated.
func IsPort(link netlink.Link) bool { return isPort(link) }

// HasCarrier tells whether a link has somebody at the other end of its cable.
func HasCarrier(link netlink.Link) bool { return hasCarrier(link) }
