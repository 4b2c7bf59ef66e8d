// Package qmp speaks QEMU's machine protocol (one JSON object a line) on a connection that was made
// before QEMU started, so there is no socket path and no race to connect.
//
// One command runs at a time; events are handed to a function in the order QEMU sent them. When the
// connection ends, which is also how a QEMU that dies looks, every waiting and later command fails with
// ErrClosed.
package qmp
