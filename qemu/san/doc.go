// Package san is the lab's storage array as both sides know it: its names, and the orders that the lab gives to the
// machine that is the array, with its answers.
//
// The array is one machine with the kernel's own iSCSI target (LIO), one target portal group, and a portal on each of
// the lab's networks. Every initiator may log in and write: who may write is for persistent reservations to say. Its
// disks are files in the lab's folder, so what is on them, and the registrations that were made with APTPL, survive
// its power and the lab itself.
//
// Orders go over the machine's out-of-band port, a JSON object a line each way. The network is no way for them: it is
// what the orders take away. An answer has the order's number, so one that comes too late is not taken for
// another's.
//
// Package target is the machine's side, package client a small initiator to look at the array from outside.
package san
