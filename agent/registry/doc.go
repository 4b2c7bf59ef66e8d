// Package registry answers the OCI distribution specification (version 1.1), so that docker, podman, skopeo and crane push
// images to the cluster and pull them from it. It is a handler: transport, store and ledger are its Backend's.
//
// It promises: what is under a name is whole and is what its digest says, on the node that acknowledged it and on another
// one; an upload whose connection is cut goes on where it ended; what comes without end or in too great number is
// refused and leaves nothing; an upload that nobody goes on with is removed after Limits.Idle. An image that a service or
// a job is made of is not deleted.
//
// Any node answers. An upload is on the node on which it began; another one that is asked for it passes the request on.
// A manifest may name blobs that came to other nodes: they are fetched.
//
// Not kept: blobs are shared by all repositories, so whoever may pull may read each blob of which he knows the digest;
// blobs are deleted when no manifest needs them, never by request.
package registry
