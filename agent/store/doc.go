// Package store is the cluster's ledger: embedded etcd, with three voters and everybody else a client.
// It promises that a transaction happens once or not at all and that everyone sees all of them in the
// same order; it never tells who is alive (package member does) and it excludes nobody by locks or
// leases.
//
// A voter keeps its log in memory, so its identity is its boot: its member is named "<node>.<boot>" and
// dies with that boot. A node that rebooted removes its old member, adds a new one as a learner and is
// promoted when it has caught up. An agent that was restarted within the same boot finds its log intact
// and goes on as the same member (Resume).
//
// A transaction whose answer was lost is tried again at another endpoint, and still happens only once:
// every attempt is conditional on the revision of a private key (a lane) that the transaction writes
// too. Whoever is late finds the lane moved on, in it the number of the transaction that moved it, and
// so knows whether it was itself.
//
// When things fail: a lost endpoint costs one short attempt, the loss of etcd's leader one election. A
// lost quorum freezes the ledger: commits fail when their context ends, the last State stays. A voter
// that was removed by the others while it lived goes on as a client.
//
// # A majority that is lost for good
//
// If two of three voters lose power before the first is a voter again, no majority of those boots can ever
// come together: two logs are gone. The voter S that is left goes on alone (majority.go decides, recover.go
// does it) when it has had no leader for some seconds and every other node that its copy of the ledger
// knows has asked it, with all of this:
//
//   - proof of the join token, over the exporter of that very TLS connection, so it is no replay; from the
//     node's own machine; not more than half a minute ago;
//   - a boot in which it has no vote, as far as S's list of members goes: as a rule a new one. Each boot
//     that did vote is then known to have ended;
//   - a pledge: it will enter the ledger, and become a voter, only through this boot of S;
//   - if it did not restart: word that it has acted on nothing that S's log does not have, given after those
//     that did restart were first heard. Otherwise it may run what the restored ledger gives to others, so
//     it has to restart too, and does so by itself when S tells it what its log has.
//
// Then all that is in S's log becomes part of the ledger, the database becomes that of a new cluster (etcd's
// own restore) with S alone, the revision rises by a thousand million, and a transaction raises
// Meta.Incarnation, notes the revision that was restored, and names the new boots of the nodes, before anybody
// else can read it. If S's agent ends anywhere in between, the next one finishes it. The rest is what happens
// after any reboot.
//
// Why nobody else can have a majority, now or later. A majority of the members that S knows has one of
// them besides S, and the boots of all of these have ended. Members that S does not know may have been
// added by the others while S was cut off. As long as they are nodes that S knows, each of them has pledged
// not to be, nor to become, a voter elsewhere; and since each member refuses who has promised itself
// to another, and a node promises itself to one only, two survivors can never both have all the pledges they
// need. A voter that is alive in a boot that S knows blocks S: then the ledger stays frozen, and says for
// whom it waits.
//
// What is left out: machines that S has never heard of. For these to have a majority, at least two machines
// new to the cluster must have been admitted, and have become voters, while S was cut off and not yet
// restarted; then both other voters must have rebooted, one after the other, into S's side of a network that
// still hides the new machines from all three. And a token in wrong hands breaks all of this, as it breaks
// admission.
//
// What can be lost: transactions that were acknowledged by the lost voters and never reached S's log. Of
// three voters these are the commits of the other two while S was cut off or behind. Nobody acts on them
// any more. The lost voters have rebooted. A worker that has seen one is found by its revision, which is
// higher than Meta.RestoredFrom in an incarnation that is newer than its own: it stops its services and
// reboots (package node), because what it derived from them, such as the proof that somebody's lease is
// over, cannot be told from the rest. No revision is ever given out twice, so neither is an epoch; a watch at
// an old one is told that the history is gone, and reads anew. A member of the old cluster that turns up
// after all is refused by the new cluster's id.
//
// One survivor only: of five voters, two that are left wait until one of them is restarted. A node that is
// lost for ever, and is still in the ledger, blocks a restoration too: to remove it needs a majority.
package store
