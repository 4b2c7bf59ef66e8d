// Package workload is about what operators want to run. It has two halves that share only the facts of
// package cluster.
//
// The Compose half (compose*.go) reads what `docker stack deploy` reads and makes cluster.Services of it.
//
// The Runner half (runner*.go) makes one node run exactly the instances that are assigned to it, and
// reports what becomes of them. It decides nothing about placement; given the list, it
//
//   - makes each image ready and starts each container, all at the same time;
//   - checks health by commands in the container, and restarts what ends or is unhealthy, waiting longer
//     each time, until the service's MaxAttempts are used up: then the instance is failed and stays so;
//   - runs a job's instance until it exits 0 once;
//   - stops what is no longer in the list, asks first and kills after the grace, and removes it.
//
// # Invariants
//
//   - An instance is the work of one goroutine from its first appearance to its removal, so it is never
//     started twice, and its statuses come in order.
//   - Nothing is stopped because the agent ends. A new Runner adopts what runs (same process, same
//     restarts) before it looks at the list, and touches nothing until the list was set once.
//   - A job's instance that completed, or one that failed for good, is not run again by a new Runner: the
//     runtime still has its ended container, with exit and restart count.
//   - The decisions, afterExit and health, are pure functions of what happened; time comes in as values.
package workload
