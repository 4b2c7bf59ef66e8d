// Package shared runs a file system that all nodes mount at once: it decides who may use it together, in which
// order a change of that goes, and what is known to be replayed before anybody goes on.
//
// A cluster file system has a distributed lock manager, which must be told who its members are. Here that is a
// Membership with a generation: a record of the ledger. Plan makes the next one, on the node that coordinates. Core
// takes one node through it. Both only decide: no I/O, no goroutine, no clock. Controller does what Core decides,
// through a Driver (package gfs2), and publishes the node's Report.
//
// A change has two phases, each a record that everybody sees:
//
//	stop   every member of the new generation stops its lock manager, cuts the failed ones off, and reports that
//	start  who sees that all members of the generation have stopped starts with them; one of them replays the
//	       journals of the failed ones, and until that is done the file system's locks stay blocked
//
// What always holds:
//   - A member is removed for one of two reasons: it left, by its own report after its lock manager had let go, or
//     it has failed and there is proof that it writes no more (its reservation is preempted, or its power is off).
//     Suspicion is not proof. Without proof everybody waits, and says for what.
//   - Who vanished and is not listed as left has failed: its journal is replayed. To miss the news that somebody
//     left costs a look at a clean journal; to miss that somebody failed would cost the data.
//   - A node is a member in one incarnation. When it is back before the others saw it go, it has failed all the same.
//   - Nobody starts in a generation before all members of it have stopped. Two sets of members never use the disk at
//     the same time.
//   - A member that fails in the middle of a change holds it up until there is proof, and not longer: the next
//     generation begins with the stop again, whatever each had done of the one before.
//   - A member that cannot stop or start, or whose file system gave up, is Broken: it is of no use to the others
//     until it has been reset.
package shared
