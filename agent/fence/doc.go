// Package fence proves that a lost node's power is off: rung L2 of the ladder in DESIGN.md section 5. Its
// core, the Ladder, is pure: Step(now, input) returns commands, the answers come back as inputs. The drivers
// that speak to power controllers (Redfish, IPMI) are beside it and know nothing of it.
//
// # What it promises
//
//   - Proof is what was read, never what was promised: a Ladder is Proven only after two readings in a row,
//     Config.Confirm apart, each in time, that said off while the node's heartbeats were not heard. What is
//     read on is ordered off before that, but what a controller answers to the order counts for nothing.
//   - A machine that was off already is not touched: somebody may be switching it on. So it is known whether
//     it is off because of this (Cut), and whoever cut it can switch it on again.
//   - A timeout is a failure, as is an answer that comes after it. Every attempt, every way and every round
//     ends: at most Config.Round after it began, whatever the controllers do.
//   - A controller that takes the order and goes on reading on is said to lie, in those words.
//   - Ways are tried in order; two tries of the same way are a random pause apart, so that a controller that
//     two cluster members bother does not get both at once again.
//
// # What it does not do
//
// It does not decide whom to fence; package node does, with a record in the ledger that is written by
// compare-and-swap before the first command: who fences whom, since when. So two nodes never fence each
// other, and the next coordinator knows what the last one began. It does not say how long a machine stays
// off: the proof is about one boot, which has ended when power is off once.
//
// # When things fail
//
// When all ways have failed the Ladder says why, way by way, rests (longer each time) and begins again, for
// as long as its owner steps it. Meanwhile only a new boot of the node or an operator's word (L4) helps, and
// services whose safety is power wait and say so.
//
// # Strangers
//
// What a controller answers is a stranger's bytes: sizes and times are bounded, paths that it names must be
// on itself, redirects are not followed, its texts are cut and made printable before they get into an error.
// Its certificate must have the pinned fingerprint before anything secret is sent.
package fence
