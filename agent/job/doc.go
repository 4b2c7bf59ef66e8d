// Package job divides work over the nodes: one submission, many tasks. It only decides: no I/O, no goroutine,
// no clock. Package dispatch drives it on the coordinator, package execute runs what it gives out on each node.
//
// # Dividing
//
// A job is a set of indices. Inside, a task is its position in that set, 0 to n-1. Nodes pull: a node that has
// slots free asks, and gets a lease of some consecutive positions. How many is guided self-scheduling: a share
// of what is left, so that it is much at the beginning and one at the end, and never more than is done in about
// a second at the mean that was measured, so that slow nodes and long tasks hold nothing up (Divider.chunk).
//
// # Once
//
// What always holds, whatever dies and however late somebody is:
//
//   - every position is recorded exactly once: the first result that is taken is the outcome. A result is taken
//     only from the holder of a lease that is still known, so who was given up cannot record anything;
//   - a position is held by one node at a time, unless the job says that its tasks may run twice (Idempotent);
//   - what a lost node held is given out again only after Dead said that it can do nothing any more. That is not
//     decided here but from the ledger: see dispatch;
//   - a node keeps a result until the coordinator has said that it is in the ledger (Answer.Settled). So a
//     coordinator that dies takes no result along.
//
// A task may so run more than once if its node is lost: at least once, one outcome.
//
// # A new coordinator
//
// has the outcomes from the ledger and knows nothing of the leases. Before it gives anything out, each node
// that may hold something tells what it holds and what it has done (Pull.Hello), or is known to be dead. Terms
// rise with each coordinator; a node takes no lease from one with a lower term than it has seen.
package job
