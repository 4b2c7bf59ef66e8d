package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Script is what iPXE runs to boot a machine: kernel and archive, from the first of the servers that answers, again and
// again until one does; after eight times the machine begins anew. A server that dies is left when nothing has come from it
// for stalled: iPXE's TCP alone waits 16 s for one that was dead before, and for ever for one that dies later. One that refuses
// the connection costs nothing. So servers that live come first.
func Script(servers []netip.AddrPort, mac net.HardwareAddr, cmdline string) string {
	var b strings.Builder
	from := func(what, file string) {
		for i, s := range servers {
			if i > 0 {
				b.WriteString(" || ")
			}
			fmt.Fprintf(&b, "%s --timeout %d http://%s%s%s?mac=%s", what, stalled.Milliseconds(), s, bootPath, file, mac)
		}
		b.WriteString(" || goto again\n")
	}
	b.WriteString("#!ipxe\nset tries:int32 0\n:begin\n")
	from("kernel --name kernel", KernelFile)
	from("initrd --name archive", ArchiveFile)
	// Old iPXE needs the archive's name on the kernel's command line. Nothing of this machine is there: it asks the
	// cluster for that.
	fmt.Fprintf(&b, "imgargs kernel initrd=archive %s\n", cmdline)
	b.WriteString("boot || goto again\n:again\nimgfree\ninc tries\niseq ${tries} 8 && reboot ||\n")
	b.WriteString("echo No server could be reached; trying again in 5 s\nsleep 5\ngoto begin\n")
	return b.String()
}

// stalled is how long iPXE waits for the next byte of a file.
const stalled = 8 * time.Second

// Reason is a script for a machine that is not to be booted: it says why, waits and asks again.
func Reason(why string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("${}|&;", r) {
			return ' '
		}
		return r
	}, why)
	return "#!ipxe\necho Skein: " + clean + "\nsleep 30\nreboot\n"
}
