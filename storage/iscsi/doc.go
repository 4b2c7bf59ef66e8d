// Package iscsi is what a node wants of its iSCSI targets and what to do next to have it.
//
// ParseSAN reads the kernel parameter by which a node learns of its SAN before it has a ledger. Next is the
// reconciler: pure, from the wanted portals and the sessions seen to the next steps, with a back-off for each
// portal, so that a portal that is down costs the others nothing. Sessions reads from sysfs what the kernel has.
package iscsi
