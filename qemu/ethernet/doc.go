// Package ethernet is a plain learning switch with faults, one per LAN of a lab.
//
// It promises that a port that stands still (a paused machine, a full socket) harms nobody else: each
// port has its own queue of QueueFrames frames and its own writer; what does not fit is dropped at the
// tail and counted, as a real switch does. It floods broadcast, multicast and unknown destinations, so
// IPv6 neighbour discovery and VRRP work, but not what bridges keep to themselves (01:80:c2:00:00:00 to 0f). It says
// by LLDP who it is (Announce), and knows what is said on its ports (Cables). A port can be moved to another switch.
//
// Every port can be given a fault per direction (silence, loss, delay, jitter, duplicates, wrong bits) and
// ports can be put into groups that do not hear each other. Nothing of this is visible to the machines:
// their carrier stays up. Without jitter frames never overtake each other; with jitter they may, as on a
// real path. The chance in faults can be made repeatable (Seed).
//
// A Tap sees every frame as its device sent it, before any fault.
package ethernet
