// Package access decides whether a certificate that the cluster's CA has signed still entitles to anything.
//
// It promises: what the ledger says counts, on every node as soon as its copy of the ledger has it, and for connections
// that are open too (Gate). A node's certificate is good for one boot of one node that is a member; a person's, for one
// of the keys of a user who is in the ledger, with the role that is there now. Each has a life, measured in the
// cluster's age (cluster.Age). No wall clock has a say in any of it.
//
// A certificate that was signed out of a later state of the ledger than this node's copy is believed: the copy is what
// is old, and it cannot know of the certificate yet. So no request fails because a copy is some milliseconds behind,
// and nothing that was revoked gets in by it: who was removed was so after the signature.
//
// When things fail: a node whose copy is behind, or that has no ledger yet, trusts what it would have trusted at that
// state. Who is refused is told why, and the cluster has an event of it, a few in a minute.
package access
