// Package model looks at every state that a small model of a protocol can reach. A simulator throws dice
// and may miss the one order of events that does harm; here every order is tried, in a world that is small
// enough for that: two or three nodes, three or four claims, one disk.
//
// Explore promises: if it says Complete, no state that can be reached breaks a rule, and from each state the
// goal can be reached although nothing may go wrong any more. Otherwise it returns a shortest list of steps
// that leads to the harm. What it cannot promise is that the model is like the world: each model says what it
// leaves out, and has mutations, protocols that are broken on purpose, that must be caught.
//
// The models are tests, so that they run with every other test and a counterexample is a failed test:
//
//   - storage_test.go: one writer of a reserved volume. The nodes are the real takeover.Storage.
//   - arbiter_test.go: two nodes with a shared disk as arbiter (docs/design/two-nodes.md).
package model
