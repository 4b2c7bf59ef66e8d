// Package network gives a node its place on the wire: Ethernet ports with an address each (Watch), one
// address that is the node's own whatever port is alive (Node), routes to its peers that move between the
// ports (Node.SetRoutes), and the sockets heartbeats travel on (OpenHeartbeats).
//
// # What it promises
//
//   - No port waits for another. All are brought up at once, each asks for its address alone, and one that
//     answers is enough to go on; the others join whenever they can, and Conditions says what each of them
//     waits for.
//   - A port that has an address keeps it while its lease lasts, with or without the server, over a pulled
//     cable and over a restart of the agent.
//   - Everything set in the kernel is reconciled: from whatever is there to what is wanted in one pass, and
//     nothing is touched that is already right. Only what is Skein's own is removed: routes carry Protocol,
//     the nftables table is named Table.
//
// # When things fail
//
// A port without carrier or without an answer keeps trying, with a back-off of at most 8 s between two
// attempts, for ever. A refused or expired lease takes the address away, as RFC 2131 demands, and starts
// again. A port that disappears is forgotten and found again when it is back. If a route to a peer cannot be
// set, the others are, and the error names the one.
package network
