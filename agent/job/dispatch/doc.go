// Package dispatch is the coordinator's half of jobs: it keeps a job.Table for its term, writes outcomes to the ledger,
// answers nodes that ask for tasks and people who ask for jobs.
//
// A coordinator begins its term by writing job.KeyTerm; every later write is conditional on that key's revision. So one
// that has been replaced and does not know it yet can record nothing, and gives up its table at the first write that is
// refused. What it may still give out carries a lower term, and no node takes it that has heard of the new one.
//
// What proves that a lost node's tasks are dead comes from the ledger (another boot, a fence that reads off) or from
// time: a node that is committed as lost, and has not asked for job.Tether and some more, has killed them by itself.
package dispatch
