// Package reserve fences a disk with SCSI-3 persistent reservations (SPC-4, 5.13): only who is registered at
// the disk may write, and registrations are taken away from a lost owner by name. It is proof L0 of the
// ladder, the only one that needs neither a clock nor the victim's consent.
//
// Device carries commands through one path (an I_T nexus). Volume does for package takeover what
// takeover.StorageOp asks, over all paths of one disk. SelfTest finds out whether a disk keeps the promises
// that the takeover's argument needs, and says so in plain words.
//
// What it promises:
//   - The reservation is always Write Exclusive, Registrants Only, and registrations are asked to survive the
//     loss of the target's power (APTPL). A target that refuses APTPL makes Register fail; nothing goes on without.
//   - A command without an answer is an error (ErrNoAnswer, ErrTransport), never a success and never a refusal. As
//     long as the kernel still waits for it, no other command goes down that path: a late REGISTER cannot
//     overtake the unregistering that was meant to follow it.
//   - A unit attention that says "reset" or "somebody took registrations away" is ErrAttention and the command
//     was not executed; the others are swallowed and the command is sent again.
//   - Keys that are not of this cluster are never preempted, cleared or overwritten here: ErrForeign, by name.
//   - Volume never makes the disk lie open: it does not release, and who holds the reservation leaves its key
//     behind when it gives up ("parked"); the next owner preempts it. Otherwise a fenced owner's writes that are
//     still queued somewhere would land.
//
// What it does not: it does not know who should own the disk. Registering again is always possible for a node that
// was fenced, so a node registers only with a claim that the ledger has, and believes it only after the
// ledger's verify write (package takeover).
//
// The layout of keys, why SG_IO rather than the kernel's reservation ioctls, and what a real kernel's target did
// in the test: docs/design/reservations.md.
package reserve
