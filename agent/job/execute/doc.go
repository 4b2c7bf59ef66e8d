// Package execute is a node's half of running jobs: it asks the coordinator for tasks, has workers run them, tells what
// came of them, and keeps their output.
//
// One goroutine owns all state (Runner.Run); workers, launches and the one question to the coordinator that is under way
// are goroutines that send it events. A node that has had no answer of a coordinator for job.Tether kills all it runs:
// somebody else may be given it then.
//
// Output stays on the node that made it, in a file for each job, until the job is forgotten or the room is needed.
package execute
