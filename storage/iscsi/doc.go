// Package iscsi keeps a node logged in to its iSCSI targets.
//
// What is wanted is a list of portals: ParseSAN reads those of the kernel parameter by which a node learns of its SAN
// before it has a ledger. Next is the reconciler: pure, from the wanted portals and the sessions seen to the next
// steps, with a back-off for each portal, so that a portal that is down costs the others nothing. Sessions reads from
// sysfs what the kernel has.
//
// The Initiator does it, with Debian's iscsid and iscsiadm: it starts iscsid when something is wanted for the first
// time, writes its settings and a record for each portal, logs in and out, has the kernel look for the disks, and tells
// how far it is with each portal. What it promises:
//   - A portal is told as logged in only when the disks behind it have their block devices.
//   - A session that works is not ended while one of its disks is in use and has no other path that runs.
//   - Sessions that are not wanted are ended only when the whole of what is wanted is known: a restarted agent finds
//     the sessions of the one before it, and keeps them.
//   - A secret is only in the ledger, in memory, and in a record that root alone can read (a node's root is in RAM),
//     for as long as the portal is wanted: never on a command line or in a log.
//   - A dead path fails within PingInterval + PingTimeout + RecoveryTimeout and a moment, for a map above it to go on.
//
// When things fail: a refused login is tried again after 1 s, doubled up to 30 s. A session that has lost its
// connection is connected again by iscsid for StuckAfter, then ended and made anew. iscsid that dies is started again
// after 0.2 s, doubled up to 10 s; sessions go on without it, but it connects all of them anew when it starts, which
// takes 2 s or more: for that time commands are made to wait longer (patience). So iscsid is in a cgroup of its own
// and outlives the agent (Config.Cgroup).
package iscsi
