// Package hostnet is the lab's own place on its LANs: a user-mode TCP/IP stack (gVisor's) with one
// network card per LAN. It gives machines their addresses by DHCP and reaches them by TCP, with no
// privilege and no address of the host machine involved.
//
// It behaves as a Linux client on the same wire would where that matters for a measurement: a
// gratuitous ARP moves a neighbour's entry at once (gVisor alone would keep the old machine for eight
// seconds, see arp.go). An address that is on both LANs, as floating addresses are, is dialled on the
// first and, if that does not answer soon, on the second too; the first connection wins.
package hostnet
