// Package api is how people and nodes talk to a node: JSON over HTTPS with mutual TLS on port 7701. The
// structs in types.go are the documentation of what goes over the wire.
//
// Any node answers for the whole cluster: what is in the ledger it reads from its own copy, what is on
// another node (logs, a shell in a container) it fetches from there. A role is in the certificate:
// operators may do everything, nodes may read and may pass on an operator's request, anybody else may
// only ask to join (package admission). Lists that grow while one looks (events, logs) are streams of
// JSON values, one a line.
package api
