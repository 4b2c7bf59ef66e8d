// Package takeover knows what a lost owner's slot needs before its new owner may have effects. It is
// pure: what is known comes in as arguments, what to do next comes out.
//
// A takeover is claim -> prove -> verify -> effects:
//
//  1. claim: the coordinator commits the slot's new owner by compare-and-swap (package plan). From then
//     on no other claim of the slot exists. The instance may be made ready, unless its safety is power.
//  2. prove: the old owner can do no more harm (Prove). Silence is never proof.
//  3. verify: a committed write that is conditional on the claim still being the slot's. A write and not
//     a read, because a member that was paused may answer a read from its past.
//  4. effects: the floating addresses are held, for as long as the own lease lasts and no longer.
//
// The argument for "never two answer": the old owner holds its addresses until the end of its lease at
// most; the proof says that this lease has ended and no new one can begin; so every hold of the old
// owner ends before the first hold of the new one begins. That argument needs neither the detector to be
// right nor the coordinator to be one: a wrong suspicion costs a restart, two coordinators cost one
// failed compare-and-swap.
//
// When things fail: no proof, no effects; the instance waits and says for what. A verify write whose
// outcome is unknown is written again. A verify write that is refused means that the slot has another
// owner by now: the instance never has effects.
package takeover
