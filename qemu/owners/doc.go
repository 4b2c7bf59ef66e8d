// Package owners judges on the wire who answers for each floating address: the lab's witness that two
// machines never do. It sees frames and nothing else; no agent, ledger or clock of a machine has a say.
//
// # What counts as an answer
//
// Any frame that a machine sends into a switch and that speaks for the address: ARP, request or reply, that
// names it as the sender; any IPv4 packet that comes from it, a SYN-ACK and data as well as a reset. That is
// stricter than what a client would notice, and it is what the lease guard promises.
//
// A frame is judged when the switch takes it from the machine's port, before faults, partitions, delays and
// queues of the switch: what waits there is not counted as late, and what nobody hears counts all the same. All
// ports of all LANs are judged in one order. Before the switch lie the machine's own ring and its emulator: a
// frame may be some milliseconds older than it looks, and as old as the freeze if the emulator was stopped with
// the frame in the ring. That is not forgiven, as a network would not forgive it either.
//
// # What is a double owner
//
// The address has one owner at a time: the machine that answered last. When another machine answers, that is
// a handover, and the time since the last answer of the one before is how long the address was dark.
//
//   - Overlap: a machine answers within Limits.Overlap after it was succeeded. No honest way back is so short:
//     the new owner's lease would have to end, or it would have to stop the service, and the ledger to commit
//     a new claim. Two machines that answer in turns are found by this, whatever made them.
//   - Return: a machine that was succeeded answers again, later, and does not announce the address as one that
//     takes it does: at least twice, apart (RFC 5227, 2.3: ANNOUNCE_NUM is 2), within Limits.Announce. A machine
//     that wakes up and goes on where it was does not announce, or once, as it does from time to time.
//
// What it cannot see: two machines that both believe to be the owner while neither is asked anything nor
// announces. Keep a client asking; and whoever knows the claims compares them with the owners here.
package owners
