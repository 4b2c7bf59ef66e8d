// Package writers judges on the wire who writes to the disks of a SAN: the lab's witness that a disk for one
// writer never has two. It sees the frames of the lab's switches and nothing else, and decodes iSCSI (RFC 7143)
// and SCSI (SPC-4) from them; no agent, kernel, ledger or clock of a machine has a say.
//
// # Where it looks
//
// A frame is judged when the switch takes it from a machine's port, before faults, partitions and delays. The
// target's answers are so seen on the target's side of the wire, whether or not the node ever gets them. A node's
// commands are seen when the node sends them, which may be long before the target has them, or it never may. Two
// things tell that the target got a command after a moment:
//
//   - Late: the switch saw the command only after it. What comes later cannot have arrived earlier.
//   - Held: the target's TCP acknowledged it more than Limits.Acknowledge after it. This is a write that waited in
//     a cut wire or in the sender's kernel, and was sent again when the wire was mended.
//
// # What is a second writer
//
// A node is fenced from a disk when the PREEMPT or PREEMPT AND ABORT of another node, answered GOOD, took its
// last registration away. It is fenced until the disk is given back to it: it reserves, or it preempts the
// holder, and that is answered GOOD. To register again is not enough.
//
//   - Violation: a fenced node's write that the target got after the fence, and that it answered GOOD.
//   - Overlap: a write answered GOOD of a node that is not fenced, while another one holds the reservation; or
//     without any reservation, after another one has written. No fence was asked for here: it is a finding
//     about whoever wrote, not about the target.
//
// A write that was on its way when the fence closed is neither: PREEMPT AND ABORT ends it or waits for it, and the
// answers to both cross on the wire. These are counted (Straddled), with the longest delay.
//
// A violation is in doubt if the judge was blind at some moment since the fence, or if it never saw an answer to
// a command by which the node may have got the disk back. Doubtful ones are counted apart.
//
// # What it does not see
//
// Frames that the switch did not see. A segment that is lost here but acknowledged is a gap: if it fell into the
// data of a command, nothing is lost; else the connection is not judged until three PDUs in a row are found whose
// numbers fit those before. A connection that was open before the judge is treated in the same way. Gaps and the
// bytes that were not judged are in the report, and a report of no writes says "nothing" (Verdict).
// TLS, IPsec and IP fragments are not decoded. The CRC of digests is not checked: TCP delivered the bytes.
//
// Disks that several nodes may write (the cluster disk, a shared file system) are named by the caller; their
// tables are kept, but nobody is accused.
package writers
