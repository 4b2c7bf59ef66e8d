// Package plan decides what should be where. Plan is one pure function: the ledger's state and what the
// coordinator knows go in, transactions with their reasons come out. Same input, same output: no clock,
// no randomness, no map iterated unsorted.
//
// # What it promises
//
//   - A slot never gets a second claim: each claim is conditional on the revision of the slot's key, on
//     the node's record (still online in that boot) and on the service's record (still wanted so). A
//     plan made from an old state fails as a whole and changes nothing.
//   - A claim leaves the ledger only when its owner reported that nothing of it runs, when there is proof
//     that its lost owner can do no more harm (package takeover), or when the claim that replaces it names
//     the lost owner in After, so that the new owner waits for that proof.
//   - What runs is left alone. Instances move only for a loss, a failure, a drain or a changed
//     specification, and of one service one at a time when it is our choice.
//   - When its transactions are applied and nothing else happens, it comes to rest.
//
// # How a node is chosen
//
// Nodes that do not fit are left out, and the first thing that did not fit is kept, node by node
// (Pending): being a witness, state, silence, quarantine, constraints, a failure there, ports, memory, processors. Of those that fit:
// one that has all images before one that still fetches them, then fewest instances of the same service, then fewest of the same stack, then most free memory, then name. A
// slot that is replaced to follow its specification stays on its node if it fits there. A node in quarantine gets
// what no other node could run, and the reason says so; an instance of a global service goes to its node in any
// case: no other could have it, and what watches a node is needed most on one that keeps dying.
//
// # When things fail
//
// A slot whose instance gives up on its node (after its restarts there, package workload) is tried on every
// other node that may have it, once, 1 s to a minute apart. When all have failed it is blocked, with the reasons,
// and tried on one of them 10 s to 5 min apart. An instance that has run well for some minutes begins anew.
//
// A lost node's slots are claimed at once, from the moment its loss is committed. If the owner that is
// lost had itself taken over and had no proof yet, the next claim waits for the proof of the first: one
// claim carries one After. Without a place to go, the claim of the lost owner stays in the ledger, so
// that its name is not forgotten.
package plan
