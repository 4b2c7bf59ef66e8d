package hostnet

import (
	"bytes"

	"github.com/skein-os/skein/qemu/ethernet"
)

// asProbe rewrites a gratuitous ARP so that gVisor believes it. gVisor ignores announcements made as
// requests, and those made as replies do not replace a known address (its Override flag is always
// false), so after a takeover it would talk to the dead machine until its probes fail, 8 s later. Linux
// takes the new address at once. An ARP request *for our own address* does move an entry in gVisor, so
// the announcement becomes one; the reply this causes is harmless.
func asProbe(frame []byte, lan LAN) []byte {
	const arpEnd = 14 + 28
	if len(frame) < arpEnd || frame[12] != 0x08 || frame[13] != 0x06 {
		return frame
	}
	p := frame[14:arpEnd]
	ethernetIPv4 := []byte{0, 1, 8, 0, 6, 4, 0}
	sender, target := p[14:18], p[24:28]
	if !bytes.Equal(p[:7], ethernetIPv4) || !bytes.Equal(sender, target) || bytes.Equal(sender, []byte{0, 0, 0, 0}) {
		return frame
	}
	if self := lan.Addr.Addr().As4(); bytes.Equal(sender, self[:]) {
		return frame // somebody claims our address: let the stack see it as it is
	}
	probe := bytes.Clone(frame[:arpEnd]) // the frame is shared with the other ports
	p = probe[14:]
	p[7] = 1 // request
	p2 := lan.Addr.Addr().As4()
	copy(p[18:24], (&ethernet.MAC{})[:])
	copy(p[24:28], p2[:])
	return probe
}
