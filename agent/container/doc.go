// Package container keeps images and runs containers on one node. It makes no decisions: what runs where
// is package plan's matter, when to start again is package workload's.
//
// # Images
//
// Images is a content store in a directory, in the lab and on diskless nodes a tmpfs. A blob is named by
// its SHA-256 digest, is checked while it is written and appears under its name only when it is whole and
// right, so whatever is in the store may be served to peers without another look. Archives, registries
// and peers are all strangers: every count and size they state is bounded, and nothing of what they send
// can name a path outside the store. A full file system is an error that says so; what was half written
// is removed and everything else goes on.
//
// An image is unpacked once, to one flat directory named by the digest of its manifest, and never changed
// after: all its containers see it through an overlay of their own. That costs memory once per image, not
// per container, and a start only mounts.
//
// # Containers
//
// Runtime starts an instance as one container by one call of crun: own PID, mount, UTS, IPC, network and
// cgroup namespace, cgroup v2 limits, a read-only root unless asked otherwise, eight capabilities, no new
// privileges, an allow list of system calls, an address of the node's subnet. The container belongs to no
// process of the agent: its parent is PID 1 and its output goes straight to a file. So an agent that
// crashes and comes back finds everything running and takes it over (Adopt).
//
// That a container ended is known from a pidfd, how it ended from PID 1, which reaps it (Exited). Both
// together make one Exit. If PID 1 says nothing within ExitWait the code is unknown and reported as -1.
//
// # Invariants
//
//   - One ID, one container: Start of an ID that runs is refused.
//   - What Start began and could not finish, Start undoes: no mount, cgroup, interface or address stays.
//   - An address is given to one container at a time, and to none until Remove of its last holder is done.
//   - state.json of a container is written before its process starts, so nothing can run that a later
//     agent does not know of.
//   - Logs never use more than LogKeep and two pages of memory per container for longer than TrimEvery.
package container
