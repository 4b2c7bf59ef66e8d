// Package netboot boots machines from the network: it answers their firmware's DHCP questions, gives loaders by
// TFTP and everything else by HTTP, and knows for each machine how far it got.
//
// # What it answers
//
// Firmware tells by DHCP options what it is (RFC 4578: 93 the architecture, 97 the machine; option 60 "PXEClient" or
// "HTTPClient"; option 77 "iPXE" for a machine that already runs that loader):
//
//	iPXE, on any firmware     a script by HTTP: kernel and archive, from whichever server answers
//	UEFI HTTP Boot            the unified kernel image by HTTP
//	UEFI PXE                  iPXE, or the unified kernel image, by TFTP
//	BIOS PXE                  iPXE by TFTP
//
// Anything else gets no answer, and Tracker says so.
//
// # Beside another DHCP server, or as the only one
//
// As a proxy it gives no addresses: another server does, and the firmware puts the two answers together. Firmware
// differs in how it likes that. Shape ShapeDirect tells it in option 43 to boot from the offer (PXE 2.1, 6=8);
// ShapeAsk leaves that out, so it asks again on port 4011. A machine that does not go on with one is given the
// other the next time. Full gives addresses too, for networks that have no other server, or machines that take
// neither shape; it refuses to start where another server answers.
//
// # What is decided, and what is done
//
// Identify, Site.Offer, Pool, Tracker and Script are pure: no clock, no sockets. Server does the rest; the lab
// gives the same answers on its own wires. Everything that comes in is a stranger's: what cannot be read is dropped
// and counted, never answered.
//
// Nothing here is secret and nothing is trusted: a MAC address picks what a machine is given and grants
// it nothing. What the machine may be is settled after the boot, by admission.
package netboot
