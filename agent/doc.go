// Package agent is a node's life after PID 1: it finds the network, forms or joins the cluster, and then
// connects the pure brain (package node) with the real world: sockets, ledger, containers, addresses.
//
// It can be killed at any moment and comes back without its services stopping: containers, routes,
// floating addresses and etcd's log outlive it under /run/skein, and what the agent refreshes (the lease
// guard) goes dark in the kernel by itself if it does not come back in time.
package agent
