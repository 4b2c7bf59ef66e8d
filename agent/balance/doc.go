// Package balance makes services answer: on their floating addresses, which move with them (Hold), on
// published ports, spread over their instances (Apply), and under their names (DNS).
//
// # What it promises
//
//   - The lease guard. A node answers on a floating address only while it holds it and its lease runs.
//     The kernel itself enforces that: when the lease has passed, no IP packet to or from the address and no
//     ARP frame that names it as the sender gets through, whatever the agent does or is prevented from
//     doing. Nothing the agent does late opens the guard again: the deadline in the kernel is an absolute
//     time. docs/design/lease-guard.md has the details and what was measured.
//   - Closed by default: a floating address that this node was not told to hold is shut from the moment the
//     tables exist.
//   - A renewal of the lease costs one small message to the kernel and never opens a gap.
//   - Each change is one atomic batch: no packet sees half of it. What does not differ is not touched.
//
// # When things fail
//
// Agent killed or stopped: everything stays as it is and goes dark when the lease ends; a new agent adopts
// the tables (Open) and, if its first Hold comes before the lease's end, nobody notices. Tables damaged or
// removed by somebody: the next Hold or Apply fails once inside, rebuilds all and goes on. A link that has
// no guard chain of its own yet answers no ARP for floating addresses.
//
// IPv4 only: floating IPv6 addresses are refused, not half supported.
package balance
