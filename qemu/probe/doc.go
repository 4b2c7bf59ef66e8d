// Package probe measures an outage as a client sees it. It asks an address again and again, each time
// on a new connection, and reports the longest time without an answer.
//
// Requests do not wait for each other: one that hangs on a dead machine does not hide the moment when
// another machine answers. A gap is the time between two successive answers as they arrive, and so are
// the time to the first answer and the time since the last one: an address that never comes back, or
// never was there, is not a short gap.
package probe
