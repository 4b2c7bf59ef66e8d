// Package explain answers why: why a service is where it is, why a node is in the state it is in. It is
// pure: what the ledger holds now (state, events, stored decisions) and what the answering node hears go
// in, sentences come out. Same input, same sentences.
//
// # What it promises
//
//   - Each sentence is a fact from the ledger or a stored decision, with its figures; nothing is guessed. What
//     is not known any more (events and decisions are kept for a while only) is left out, or said to be so.
//   - The nodes that were considered are those of the decision itself, decided again from its record.
//   - It answers in any state of the cluster, also from a copy of the ledger that cannot be written.
package explain
