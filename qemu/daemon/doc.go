// Package daemon keeps a lab running between two commands: a process that owns the lab and its proxy,
// and a client that speaks to it by HTTP and JSON over one unix socket in the lab's folder.
//
// The folder is the lab's identity. A lock in it makes sure that there is one daemon for it; the
// socket and all files are for their owner only, as who reaches them is the master of the machines.
// When the daemon ends, for whatever reason, its machines end with it (see package qemu).
package daemon
