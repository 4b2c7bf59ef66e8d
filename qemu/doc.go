// Package qemu runs a cluster of virtual machines on one host, without root: the lab. It is the test
// bed of Skein and, behind `skein lab`, a feature of it.
//
// A Lab owns its machines (QEMU processes), two Ethernet switches (package ethernet) on which every
// machine has a card each, and the host's place on them (package hostnet), by which programs reach the
// machines. Everything a test wants to do to a cluster is a method: power cut, reset, freeze with the
// clock standing or running, cable out with and without carrier, partition, loss, delay; and the whole
// running cluster can be saved and restored.
//
// Invariants:
//   - No machine outlives its lab: a QEMU is killed by the kernel when the process that owns the lab
//     dies, whatever it dies of.
//   - A seed is never on a disk or a command line: machines read it from memory that the lab passes on.
//   - Everything a machine prints is kept with the host's time. A kernel panic, Oops or lockup is an
//     event the moment it is printed (see Alarms).
//
// When a QEMU ends by itself, its machine is off, and the event holds its exit status and last words.
// A machine that prints nothing at all is started anew once, and that is counted: on a busy host an
// emulated machine sometimes starves while it calibrates its clock.
package qemu
