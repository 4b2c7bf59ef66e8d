// Package store is the cluster's ledger: embedded etcd, with three voters and everybody else a client.
// It promises that a transaction happens once or not at all and that everyone sees all of them in the
// same order; it never tells who is alive (package member does) and it excludes nobody by locks or
// leases.
//
// A voter keeps its log in memory, so its identity is its boot: its member is named "<node>.<boot>" and
// dies with that boot. A node that rebooted removes its old member, adds a new one as a learner and is
// promoted when it has caught up. An agent that was restarted within the same boot finds its log intact
// and goes on as the same member (Resume).
//
// A transaction whose answer was lost is tried again at another endpoint, and still happens only once:
// every attempt is conditional on the revision of a private key (a lane) that the transaction writes
// too. Whoever is late finds the lane moved on, in it the number of the transaction that moved it, and
// so knows whether it was itself.
//
// When things fail: a lost endpoint costs one short attempt, the loss of etcd's leader one election. A
// lost quorum freezes the ledger: commits fail when their context ends, the last State stays. A voter
// that was removed by the others while it lived goes on as a client.
package store
