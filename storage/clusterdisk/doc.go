// Package clusterdisk keeps a copy of the ledger on a small LUN that all nodes see, so that a cluster whose voters
// keep their log in memory loses nothing when all of them lose power, and so that two nodes have a third who says
// which of them goes on.
//
// On the disk are a header (whose disk this is, in which incarnation, who the members are), a slot for each voter
// with its copy of the ledger, snapshots, and, if it is large enough, images of containers, which the ledger knows
// where to find. It promises:
//
//   - What Slot.Append or Slot.Rebase has returned for is found by Load after any loss of power, of the nodes and of
//     the disk, at any time: each is flushed, and nothing that is needed is ever written over in place. Load
//     takes the newest copy that is whole; a record that was cut off ends a copy and does not spoil it.
//   - A copy is of the incarnation that the header names, or it is not used. The header has two copies, written one
//     after the other with a flush between.
//   - All that is read was written by somebody who has the cluster's join token: copies are sealed with a key that
//     is on the disk sealed by the token (AES-256-GCM), since a ledger has secrets in it; the header is signed with it.
//   - A disk with something else on it is not written to; it is named.
//
// Who may write: every member that is registered at the disk (package storage/reserve); only into its own slot, but
// for header and snapshots. A node that restores the ledger, or goes on alone, first takes the disk (Take): all
// other keys are preempted and their writes aborted before it reads anything. Whoever was shut off has its next
// write refused (ErrFenced), stands down and never registers again in that boot. So of two that try, one gets
// through. Keys are never taken away by their owner: with the last one the reservation would end.
//
// Decide says what a machine does that finds a cluster disk and hears no cluster. The reasons, and what was
// turned down: docs/design/cluster-disk.md.
package clusterdisk
