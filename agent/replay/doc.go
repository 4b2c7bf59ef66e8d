// Package replay keeps the coordinator's decisions in a form that can be decided again.
//
// # What it promises
//
//   - A Record holds the whole input of one decision: the ledger's revision and state, what was heard, the
//     proofs, the clocks of the back-off. Replay runs today's code on it and says whether it decides the
//     same, and else what differs. Nothing but the record is needed.
//   - The same decision has the same bytes. A record of another version is refused, not guessed at.
//   - Secrets stay where they are: what no decision looks at (environment, files, commands, images) is not
//     in a record.
//   - Decode takes bytes that anybody may have written: it answers with an error, in bounded memory.
//
// # Where records are kept
//
// In the ledger, so that they outlive the coordinator that decided, but under a prefix of their own that
// no node watches (KeyDecisions): a record wakes nobody and costs one write, made after the decision is on
// its way and never waited for. Kept are the newest records within Kept and KeptBytes. What was decided is
// in the ledger in any case, as claims, node records and events; if the coordinator dies before it has
// written the record, that is what remains of its last decision, and why is answered from it.
// The memory of the coordinator alone was turned down: the decisions before its death are those that
// people ask about. Deflate was taken and not zstd: the standard library's needs no second decoder in the
// operator's tool and a tenth of the memory, and a state of 64 nodes still fits many times.
package replay
