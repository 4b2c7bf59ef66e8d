// Package sim runs whole clusters in one goroutine under virtual time: the brains of package node and
// the heartbeats of package member are the real ones; the network, the ledger, the containers, the power
// and the clocks are imitated, and everything can fail. One seed gives one history, always the same.
//
// It promises that what it calls a violation is one: the checker looks at the wire and at the ledger,
// from outside, in true time, and not at what nodes believe:
//
//   - at no instant do two nodes answer on one floating address. A node answers while its kernel's guard
//     lasts, on its own clock, whether or not its agent is alive;
//   - no slot has two claims;
//   - of a service whose safety is power, no two instances of one slot run at once;
//   - at each reserved disk, one node writes in one epoch, no write of an older epoch is executed after one of
//     a newer epoch was acknowledged, and no key is registered whose claim is not committed;
//   - at the end, with quorum and capacity there, everything runs again.
//
// A first exception, known and documented in package member: a machine that is paused with its clock standing
// still ends its guard late by as long as the pause was. Overlaps of such a machine, from its pause until
// its guard has run out, are counted and not held against the code.
//
// A second one: a disk that forgets its reservation in a restart (no APTPL) lets in whoever was locked out, if the
// news of the restart went to another command of that machine than the write. Nothing can be done about that
// but not to trust such a disk: writes that a disk without any reservation took from a former owner are counted, too,
// and not held against the code.
//
// What is imitated, and how far it is from the truth: the ledger is one list of transactions, applied in
// order when a majority of the voters that hold their log can reach each other, with a coordinator that is
// elected about 0.6 s after the last one was lost; a voter that reboots has forgotten its log and counts
// again only when it is admitted anew. A commit that is cut off midway may or may not have happened.
package sim
