// Package shares has one node use the shared file systems of the ledger: it mounts each of them below one folder, and
// takes the node through the changes of their memberships.
//
// Invariants:
//   - A file system is mounted only if the ledger says that it is made, and from the disk that the ledger names.
//   - What the ledger shows last of this node's report is the newest one: it is written again until that is so.
//   - A file system that cannot be used before a reset of the node is told once, as Broken; nothing is done with it
//     any more in this boot.
//
// A mount that fails is tried again while the controller says that the node is out: nothing was begun.
package shares
