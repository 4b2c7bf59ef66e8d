// Package node is the brain of one node: the only place where what member hears, what the ledger says
// and what the runner reports come together, and where it is decided what this node runs, on which
// floating addresses it answers, and, while it is the coordinator, who is lost and what goes where. It is
// pure: no goroutine, no clock, no I/O. Inputs are method calls, outputs go to World; the real node and
// the simulator run the same code.
//
// # What it promises
//
//   - It runs what the ledger assigns to this very boot and nothing else.
//   - It holds a floating address only while it runs the instance that owns it, has cleared that
//     instance's takeover (package takeover) and has a lease, and never beyond the end of that lease.
//   - It withdraws an address before it reports that the instance ended, so that nobody is told that a
//     slot is free while its address still answers. If the kernel refuses, nothing is reported and no lease is
//     renewed; it is tried again, and after a second this boot is condemned.
//   - It condemns itself, once and for good, when its boot was declared lost, replaced or removed.
//   - As coordinator it writes only by compare-and-swap; of two that believe to be it, one fails.
//
// # Reserved volumes
//
// An instance of safety storage is started when each of its volumes has been taken over (package takeover), and
// what it waits for is in its status. When a disk takes that back (its key is gone, a write is refused) or gives
// no answer for some seconds, the instance is killed, and reported failed when it has ended: the slot gets a new
// claim, with a new epoch. In the old one nothing is registered again.
//
// # Declaring a node lost
//
// A node is committed lost when it is silent on all links (or said goodbye, or was heard in a new boot, or says
// itself that it hears nobody), this node is heard by a majority of the voters, one other member confirms the
// silence if there is one to ask, and so many voters miss the node that no majority of them can hear it. That
// is eager on purpose: a wrong suspicion costs a restart of what ran there and never more,
// because effects wait for proof. Restraint remains: before more than one node at once, or half of them,
// is given up, this node must itself hear a majority of the voters; else it is the one that is cut off,
// says so in an event, and waits.
//
// # Fencing
//
// A lost node that has a power controller is switched off by the coordinator (package fence), beside all
// else: what has other proof does not wait for it. It begins with a record in the ledger, by compare-and-swap,
// conditional on nobody fencing the writer; so no two nodes fence each other, and the next coordinator goes on
// where the last one ended. Fewer than half of the members are fenced at once, and more than one only while
// the coordinator itself hears a majority of the voters. The proof is in the record: off, of one boot. A machine
// that ran until it was fenced is then switched on again, unless its controller's record says otherwise. A
// record that says off of a boot whose heartbeats are heard here is not believed here.
//
// # When things fail
//
// Without quorum nothing is committed and nothing is claimed: what runs goes on, and holds lapse by
// themselves with the lease. A commit whose outcome is unknown is decided anew from the ledger. A brain
// that starts in a boot that already ran things (the agent was restarted) runs nothing anew and stops
// nothing before it has read the ledger.
package node
